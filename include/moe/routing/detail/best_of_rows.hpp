#pragma once
#include <moe/routing/detail/row_group.hpp>

namespace moe::inline MOE_ISA::detail {

/// The K best of the values that a lane has seen, best first, and where it saw them: larger first, then the earlier.
template <int K, class Values, class A>
struct k_best {
  using places = typename lane_integers<A>::vector;
  Values value[K];
  places where[K];

  /// `none` is a vector of values that are not at least as large as any candidate.
  explicit MOE_INLINE k_best(Values none) {
    for (int j = 0; j < K; ++j) value[j] = none, where[j] = places{};
  }
  /// A candidate that comes behind all those seen.
  MOE_INLINE void see(Values x, places at) { insert<K - 1>(x, at, value[K - 1] >= x); }

 private:
  /// `stays`: where place J keeps what it has. Else it takes the candidate, or what the place before gives up.
  template <int J, class Mask>
  MOE_INLINE void insert(Values x, places at, Mask stays) {
    if constexpr (J == 0) {
      value[0] = stays ? value[0] : x;
      where[0] = stays ? where[0] : at;
    } else {
      Mask const earlier_stays = value[J - 1] >= x;
      value[J] = stays ? value[J] : earlier_stays ? x : value[J - 1];
      where[J] = stays ? where[J] : earlier_stays ? at : where[J - 1];
      insert<J - 1>(x, at, earlier_stays);
    }
  }
};

/// Integers that compare as logits rank: NaN above all, -0 equal to 0. `lowest` is below them all.
template <class A>
struct ranking {
  using lanes = lane_integers<A>;
  using integer = typename lanes::integer;
  using vector = typename lanes::vector;
  static constexpr integer lowest = std::numeric_limits<integer>::min(), highest = std::numeric_limits<integer>::max();

  static MOE_INLINE vector flipped(vector bits) { return bits ^ ((bits >> (8 * sizeof(A) - 1)) & highest); }
  static MOE_INLINE vector keys(simd<A> x) {
    simd<A> const y = x + simd<A>::zero();                                               // -0 + 0 = 0
    return x.v != x.v ? lanes::all(highest) : flipped(__builtin_bit_cast(vector, y.v));  // negative numbers: the larger magnitude is the smaller
  }
  /// A logit with that key.
  static MOE_INLINE simd<A> logit(vector key) { return {__builtin_bit_cast(typename simd<A>::native, flipped(key))}; }
};

/// The K first logits of each row, and their experts, by the order of topk.
template <int K, class A>
struct chosen {
  using V = simd<A>;
  V logit[K];
  typename lane_integers<A>::vector expert[K];

  template <class T>
  chosen(row_group<A, T> const& rows, index_t experts) {
    if (!find_finite(rows, experts)) find(rows, experts);
  }

 private:
  /// False, with nothing of use, if a logit is NaN or infinite: this compares the logits themselves.
  template <class T>
  MOE_INLINE bool find_finite(row_group<A, T> const& rows, index_t experts) {
    using I = lane_integers<A>;
    k_best<K, typename V::native, A> best(V::all(std::numeric_limits<A>::quiet_NaN()).v);
    V zero[2] = {V::zero(), V::zero()}, column[V::width];
    auto at = I::all(0);
    for (index_t e = 0; e < experts; e += V::width) {
      rows.columns(e, experts, column);
      index_t const n = experts - e < V::width ? experts - e : V::width;
      for (index_t i = 0; i < n; ++i) {
        zero[0] = madd(column[i], V::zero(), zero[0]);  // NaN from the first logit on that is not finite
        best.see(column[i].v, at);
        at += 1;
      }
    }
    for (int j = 0; j < K; ++j) logit[j] = {best.value[j]}, expert[j] = best.where[j];
    return sum(zero[0]) == A(0);
  }
  template <class T>
  MOE_NOINLINE void find(row_group<A, T> const& rows, index_t experts) {
    using I = lane_integers<A>;
    using R = ranking<A>;
    k_best<K, typename I::vector, A> best(I::all(R::lowest));
    V column[V::width];
    auto at = I::all(0);
    for (index_t e = 0; e < experts; e += V::width) {
      rows.columns(e, experts, column);
      for (index_t i = 0; i < V::width && e + i < experts; ++i) {
        best.see(R::keys(column[i]), at);
        at += 1;
      }
    }
    for (int j = 0; j < K; ++j) logit[j] = R::logit(best.value[j]), expert[j] = best.where[j];
  }
};

}  // namespace moe::inline MOE_ISA::detail
