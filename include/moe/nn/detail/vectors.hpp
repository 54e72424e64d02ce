#pragma once
#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA::detail {

/// Calls f(c, n) for the vectors of [0, columns): n lanes from column c on. n is a constant where the vector is full, so that its loads need no test.
template <class A, class F>
MOE_INLINE void row_vectors(index_t columns, F const& f) {
  constexpr index_t W = simd<A>::width;
  index_t c = 0;
  for (; c + W <= columns; c += W) f(c, std::integral_constant<index_t, W>());
  if (c < columns) f(c, columns - c);
}

/// Calls f(i, c, n) for the vectors of all rows, rows in parallel; `work` is a rough count of operations per element.
template <class A, class F>
void matrix_vectors(cpu const& space, index_t rows, index_t columns, double work, F const& f) {
  parallel_for(space, rows, work * static_cast<double>(columns),
               [&](index_t i) { row_vectors<A>(columns, [&](index_t c, auto n) { f(i, c, n); }); });
}

/// Sum over a row: f(sum, c, n) returns sum plus what the n lanes from column c on add; missing lanes must add 0. Four sums take turns, a fixed tree
/// joins them: the order depends on the number of columns alone.
template <class A, class F>
MOE_INLINE A row_sum(index_t columns, F const& f) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  V s0 = V::zero(), s1 = s0, s2 = s0, s3 = s0;
  std::integral_constant<index_t, W> const full;
  index_t c = 0;
  for (; c + 4 * W <= columns; c += 4 * W) {
    s0 = f(s0, c, full);
    s1 = f(s1, c + W, full);
    s2 = f(s2, c + 2 * W, full);
    s3 = f(s3, c + 3 * W, full);
  }
  for (; c + W <= columns; c += W) s0 = f(s0, c, full);
  if (c < columns) s0 = f(s0, c, columns - c);
  return sum((s0 + s1) + (s2 + s3));
}

/// x in the first n lanes, 0 in the others.
template <class A>
MOE_INLINE simd<A> first_lanes(A x, index_t n) {
  simd<A> r = simd<A>::all(x);
  for (int i = 0; i < simd<A>::width; ++i) r.v[i] = i < n ? r.v[i] : A(0);
  return r;
}

template <class A>
MOE_INLINE simd<A> first_lanes(A x, std::integral_constant<index_t, simd<A>::width>) {
  return simd<A>::all(x);
}

inline constexpr index_t norm_chunk = 64;  ///< tokens whose weight gradients form one partial sum of a norm

/// to[c] += the sum over the rows of `partials`, in ascending order.
template <class A>
void add_row_sums(cpu const& space, matrix_view<A> partials, vector_view<A> to) {
  index_t const rows = partials.template extent<0>();
  parallel_chunks(space, to.size(), 256, static_cast<double>(rows), [&](index_t, index_t begin, index_t end) {
    row_vectors<A>(end - begin, [&](index_t c, auto n) {
      using V = simd<A>;
      V total = V::zero();
      for (index_t r = 0; r < rows; ++r) total = total + V::load(partials.row(r) + begin + c, n);
      (V::load(to.data() + begin + c, n) + total).store(to.data() + begin + c, n);
    });
  });
}

/// The next wider type, for the rare row whose squares overflow.
template <class A>
using wider = std::conditional_t<std::is_same_v<A, float>, double, long double>;

}  // namespace moe::inline MOE_ISA::detail
