#include <examples/common/text.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include <moe/core/error.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

double parse_duration(std::string_view text) {
  struct unit {
    std::string_view name;
    double seconds;
  };
  static constexpr unit units[] = {{"h", 3600}, {"ms", 1e-3}, {"m", 60}, {"s", 1}};
  double total = 0, last = 1e300;
  std::string_view rest = text;
  while (!rest.empty()) {
    double n = 0;
    auto const [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), n, std::chars_format::fixed);
    bool const number = status == std::errc() && end != rest.data() && n >= 0;
    if (number) rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    auto const* const u = std::find_if(std::begin(units), std::end(units), [&](unit const& x) { return rest.starts_with(x.name); });
    expects(number && u != std::end(units) && u->seconds < last, errc::bad_argument, "\"", text,
            "\" is no duration: needs a number and a unit, as in 90s, 10m, 1h30m");
    rest.remove_prefix(u->name.size());
    total = total + n * u->seconds;
    last = u->seconds;
  }
  expects(total > 0 && std::isfinite(total), errc::bad_argument, "\"", text, "\" is no duration: needs to be longer than 0, as in 90s, 10m, 1h30m");
  return total;
}

int edit_distance(std::string_view a, std::string_view b) {
  std::size_t const n = b.size();
  std::vector<int> before(n + 1), last(n + 1), now(n + 1);
  for (std::size_t j = 0; j <= n; ++j) last[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= n; ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[n];
}

std::string nearest(std::string_view name, std::vector<std::string> const& candidates) {
  std::string best;
  int distance = 1 << 20;
  for (auto const& c : candidates) {
    int const d = edit_distance(name, c);
    if (d < distance && d <= std::max(2, static_cast<int>(c.size()) / 3)) distance = d, best = c;
  }
  return best;
}

std::string thousands(std::int64_t n) {
  std::string digits = std::to_string(n < 0 ? -n : n);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<std::size_t>(i), ",");
  return n < 0 ? "-" + digits : digits;
}

std::string bytes_text(double bytes) {
  static constexpr char const* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int u = 0;
  for (; bytes >= 1024 && u < 4; ++u) bytes /= 1024;
  return fixed(bytes, u == 0 ? 0 : 1) + " " + units[u];
}

std::string duration_text(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 60) return fixed(seconds, 1) + " s";
  auto const s = static_cast<long long>(std::min(seconds, 1e15));
  char text[64];
  if (s < 3600) std::snprintf(text, sizeof text, "%lldm %02llds", s / 60, s % 60);
  else std::snprintf(text, sizeof text, "%lldh %02lldm", s / 3600, s / 60 % 60);
  return text;
}

std::string fixed(double x, int digits) {
  if (!std::isfinite(x)) return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
  char text[400];
  auto const [end, status] = std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, digits);
  return std::string(text, end);
}

std::string shortest(double x) {
  char text[64];
  return std::string(text, std::to_chars(text, text + sizeof text, x).ptr);
}

double parse_double(std::string_view text, std::string_view what) {
  double x = 0;
  auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), x);
  expects(status == std::errc() && end == text.data() + text.size() && !text.empty(), errc::bad_file, what, ": \"", text, "\" is not a number");
  return x;
}

std::int64_t parse_integer(std::string_view text, std::string_view what) {
  std::int64_t x = 0;
  auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), x);
  expects(status == std::errc() && end == text.data() + text.size() && !text.empty(), errc::bad_file, what, ": \"", text, "\" is not a whole number");
  return x;
}

}  // namespace trainer
