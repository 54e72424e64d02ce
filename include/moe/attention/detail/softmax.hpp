#pragma once
#include <cmath>
#include <limits>

#include <moe/attention/detail/block.hpp>
#include <moe/core/buffer.hpp>

namespace moe::inline MOE_ISA::detail {

/// a where it is larger than b, else b, which is also what a NaN in a gives: the weight of a NaN is NaN whatever is subtracted from it, so the search
/// for the largest score need not see it. One instruction, where max() of simd.hpp takes four.
template <class A>
MOE_INLINE simd<A> larger(simd<A> a, simd<A> b) {
#if defined(MOE_AVX512) && defined(__clang__)
  if constexpr (std::same_as<A, float>) return {__builtin_ia32_maxps512(a.v, b.v, 4)};
  else return {__builtin_ia32_maxpd512(a.v, b.v, 4)};
#elif defined(MOE_AVX512) && !defined(__CUDACC__)
  if constexpr (std::same_as<A, float>) return {__builtin_ia32_maxps512_mask(a.v, b.v, b.v, all_floats, 4)};
  else return {__builtin_ia32_maxpd512_mask(a.v, b.v, b.v, all_doubles, 4)};
#elif defined(MOE_AVX2) && !defined(__CUDACC__)
  if constexpr (std::same_as<A, float>) return {__builtin_ia32_maxps256(a.v, b.v)};
  else return {__builtin_ia32_maxpd256(a.v, b.v)};
#else
  return {a.v > b.v ? a.v : b.v};
#endif
}

template <class A>
MOE_INLINE simd<A> lane_numbers() {
  alignas(alignment) static constexpr A index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return simd<A>::load(index);
}
template <class A>
MOE_INLINE simd<A> minus_infinity() {
  return simd<A>::all(-std::numeric_limits<A>::infinity());
}
/// x in lanes from n on, or in the first n lanes; -infinity in the others.
template <class A>
MOE_INLINE simd<A> lanes_from(simd<A> x, index_t n) {
  auto const inside = lane_numbers<A>().v >= simd<A>::all(static_cast<A>(n)).v;
  return {inside ? x.v : minus_infinity<A>().v};
}
template <class A>
MOE_INLINE simd<A> lanes_before(simd<A> x, index_t n) {
  auto const inside = lane_numbers<A>().v < simd<A>::all(static_cast<A>(n)).v;
  return {inside ? x.v : minus_infinity<A>().v};
}

/// The sum of a row's weights: chains over u mod 4, u ascending, then (0 + 2) + (1 + 3). Here one vector per chain, a row in each lane.
inline constexpr int weight_chains = 4;
template <class X>
MOE_INLINE X sum_of_chains(X const (&chain)[weight_chains]) {
  return (chain[0] + chain[2]) + (chain[1] + chain[3]);
}

/// s = exp(s - top) in place over the first `keys` rows of s, `stride` apart, for the queries in the lanes of one vector; returns the sums.
template <class A>
inline simd<A> softmax_columns(A* s, index_t stride, index_t keys, simd<A> top) {
  using V = simd<A>;
  V sums[weight_chains] = {V::zero(), V::zero(), V::zero(), V::zero()};
  auto const weigh = [&](int chain, A* at) {
    V const e = exp(V::load(at) - top);
    e.store(at);
    sums[chain] = sums[chain] + e;
  };
  index_t u = 0;
  for (; u + weight_chains <= keys; u += weight_chains) MOE_UNROLL(4)
  for (int j = 0; j < weight_chains; ++j) weigh(j, s + (u + j) * stride);
  MOE_UNROLL(4)
  for (int j = 0; j < weight_chains - 1; ++j)
    if (u + j < keys) weigh(j, s + (u + j) * stride);
  return sum_of_chains(sums);
}

}  // namespace moe::inline MOE_ISA::detail
