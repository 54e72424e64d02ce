#pragma once
#include <moe/core/tensor.hpp>
#include <moe/routing/detail/softmax_row.hpp>

namespace moe::inline MOE_ISA::detail {

/// As many rows of logits as a vector has lanes: what is said of each of them is said by a lane, so that lanes need not be compared or added.
template <class A, class T>
struct row_group {
  static constexpr int width = simd<A>::width;
  T const* row[width];  ///< the last one again where there are fewer
  int rows;

  /// Those of the rows of `logits` from `first` on.
  row_group(tensor<T const, dyn, dyn> logits, index_t first)
      : rows(static_cast<int>(logits.template extent<0>() - first < width ? logits.template extent<0>() - first : width)) {
    for (int l = 0; l < width; ++l) row[l] = logits.row(first + (l < rows ? l : rows - 1));
  }
  /// The rows row_of(0), row_of(1), ... of which there are n, as far as lanes reach.
  template <class F>
  row_group(tensor<T const, dyn, dyn> logits, index_t n, F const& row_of) : rows(static_cast<int>(n < width ? n : width)) {
    for (int l = 0; l < width; ++l) row[l] = logits.row(row_of(l < rows ? l : rows - 1));
  }
  /// column[i] = logits e + i of all rows; those from `experts` on are not to be looked at.
  MOE_INLINE void columns(index_t e, index_t experts, simd<A> (&column)[width]) const {
    if (experts - e >= width)
      for (int l = 0; l < width; ++l) column[l] = simd<A>::load(row[l] + e);
    else
      for (int l = 0; l < width; ++l) column[l] = simd<A>::load(row[l] + e, experts - e);
    transpose(column);
  }
};

/// Of each row the number that its vector's lanes fold to, by the tree of halves of sum() and max().
template <class A, class F>
MOE_INLINE simd<A> folded(simd<A> (&of_row)[simd<A>::width], F const& f) {
  transpose(of_row);
  for (int half = simd<A>::width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) of_row[i] = f(of_row[i], of_row[i + half]);
  return of_row[0];
}
template <class A>
MOE_INLINE simd<A> sums(simd<A> (&of_row)[simd<A>::width]) {
  return folded(of_row, [](simd<A> x, simd<A> y) { return x + y; });
}

/// largest_logit of each row.
template <class A, class T>
MOE_INLINE simd<A> largest_logits(row_group<A, T> const& rows, index_t experts) {
  using V = simd<A>;
  V top[V::width];
  for (int l = 0; l < V::width; ++l) {
    top[l] = V::all(-std::numeric_limits<A>::infinity());
    for (index_t e = 0; e < experts; e += V::width) top[l] = max(top[l], load_logits<A>(rows.row[l] + e, experts - e));
  }
  return folded(top, [](V x, V y) { return max(x, y); });
}

/// sum_of_exponentials(row[l], top[l]) of each row, whose exponentials are given to keep(l, e, vector), 0 behind the last.
template <class A, class T, class F>
MOE_INLINE simd<A> sums_of_exponentials(row_group<A, T> const& rows, index_t experts, simd<A> top, F const& keep) {
  using V = simd<A>;
  V total[V::width];
  for (int l = 0; l < V::width; ++l) {
    V const shift = V::all(top[l]);
    total[l] = V::zero();
    for (index_t e = 0; e < experts; e += V::width) {
      V const x = exp(load_logits<A>(rows.row[l] + e, experts - e) - shift);
      keep(l, e, x);
      total[l] = total[l] + x;
    }
  }
  return sums(total);
}
template <class A, class T>
MOE_INLINE simd<A> sums_of_exponentials(row_group<A, T> const& rows, index_t experts, simd<A> top) {
  return sums_of_exponentials(rows, experts, top, [](int, index_t, simd<A>) {});
}
/// And they are kept in x, whose rows are whole vectors.
template <class A, class T>
MOE_INLINE simd<A> exponentials(row_group<A, T> const& rows, index_t experts, simd<A> top, matrix_view<A> x) {
  return sums_of_exponentials(rows, experts, top, [&](int l, index_t e, simd<A> y) { y.store(x.row(l) + e); });
}

}  // namespace moe::inline MOE_ISA::detail
