#pragma once
// Text made up for tests: words drawn from a small vocabulary of invented ones, with punctuation, digits and letters beyond ASCII.
#include <string>

#include <moe/core/random.hpp>

namespace test {

inline std::string made_up_text(std::size_t bytes, std::uint64_t seed = 1) {
  moe::random_stream const random{seed, moe::random_purpose::test, 9};
  moe::random_stream const spelling{0, moe::random_purpose::test, 11};
  constexpr char const* syllables[] = {"ba", "lo", "mi", "ner", "tu", "sha", "e", "or", "ing", "st", "\xc3\xa9", "\xe6\x96\x87"};
  constexpr char const* ends[] = {" ", " ", " ", " ", ", ", ".\n", "'s ", "  ", " 42 ", "\r\n\t", "\xc2\xa0", "--"};
  std::string text;
  for (std::uint64_t i = 0; text.size() < bytes; ++i) {
    std::uint64_t const word = random.below(2 * i, 1 + random.below(2 * i + 1, 300));  // small numbers often
    for (std::uint64_t s = 0; s <= word % 4; ++s) text += syllables[spelling.below(4 * word + s, 12)];
    text += ends[random.below(2 * i, 12 * 97) % 12];
  }
  text.resize(bytes);
  return text;
}
/// Any bytes at all, most of them not UTF-8; bytes that splitting treats specially come often.
inline std::string random_bytes(std::size_t bytes, std::uint64_t seed = 1) {
  moe::random_stream const random{seed, moe::random_purpose::test, 10};
  constexpr unsigned char special[] = {' ',  '\'', 's',  'l',  'e',  'r',  '\n', '\r', '0',  '!',
                                       0xc2, 0x85, 0xa0, 0xe1, 0x9a, 0x80, 0xe2, 0x81, 0x9f, 0xe3};
  std::string text;
  for (std::uint64_t i = 0; i < bytes; ++i) {
    auto const w = random.words(i);
    text += static_cast<char>(w[0] % 3 == 0 ? static_cast<unsigned char>(w[1]) : special[w[1] % sizeof special]);
  }
  return text;
}

}  // namespace test
