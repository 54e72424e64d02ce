#include <moe/core/types.hpp>

#include "test/support.hpp"

namespace {

moe::bf16 of_bits(std::uint32_t bits) {
  moe::bf16 x;
  x.bits = static_cast<std::uint16_t>(bits);
  return x;
}
float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// The value that a bf16 pattern stands for, infinity standing for 2^128: the next value if the range went on. Finite and infinite patterns only.
double value_of(std::uint32_t bits) {
  double const magnitude = (bits & 0x7fffu) == 0x7f80u ? 0x1p128 : static_cast<double>(float_of((bits & 0x7fffu) << 16));
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}
/// Nearest pattern, ties to even, straight from the definition: x lies between the patterns `lower` and `lower` + 1.
std::uint32_t nearest(double x, std::uint32_t lower) {
  double const down = std::abs(x - value_of(lower)), up = std::abs(value_of(lower + 1) - x);
  return down < up || (down == up && lower % 2 == 0) ? lower : lower + 1;
}

}  // namespace

static_assert(sizeof(moe::bf16) == 2 && std::is_trivially_copyable_v<moe::bf16>);
static_assert(moe::storage<float> && moe::storage<double> && moe::storage<moe::bf16> && !moe::storage<int>);
static_assert(std::same_as<moe::accumulator<moe::bf16>, float> && std::same_as<moe::accumulator<moe::bf16 const>, float>);
static_assert(std::same_as<moe::accumulator<float>, float> && std::same_as<moe::accumulator<double const>, double>);

TEST_CASE("bf16: all 65536 patterns survive the way through float and double") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    float const x = of_bits(bits);
    if (std::isnan(x)) {
      REQUIRE(moe::bf16(x).bits == (bits | 0x40u));  // quiet, its other bits kept
      REQUIRE(std::isnan(static_cast<float>(moe::bf16(static_cast<double>(x)))));
    } else {
      REQUIRE(moe::bf16(x).bits == bits);
      REQUIRE(moe::bf16(static_cast<double>(x)).bits == bits);
    }
  }
}

TEST_CASE("bf16: a float rounds to the nearest pattern, ties to even, beyond the last one to infinity") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7fffu) >= 0x7f80u) continue;  // infinities and NaN: above
    for (std::uint32_t low : {0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      float const x = float_of(bits << 16 | low);
      REQUIRE(moe::bf16(x).bits == nearest(x, bits));
    }
  }
}

TEST_CASE("bf16: a double is rounded once, not to float first") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7fffu) >= 0x7f80u) continue;
    double const a = value_of(bits), b = value_of(bits + 1), middle = a + (b - a) / 2;
    REQUIRE(moe::bf16(middle).bits == nearest(middle, bits));
    for (double to : {a, b}) {
      double const x = std::nextafter(middle, to);
      REQUIRE(moe::bf16(x).bits == nearest(x, bits));
    }
  }
  CHECK(moe::bf16(1e300).bits == 0x7f80);
  CHECK(moe::bf16(-1e300).bits == 0xff80);
  CHECK(moe::bf16(1e-300).bits == 0);
  CHECK(moe::bf16(-1e-300).bits == 0x8000);
}

TEST_CASE("bf16: a NaN whose payload lies in the lower half stays a NaN") {
  for (std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7f80ffffu, 0x7fffffffu, 0xffffffffu})
    CHECK(std::isnan(static_cast<float>(moe::bf16(float_of(bits)))));
}

TEST_CASE("dtype_name: what a safetensors file says") {
  CHECK(moe::dtype_name<float>() == "F32");
  CHECK(moe::dtype_name<double>() == "F64");
  CHECK(moe::dtype_name<moe::bf16>() == "BF16");
}
