#include <moe/core/random.hpp>

#include "test/support.hpp"

TEST_CASE("philox: the known answers of the paper's reference implementation") {
  auto const zero = moe::philox({0, 0, 0, 0}, {0, 0});
  CHECK(zero == moe::random_words<4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  auto const ones = moe::philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff});
  CHECK(ones == moe::random_words<4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  auto const pi = moe::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
  CHECK(pi == moe::random_words<4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random_stream: a number depends on seed, purpose, step and index, and on nothing else") {
  moe::random_stream const a{1, moe::random_purpose::sampling, 3};
  CHECK(a.integer(7) == a.integer(7));
  CHECK(a.integer(7) != a.integer(8));
  CHECK(a.integer(7) != moe::random_stream{2, moe::random_purpose::sampling, 3}.integer(7));
  CHECK(a.integer(7) != moe::random_stream{1, moe::random_purpose::data_order, 3}.integer(7));
  CHECK(a.integer(7) != moe::random_stream{1, moe::random_purpose::sampling, 4}.integer(7));
}

TEST_CASE("random_stream: moments of uniform and normal numbers") {
  moe::random_stream const random{42, moe::random_purpose::test, 0};
  double sum = 0, square = 0, uniform = 0;
  int const n = 200000;
  for (std::uint64_t i = 0; i < n; ++i) {
    double const x = random.normal(i), u = random.uniform(i);
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    sum += x;
    square += x * x;
    uniform += u;
  }
  CHECK(std::abs(sum / n) < 4.0 / std::sqrt(n));
  CHECK(std::abs(square / n - 1.0) < 4.0 * std::sqrt(2.0 / n));
  CHECK(std::abs(uniform / n - 0.5) < 4.0 * std::sqrt(1.0 / 12.0 / n));
}
