#pragma once
#include <charconv>
#include <string>
#include <string_view>

#include <moe/core/error.hpp>
#include <moe/io/detail/utf8.hpp>
#include <moe/io/json.hpp>

namespace moe::inline MOE_ISA {

/// Appends a document without white space. Reals are written with as many digits as reading them back to the same bits takes.
/// Throws bad_argument for a real that JSON has no number for.
inline void append_json(std::string& to, json_value const& v) {
  char digits[40];
  switch (v.type) {
    case json_value::kind::null:
      to += "null";
      break;
    case json_value::kind::boolean:
      to += v.boolean ? "true" : "false";
      break;
    case json_value::kind::integer:
      to.append(digits, std::to_chars(digits, digits + sizeof digits, v.integer).ptr);
      break;
    case json_value::kind::real: {
      expects(v.real - v.real == 0, errc::bad_argument, "json: a number to be written is not finite");
      std::string_view const text(digits, static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, v.real).ptr - digits));
      to += text;
      if (text.find_first_of(".e") == std::string_view::npos) to += ".0";  // stays a real
      break;
    }
    case json_value::kind::string:
      append_json_string(to, v.string);
      break;
    default: {
      bool const object = v.is(json_value::kind::object);
      to += object ? '{' : '[';
      for (std::size_t i = 0; i < v.items.size(); ++i) {
        if (i > 0) to += ',';
        if (object) append_json_string(to, v.keys[i]), to += ':';
        append_json(to, v.items[i]);
      }
      to += object ? '}' : ']';
    }
  }
}

}  // namespace moe::inline MOE_ISA
