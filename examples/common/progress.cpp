#include <examples/common/progress.hpp>

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>

#include <examples/common/text.hpp>

namespace trainer {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string progress_line(progress_values const& v) {
  char lr[32];
  std::snprintf(lr, sizeof lr, "%.2e", v.lr);
  std::string s = "step " + std::to_string(v.step) + "/" + std::to_string(v.total) + "  loss " + fixed(v.loss, 3) + "  " + fixed(v.bits_per_byte, 3) +
                  " bits/byte  " + thousands(static_cast<std::int64_t>(v.tokens_per_second)) + " tok/s  lr " + lr + "  |g| " +
                  fixed(v.gradient_norm, 2);
  if (v.load_max > 0) s += "  load " + fixed(v.load_min, 2) + ".." + fixed(v.load_max, 2) + "  dropped " + thousands(v.dropped);
  return s + "  " + duration_text(v.eta) + " left";
}

console::console(std::FILE* file) : file_(file), terminal_(isatty(fileno(file)) == 1) {}

void console::update(std::string const& line) {
  if (!terminal_ || (last_update_ >= 0 && now() - last_update_ < 0.2)) return;
  last_update_ = now();
  winsize size{};
  std::size_t const width = ioctl(fileno(file_), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
  std::fprintf(file_, "\r%s\x1b[K", line.substr(0, width).c_str());
  open_line_ = true;
  if (std::fflush(file_) != 0) broken_ = true;
}

void console::print(std::string const& line) {
  if (open_line_) std::fputs("\r\x1b[K", file_);
  open_line_ = false;
  std::fputs(line.c_str(), file_);
  std::fputc('\n', file_);
  if (std::fflush(file_) != 0 || std::ferror(file_) != 0) broken_ = true;
}

}  // namespace trainer
