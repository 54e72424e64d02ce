#pragma once
#include <charconv>
#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

#include <moe/core/macros.hpp>

namespace moe {

enum class errc { bad_argument, shape_mismatch, out_of_memory, bad_file, io, no_device, cuda, unsupported_machine };

/// The only exception the library throws: `code` is for programs, `what()` for people.
struct error : std::runtime_error {
  error(errc c, std::string const& what) : std::runtime_error(what), code(c) {}
  errc code;
};

}  // namespace moe

namespace moe::inline MOE_ISA {

/// Messages are put together without streams: <sstream>, and an operator<< for each argument of each check, cost every includer 0.3 s. They know no
/// locale.
namespace message {
inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char const* part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
inline void append(std::string& text, bool part) { text += part ? '1' : '0'; }
inline void append(std::string& text, double part) {
  char digits[32];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, part, std::chars_format::general, 6).ptr);
}
inline void append(std::string& text, float part) { append(text, static_cast<double>(part)); }
inline void append(std::string& text, long long part) { text += std::to_string(part); }
inline void append(std::string& text, unsigned long long part) { text += std::to_string(part); }
template <std::integral I>
void append(std::string& text, I part) {
  if constexpr (std::signed_integral<I>) append(text, static_cast<long long>(part));
  else append(text, static_cast<unsigned long long>(part));
}
}  // namespace message

/// Throws moe::error made of `parts`: strings, characters and numbers.
template <class... Parts>
[[noreturn]] void fail(errc code, Parts const&... parts) {
  std::string text;
  (message::append(text, parts), ...);
  throw error(code, text);
}

/// Throws moe::error made of `parts` unless `ok`.
template <class... Parts>
void expects(bool ok, errc code, Parts const&... parts) {
  if (ok) [[likely]]
    return;
  fail(code, parts...);
}

}  // namespace moe::inline MOE_ISA
