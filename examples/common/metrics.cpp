#include <examples/common/metrics.hpp>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include <sys/stat.h>

#include <examples/common/svg_plot.hpp>
#include <examples/common/text.hpp>
#include <moe/io/atomic_file.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

std::string metrics_header() {
  return "step,loss [nats/token],train [bits/byte],held-out sample [bits/byte],learning rate,gradient norm,balance loss,z loss,"
         "lowest load [of mean],highest load [of mean],router entropy [nats],dropped [tokens],speed [tokens/s],time [s]\n";
}

std::string metrics_row(step_metrics const& m) {
  auto const cell = [](double x, int digits) { return std::isnan(x) ? std::string() : fixed(x, digits); };
  auto const exact = [](double x) { return std::isnan(x) ? std::string() : shortest(x); };
  return std::to_string(m.step) + "," + exact(m.loss) + "," + cell(m.bits_per_byte, 5) + "," + cell(m.held_out, 5) + "," + exact(m.lr) + "," +
         exact(m.gradient_norm) + "," + cell(m.balance, 6) + "," + cell(m.z, 6) + "," + cell(m.load_min, 3) + "," + cell(m.load_max, 3) + "," +
         cell(m.entropy, 4) + "," + std::to_string(m.dropped) + "," + cell(m.tokens_per_second, 0) + "," + cell(m.seconds, 2) + "\n";
}

std::vector<step_metrics> parse_metrics(std::string const& text, std::string const& source) {
  std::vector<step_metrics> rows;
  std::size_t line = 1;
  for (std::size_t at = text.find('\n'), end; at != std::string::npos && (end = text.find('\n', at + 1)) != std::string::npos; at = end) {
    std::string const where = source + ": line " + std::to_string(++line);
    std::vector<std::string> cells;
    for (std::size_t b = at + 1, e; b <= end; b = e + 1) {
      e = std::min(text.find(',', b), end);
      cells.push_back(text.substr(b, e - b));
    }
    if (cells.size() == 13) cells.emplace(cells.begin() + 10);  // those without are of a time when the entropy was not measured
    expects(cells.size() == 14, errc::bad_file, where, " has ", cells.size(), " cells, needs 14");
    auto const real = [&](std::size_t i) { return cells[i].empty() ? std::numeric_limits<double>::quiet_NaN() : parse_double(cells[i], where); };
    step_metrics m;
    m.step = parse_integer(cells[0], where), m.dropped = parse_integer(cells[11], where);
    m.loss = real(1), m.bits_per_byte = real(2), m.held_out = real(3), m.lr = real(4), m.gradient_norm = real(5), m.balance = real(6), m.z = real(7);
    m.load_min = real(8), m.load_max = real(9), m.entropy = real(10), m.tokens_per_second = real(12), m.seconds = real(13);
    rows.push_back(m);
  }
  return rows;
}

metrics_log::metrics_log(std::string path, index_t last_step) : path_(std::move(path)) {
  struct stat info {};
  if (last_step > 0 && stat(path_.c_str(), &info) == 0)
    for (step_metrics const& m : parse_metrics(moe::read_file(path_), path_))
      if (m.step <= last_step) all_.push_back(m);
  file_ = std::fopen(path_.c_str(), "w");
  expects(file_ != nullptr, errc::io, path_, ": ", std::strerror(errno));
  std::fputs(metrics_header().c_str(), file_);
  for (step_metrics const& m : all_) std::fputs(metrics_row(m).c_str(), file_);
  flush();
}

metrics_log::~metrics_log() {
  if (file_ != nullptr) std::fclose(file_);
}

void metrics_log::add(step_metrics const& m) {
  all_.push_back(m);
  if (std::fputs(metrics_row(m).c_str(), file_) < 0 && failed_.empty()) failed_ = path_ + ": " + std::strerror(errno);
}

void metrics_log::flush() {
  if (std::fflush(file_) != 0 && failed_.empty()) failed_ = path_ + ": " + std::strerror(errno);
}

std::string loss_plot(std::string const& title, std::vector<step_metrics> const& rows, double xz) {
  plot_series train{"training", {}, false}, held{"held-out sample", {}, true};
  for (step_metrics const& m : rows) {
    train.points.emplace_back(static_cast<double>(m.step), m.bits_per_byte);
    held.points.emplace_back(static_cast<double>(m.step), m.held_out);
  }
  std::vector<plot_level> levels;
  if (xz > 0) levels.push_back({"xz -9: " + fixed(xz, 3), xz});
  return svg_plot({title, "step", "bits per byte"}, {train, held}, levels);
}

}  // namespace trainer
