#include <moe/io/checksum.hpp>

#include "test/support.hpp"

TEST_CASE("fnv1a and crc64: published check values") {
  CHECK(moe::fnv1a("") == 0xcbf29ce484222325u);
  CHECK(moe::fnv1a("a") == 0xaf63dc4c8601ec8cu);
  CHECK(moe::fnv1a("foobar") == 0x85944171f73967e8u);
  CHECK(moe::crc64("123456789") == 0x995dc9bbdf1939fau);  // CRC-64/XZ
  CHECK(moe::crc64("") == 0u);
}

TEST_CASE("fnv1a and crc64: in parts as in one, at any cut and address") {
  std::string text;
  for (int i = 0; i < 61; ++i) text += static_cast<char>(i * 37);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    CHECK(moe::crc64(text.substr(cut), moe::crc64(text.substr(0, cut))) == moe::crc64(text));
    CHECK(moe::fnv1a(text.substr(cut), moe::fnv1a(text.substr(0, cut))) == moe::fnv1a(text));
  }
}

TEST_CASE("crc64: sees every flipped bit") {
  std::string text(100, '\0');
  std::uint64_t const sum = moe::crc64(text);
  for (std::size_t i = 0; i < 800; ++i) {
    text[i / 8] = static_cast<char>(1 << (i % 8));
    CHECK(moe::crc64(text) != sum);
    text[i / 8] = 0;
  }
}

TEST_CASE("hexadecimal: 16 digits") {
  CHECK(moe::hexadecimal(0) == "0000000000000000");
  CHECK(moe::hexadecimal(0xfedcba9876543210u) == "fedcba9876543210");
}
