#pragma once
#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/random.hpp>
#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

/// 1 + epsilon (2 u - 1) of an element: rounded once to double, then to A.
template <class A>
MOE_HD A jitter_factor(double epsilon, std::uint64_t bits) {
  return static_cast<A>(madd(epsilon, madd(static_cast<double>(bits >> 11), 0x1p-52, -1.0), 1.0));  // the inner one is exact
}

/// random_stream::integer of as many neighbouring indices as a vector has lanes of 64 bits, the same numbers.
struct integer_lanes {
  static constexpr int width = vector_bytes / 8;
  typedef std::uint64_t vector __attribute__((vector_size(vector_bytes)));
  static MOE_INLINE vector of(random_stream const& random, std::uint64_t first) {
    vector index;
    for (int l = 0; l < width; ++l) index[l] = first + static_cast<std::uint64_t>(l);
    constexpr std::uint64_t word = 0xffffffffu;
    vector c[4] = {index & word, index >> 32, vector{} + random.step, vector{} + static_cast<std::uint64_t>(random.purpose)};
    auto low = static_cast<std::uint32_t>(random.seed), high = static_cast<std::uint32_t>(random.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      vector const a = c[0] * 0xD2511F53u, b = c[2] * 0xCD9E8D57u;
      c[0] = (b >> 32) ^ c[1] ^ std::uint64_t{low}, c[1] = b & word;
      c[2] = (a >> 32) ^ c[3] ^ std::uint64_t{high}, c[3] = a & word;
      low += 0x9E3779B9u, high += 0xBB67AE85u;
    }
    return (c[0] << 32) | c[1];
  }
};

inline void check_jitter(auto const& x, double epsilon, auto const& out) {
  check_matrix("jitter", "out", out, x.template extent<0>(), x.template extent<1>());
  expects(epsilon >= 0 && epsilon < 1, errc::bad_argument, "jitter: epsilon is ", epsilon, ", needs to be in [0, 1)");
}
}  // namespace detail

/// Multiplies each element by a random factor about 1, by which a router explores while it trains:
///   out[t, c] = x[t, c] (1 + epsilon (2 u - 1)),  u = random.uniform(t columns + c), so that the factor is uniform in [1 - epsilon, 1 + epsilon)
/// The factors depend on the stream and the place alone: the same call on the gradient of `out` gives that of x.
///
///   x        [tokens, columns]  in
///   epsilon                     in   in [0, 1); 0.01 in Switch transformers
///   random                      in   one for each step and layer: its purpose is routing_noise
///   out      [tokens, columns]  out  may be x itself
///
/// Edges   no elements write nothing. epsilon == 0 copies. NaN and infinity stay.
/// Throws  shape_mismatch if the extents differ, bad_argument for epsilon outside [0, 1).
/// Order   an element by itself: the factor is rounded to double and to accumulator<T>, the product to T. The same bits in every space.
/// Cost    ten rounds of philox an element; reads x, writes out.
/// Source  Fedus et al. 2021, arXiv:2101.03961, section 2.4 ("input jitter").
template <class T, index_t R, index_t C>
void jitter(cpu const& space, in<T, dyn, dyn> x, double epsilon, random_stream const& random, tensor<T, R, C> const& out) {
  using A = accumulator<T>;
  detail::check_jitter(x, epsilon, out);
  index_t const columns = x.template extent<1>();
  constexpr index_t width = detail::integer_lanes::width;
  parallel_for(space, x.template extent<0>(), 10.0 * static_cast<double>(columns), [&](index_t t) {
    T const* const from = x.row(t);
    T* const to = out.row(t);
    for (index_t c = 0; c < columns; c += width) {
      auto const bits = detail::integer_lanes::of(random, static_cast<std::uint64_t>(t * columns + c));
      for (index_t l = 0; l < width && c + l < columns; ++l)
        to[c + l] = T(product(static_cast<A>(from[c + l]), detail::jitter_factor<A>(epsilon, bits[static_cast<int>(l)])));
    }
  });
}

}  // namespace moe::inline MOE_ISA
