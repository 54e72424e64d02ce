#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA::detail {

/// Integers as wide as A, one per lane of simd<A>.
template <class A>
struct lane_integers {
  using integer = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;
  typedef integer vector __attribute__((vector_size(vector_bytes)));
  static MOE_INLINE vector all(integer x) { return x - vector{}; }
  static MOE_INLINE vector iota() {
    vector r{};
    for (int i = 0; i < simd<A>::width; ++i) r[i] = static_cast<integer>(i);
    return r;
  }
};

/// The first n logits at p; the other lanes -infinity, which neither a maximum nor a sum of exponentials notices.
template <class A, class T>
MOE_INLINE simd<A> load_logits(T const* p, index_t n) {
  using L = lane_integers<A>;
  if (n >= simd<A>::width) return simd<A>::load(p);
  simd<A> const x = simd<A>::load(p, n), lowest = simd<A>::all(-std::numeric_limits<A>::infinity());
  return {L::iota() < L::all(static_cast<typename L::integer>(n)) ? x.v : lowest.v};
}

/// The largest of n logits; NaN if one of them is NaN, -infinity if n is 0.
template <class A, class T>
A largest_logit(T const* row, index_t n) {
  simd<A> top = simd<A>::all(-std::numeric_limits<A>::infinity());
  for (index_t e = 0; e < n; e += simd<A>::width) top = max(top, load_logits<A>(row + e, n - e));
  return max(top);
}

/// sum_e exp(row[e] - top): one chain per lane, then the tree of sum(). NaN if top is NaN or infinite.
template <class A, class T>
A sum_of_exponentials(T const* row, index_t n, A top) {
  simd<A> s = simd<A>::zero();
  for (index_t e = 0; e < n; e += simd<A>::width) s = s + exp(load_logits<A>(row + e, n - e) - simd<A>::all(top));
  return sum(s);
}

}  // namespace moe::inline MOE_ISA::detail
