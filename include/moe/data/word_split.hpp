#pragma once
#include <cstdint>
#include <string_view>

#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

/// The rule of split_words as the regular expression that a tokenizer.json declares; Hugging Face's tokenizers, executing it, finds the same words.
inline constexpr std::string_view word_pattern =
    R"('(?:[sdmt]|ll|ve|re)| ?[A-Za-z\x{80}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E})"
    R"(\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF}]+| ?[0-9]+| ?[\x{00}-\x{08}\x{0E}-\x{1F}!-/:-@\[-`{-\x{7F}]+)"
    R"(|[\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]+)"
    R"((?![^\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]))"
    R"(|[\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]+)";

namespace detail {
enum class character : unsigned char { space, letter, digit, other };

/// Bytes of the white space that starts at text[i]; 0 if none does. These are the code points with Unicode's property White_Space.
inline std::size_t white_space(std::string_view text, std::size_t i) {
  auto const byte = [&](std::size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
  unsigned const a = byte(0);
  if (a < 0x80) return a == ' ' || (a >= '\t' && a <= '\r') ? 1 : 0;
  unsigned const b = byte(1), c = byte(2);
  if (a == 0xc2) return b == 0x85 || b == 0xa0 ? 2 : 0;
  if (a == 0xe1) return b == 0x9a && c == 0x80 ? 3 : 0;
  if (a == 0xe2 && b == 0x80) return (c >= 0x80 && c <= 0x8a) || c == 0xa8 || c == 0xa9 || c == 0xaf ? 3 : 0;
  if (a == 0xe2) return b == 0x81 && c == 0x9f ? 3 : 0;
  return a == 0xe3 && b == 0x80 && c == 0x80 ? 3 : 0;
}
inline character character_at(std::string_view text, std::size_t i) {
  auto const c = static_cast<unsigned char>(text[i]);
  if (c >= 0x80) return white_space(text, i) > 0 ? character::space : character::letter;
  if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') return character::letter;
  if (c >= '0' && c <= '9') return character::digit;
  return c == ' ' || (c >= '\t' && c <= '\r') ? character::space : character::other;
}
/// Length of 's 'd 'm 't 'll 've 're at the front of the text, else 0.
inline std::size_t contraction(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  char const a = text[1], b = text.size() > 2 ? text[2] : '\0';
  if (a == 's' || a == 'd' || a == 'm' || a == 't') return 2;
  return (a == 'l' && b == 'l') || ((a == 'v' || a == 'r') && b == 'e') ? 3 : 0;
}
/// End of the word that starts at text[begin].
inline std::size_t word_end(std::string_view text, std::size_t begin) {
  if (std::size_t const n = contraction(text.substr(begin, 3))) return begin + n;
  std::size_t i = begin + (text[begin] == ' ' && begin + 1 < text.size() ? 1 : 0);
  if (character const kind = character_at(text, i); kind != character::space) {
    for (++i; i < text.size() && character_at(text, i) == kind;) ++i;
    return i;
  }
  std::size_t last = begin;
  for (i = begin; i < text.size();) {
    std::size_t const n = white_space(text, i);
    if (n == 0) break;
    last = i;
    i += n;
  }
  return i == text.size() || last == begin ? i : last;  // the last space goes with the word behind it
}
}  // namespace detail

/// Calls f(word) for the words that byte-pair encoding does not merge across; together they are the text. The rule is GPT-2's, with every code point
/// above 127 that is not white space counted as a letter: contractions ('s 'd 'm 't 'll 've 're); runs of letters, of digits, or of other
/// characters, each with the one space before it; white space, whose last character is left to the word behind it if there is more than one.
/// Any bytes are accepted; those that are not UTF-8 count as letters. Linear in the text.
template <class F>
void split_words(std::string_view text, F&& f) {
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t const end = detail::word_end(text, begin);
    f(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace moe::inline MOE_ISA
