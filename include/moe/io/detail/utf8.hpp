#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include <moe/core/error.hpp>
#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

/// The code point that starts at text[at], and `at` moved behind it; -1, and `at` left alone, where the bytes are not strict UTF-8 (overlong forms,
/// surrogates and anything above U+10FFFF are not).
inline std::int32_t next_code_point(std::string_view text, std::size_t& at) {
  auto const byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  unsigned const first = byte(at);
  if (at >= text.size()) return -1;
  if (first < 0x80) return ++at, static_cast<std::int32_t>(first);
  std::size_t const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return -1;
  std::int32_t code = static_cast<std::int32_t>(first & (0x7fu >> length));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0u) != 0x80u) return -1;
    code = (code << 6) | static_cast<std::int32_t>(byte(at + i) & 0x3fu);
  }
  constexpr std::int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return -1;
  at += length;
  return code;
}

inline void append_utf8(std::string& to, std::int32_t code) {
  auto const put = [&](std::int32_t byte) { to.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | (code >> 6));
  } else {
    if (code < 0x10000) put(0xe0 | (code >> 12));
    else put(0xf0 | (code >> 18)), put(0x80 | ((code >> 12) & 0x3f));
    put(0x80 | ((code >> 6) & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

/// Appends a string in quotes, escaped where JSON asks for it. Throws bad_argument if it is not UTF-8.
inline void append_json_string(std::string& to, std::string_view text) {
  to.push_back('"');
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const begin = at;
    std::int32_t const code = next_code_point(text, at);
    expects(code >= 0, errc::bad_argument, "json: a string to be written has invalid UTF-8 at byte ", at);
    if (code == '"' || code == '\\') (to += '\\') += static_cast<char>(code);
    else if (code < 0x20 || code == 0x7f) ((to += "\\u00") += "0123456789abcdef"[code >> 4]) += "0123456789abcdef"[code & 15];
    else to.append(text, begin, at - begin);
  }
  to.push_back('"');
}

/// For messages: in quotes, escaped, at most `limit` bytes of it, invalid UTF-8 as '?'.
inline std::string quoted(std::string_view text, std::size_t limit = 200) {
  std::string valid, result;
  for (std::size_t at = 0; at < text.size() && at < limit;) {
    std::int32_t const code = next_code_point(text, at);
    if (code < 0) ++at, valid.push_back('?');
    else append_utf8(valid, code);
  }
  append_json_string(result, valid);
  if (text.size() > limit) result += "...";
  return result;
}

}  // namespace moe::inline MOE_ISA
