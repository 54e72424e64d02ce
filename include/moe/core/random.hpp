#pragma once
#include <cmath>
#include <cstdint>
#include <numbers>

#include <moe/core/math.hpp>

namespace moe::inline MOE_ISA {

/// What random numbers are drawn for: two purposes never share a number.
enum class random_purpose : std::uint32_t { initialisation = 1, data_order = 2, sampling = 3, routing_noise = 4, test = 5 };

/// N words; std::array's operator[] is a host function to nvcc.
template <int N>
struct random_words {
  std::uint32_t word[N];
  MOE_HD std::uint32_t operator[](int i) const { return word[i]; }
  MOE_HD std::uint32_t& operator[](int i) { return word[i]; }
  friend bool operator==(random_words const&, random_words const&) = default;
};

/// Philox4x32-10: a bijection of 128-bit counters keyed by 64 bits. No state, so a number depends on what it is for and on nothing else.
/// Source  Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
MOE_HD inline random_words<4> philox(random_words<4> counter, random_words<2> key) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53u} * counter[0], b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Random numbers keyed by (seed, purpose, step, index): the same for any order, number of threads, or restart.
struct random_stream {
  std::uint64_t seed = 0;
  random_purpose purpose = random_purpose::test;
  std::uint32_t step = 0;

  /// Four independent words.
  MOE_HD random_words<4> words(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), step, static_cast<std::uint32_t>(purpose)},
                  {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }
  MOE_HD std::uint64_t integer(std::uint64_t index) const {
    auto const w = words(index);
    return (std::uint64_t{w[0]} << 32) | w[1];
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const { return static_cast<double>(integer(index) >> 11) * 0x1p-53; }
  /// Uniform in [0, n) for n >= 1; the bias is below n / 2^64.
  std::uint64_t below(std::uint64_t index, std::uint64_t n) const {
    return integer(index) % n;
  }
  /// Standard normal, by Box and Muller.
  double normal(std::uint64_t index) const {
    auto const w = words(index);
    double const u = (static_cast<double>(((std::uint64_t{w[0]} << 32) | w[1]) >> 11) + 1.0) * 0x1p-53;  // (0, 1]
    double const v = static_cast<double>(((std::uint64_t{w[2]} << 32) | w[3]) >> 11) * 0x1p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }
};

}  // namespace moe::inline MOE_ISA
