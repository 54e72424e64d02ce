#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

/// FNV-1a, 64 bits: names a text. `state` continues an earlier call.
inline std::uint64_t fnv1a(std::string_view text, std::uint64_t state = 0xcbf29ce484222325u) {
  for (char const c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return state;
}

namespace detail {
struct crc64_tables {
  std::uint64_t of[8][256];
};
inline crc64_tables const& crc64_table() {
  static crc64_tables const tables = [] {
    crc64_tables t;
    for (std::uint64_t i = 0; i < 256; ++i) {
      std::uint64_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0xc96c5795d7870f42u : 0u);
      t.of[0][i] = c;
    }
    for (std::size_t k = 1; k < 8; ++k)
      for (std::size_t i = 0; i < 256; ++i) t.of[k][i] = (t.of[k - 1][i] >> 8) ^ t.of[0][t.of[k - 1][i] & 255];
    return t;
  }();
  return tables;
}
}  // namespace detail

/// CRC-64 with the polynomial of ECMA-182, reflected, as in the xz format: sees every change within any 64 neighbouring bits, so every flipped
/// bit. `state` continues an earlier call. Eight bytes per step.
inline std::uint64_t crc64(void const* data, std::size_t bytes, std::uint64_t state = 0) {
  auto const& t = detail::crc64_table().of;
  auto const* p = static_cast<unsigned char const*>(data);
  std::uint64_t c = ~state;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    std::uint64_t sum = 0;
    for (unsigned k = 0; k < 8; ++k) sum ^= t[7 - k][((c >> (8 * k)) & 255) ^ p[k]];
    c = sum;
  }
  for (; bytes > 0; --bytes, ++p) c = t[0][(c ^ *p) & 255] ^ (c >> 8);
  return ~c;
}
inline std::uint64_t crc64(std::string_view text, std::uint64_t state = 0) { return crc64(text.data(), text.size(), state); }

/// 16 hexadecimal digits.
inline std::string hexadecimal(std::uint64_t x) {
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; x >>= 4) text[i] = "0123456789abcdef"[x & 15];
  return text;
}

}  // namespace moe::inline MOE_ISA
