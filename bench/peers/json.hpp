#pragma once
// Enough JSON to write results: objects whose members are added in order.
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

class json {
 public:
  json& add(std::string_view name, double value) { return raw(name, number(value)); }
  json& add(std::string_view name, std::string_view value) { return raw(name, quoted(value)); }
  json& add(std::string_view name, char const* value) { return raw(name, quoted(value)); }
  json& add(std::string_view name, json const& value) { return raw(name, value.text()); }
  json& add(std::string_view name, std::vector<json> const& values, std::string_view between = ", ") {
    std::string list;
    for (json const& v : values) (list += list.empty() ? std::string_view() : between) += v.text();
    return raw(name, "[" + list + "]");
  }
  json& add(std::string_view name, std::initializer_list<double> values) {
    std::string list;
    for (double v : values) (list += list.empty() ? "" : ", ") += number(v);
    return raw(name, "[" + list + "]");
  }
  /// Names and values in turn.
  template <class V, class... Rest>
  json& set(std::string_view name, V const& value, Rest const&... rest) {
    add(name, value);
    if constexpr (sizeof...(rest) > 0) set(rest...);
    return *this;
  }
  std::string text() const { return "{" + members_ + "}"; }

 private:
  json& raw(std::string_view name, std::string_view value) {
    if (!members_.empty()) members_ += ", ";
    (members_ += quoted(name)) += ": ";
    members_ += value;
    return *this;
  }
  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", value);
    return std::isfinite(value) ? text : "null";
  }
  static std::string quoted(std::string_view s) {
    std::string q = "\"";
    for (char c : s) {
      if (c == '"' || c == '\\') q += '\\';
      q += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
    return q + "\"";
  }
  std::string members_;
};

}  // namespace bench
