#include <examples/common/svg_plot.hpp>

#include <algorithm>
#include <cmath>

#include <examples/common/text.hpp>

namespace trainer {
namespace {

constexpr double width = 860, height = 480, left = 72, right = 24, top = 44, bottom = 58;
constexpr char const* colours[] = {"#1f6fb4", "#d1495b", "#3a7d44", "#8e5ea2"};

std::string escaped(std::string const& text) {
  std::string s;
  for (char c : text) {
    if (c == '&') s += "&amp;";
    else if (c == '<') s += "&lt;";
    else if (c == '>') s += "&gt;";
    else if (c == '"') s += "&quot;";
    else s += c;
  }
  return s;
}

/// The finite points; many of them averaged in equal groups.
std::vector<std::pair<double, double>> thinned(plot_series const& s) {
  std::vector<std::pair<double, double>> finite, few;
  for (auto const& p : s.points)
    if (std::isfinite(p.first) && std::isfinite(p.second)) finite.push_back(p);
  std::size_t const group = (finite.size() + 999) / 1000;
  for (std::size_t i = 0; i < finite.size(); i += group) {
    std::size_t const n = std::min(group, finite.size() - i);
    double x = 0, y = 0;
    for (std::size_t j = 0; j < n; ++j) x += finite[i + j].first, y += finite[i + j].second;
    few.emplace_back(x / static_cast<double>(n), y / static_cast<double>(n));
  }
  return few;
}

struct range {
  double low = 1e300, high = -1e300;
  void include(double x) { low = std::min(low, x), high = std::max(high, x); }
  bool empty() const { return low > high; }
};

std::string tick_text(double value, double step) {
  if (std::abs(value) >= 1e15 || (value != 0 && step < 1e-9)) return shortest(value);
  int digits = 0;
  for (double s = step; digits < 12 && std::abs(s - std::round(s)) > 1e-6 * s; s *= 10) ++digits;
  return digits == 0 ? thousands(static_cast<std::int64_t>(std::llround(value))) : fixed(value, digits);
}

/// Maps data to pixels and writes the elements.
class canvas {
 public:
  canvas(std::vector<double> xt, std::vector<double> yt) : xt_(std::move(xt)), yt_(std::move(yt)) {}
  double x(double v) const { return left + (v - xt_.front()) / (xt_.back() - xt_.front()) * (width - left - right); }
  double y(double v) const { return height - bottom - (v - yt_.front()) / (yt_.back() - yt_.front()) * (height - top - bottom); }

  static std::string text(double px, double py, std::string const& anchor, std::string const& s, std::string const& extra = "") {
    return "<text x=\"" + fixed(px, 1) + "\" y=\"" + fixed(py, 1) + "\" text-anchor=\"" + anchor + "\"" + extra + ">" + escaped(s) + "</text>\n";
  }
  static std::string line(double x1, double y1, double x2, double y2, std::string const& style) {
    return "<line x1=\"" + fixed(x1, 1) + "\" y1=\"" + fixed(y1, 1) + "\" x2=\"" + fixed(x2, 1) + "\" y2=\"" + fixed(y2, 1) + "\" " + style + "/>\n";
  }
  std::string axes() const {
    std::string s;
    for (double v : xt_) {
      s += line(x(v), top, x(v), height - bottom, "stroke=\"#e6e6e6\"") + line(x(v), height - bottom, x(v), height - bottom + 5, "stroke=\"#333\"");
      s += text(x(v), height - bottom + 20, "middle", tick_text(v, xt_[1] - xt_[0]));
    }
    for (double v : yt_) {
      s += line(left, y(v), width - right, y(v), "stroke=\"#e6e6e6\"") + line(left - 5, y(v), left, y(v), "stroke=\"#333\"");
      s += text(left - 9, y(v) + 4, "end", tick_text(v, yt_[1] - yt_[0]));
    }
    return s + line(left, height - bottom, width - right, height - bottom, "stroke=\"#333\"") +
           line(left, top, left, height - bottom, "stroke=\"#333\"");
  }
  std::string path(std::vector<std::pair<double, double>> const& points, std::string const& colour, bool marks) const {
    std::string s =
        "<polyline fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"" + (marks ? "2" : "1.4") + "\" stroke-linejoin=\"round\" points=\"";
    for (auto const& [px, py] : points) s += fixed(x(px), 1) + "," + fixed(y(py), 1) + " ";
    s += "\"/>\n";
    for (auto const& [px, py] : points)
      if (marks || points.size() == 1)
        s += "<circle cx=\"" + fixed(x(px), 1) + "\" cy=\"" + fixed(y(py), 1) + "\" r=\"3\" fill=\"" + colour + "\"/>\n";
    return s;
  }

 private:
  std::vector<double> xt_, yt_;
};

}  // namespace

std::vector<double> round_ticks(double low, double high, int count) {
  if (!(high > low)) high = low + std::max(1e-9, std::abs(low) * 0.1), low = low - std::max(1e-9, std::abs(low) * 0.1);
  double const raw = (high - low) / std::max(1, count), power = std::pow(10.0, std::floor(std::log10(raw)));
  double const m = raw / power, step = power * (m <= 1.0001 ? 1 : m <= 2.0001 ? 2 : m <= 5.0001 ? 5 : 10);
  auto const first = static_cast<long long>(std::floor(low / step + 1e-9)), last = static_cast<long long>(std::ceil(high / step - 1e-9));
  std::vector<double> ticks;
  for (long long i = first; i <= std::max(last, first + 1); ++i) ticks.push_back(static_cast<double>(i) * step);
  return ticks;
}

std::string svg_plot(plot_text const& text, std::vector<plot_series> const& series, std::vector<plot_level> const& levels) {
  range xs, ys;
  std::vector<std::vector<std::pair<double, double>>> lines;
  for (auto const& s : series) {
    lines.push_back(thinned(s));
    for (auto const& [x, y] : lines.back()) xs.include(x), ys.include(y);
  }
  bool const empty = xs.empty();
  if (empty) xs.include(0), xs.include(1), ys.include(0), ys.include(1);
  for (auto const& l : levels)
    if (std::isfinite(l.y)) ys.include(l.y);
  canvas const c(round_ticks(xs.low, xs.high, 8), round_ticks(ys.low, ys.high, 7));

  std::string s =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"480\" viewBox=\"0 0 860 480\" font-family=\"sans-serif\" font-size=\"12\" "
      "fill=\"#333\">\n";
  s += "<rect width=\"860\" height=\"480\" fill=\"#fff\"/>\n" + c.axes();
  s += canvas::text(width / 2, 26, "middle", text.title, " font-size=\"16\"") +
       canvas::text((left + width - right) / 2, height - 14, "middle", text.x_label);
  double const middle = (top + height - bottom) / 2;
  s += canvas::text(18, middle, "middle", text.y_label, " transform=\"rotate(-90 18 " + fixed(middle, 1) + ")\"");
  if (empty) s += canvas::text(width / 2, middle, "middle", "no points yet");
  for (auto const& l : levels)
    if (std::isfinite(l.y))
      s += canvas::line(left, c.y(l.y), width - right, c.y(l.y), "stroke=\"#777\" stroke-dasharray=\"6 4\"") +
           canvas::text(left + 8, c.y(l.y) - 5, "start", l.name, " fill=\"#777\"");
  double legend = top + 16;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    std::string const colour = colours[i % std::size(colours)];
    s += c.path(lines[i], colour, series[i].marks);
    s += canvas::line(width - right - 190, legend - 4, width - right - 164, legend - 4, "stroke=\"" + colour + "\" stroke-width=\"2.5\"");
    s += canvas::text(width - right - 156, legend, "start", series[i].name);
    legend += 18;
  }
  return s + "</svg>\n";
}

}  // namespace trainer
