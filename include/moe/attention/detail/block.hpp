#pragma once
#include <type_traits>
#include <utility>

#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA::detail {

/// A panel is two vectors wide. Blocks of registers keep `rows` or `long_rows` times two accumulators, one row of two vectors and a broadcast: `rows`
/// divides a panel, so it is used where blocks meet the diagonal; `long_rows` is what fits.
template <class A>
struct attention_tile {
  static constexpr int width = simd<A>::width;
  static constexpr int panel = 2 * width;
#if defined(MOE_AVX512)
  static constexpr int rows = 8, long_rows = 12;
#elif defined(MOE_AVX2)
  static constexpr int rows = 4, long_rows = 6;
#else
  static constexpr int rows = 4, long_rows = 4;
#endif
};

/// The vector at column `begin` of a row of `Depth` elements; lanes beyond it are 0 and not read, or not written.
template <int Depth, class A, class T>
MOE_INLINE simd<A> load_part(T const* row, int begin) {
  if (begin + simd<A>::width <= Depth) return simd<A>::load(row + begin);
  return simd<A>::load(row + begin, Depth - begin);
}
template <int Depth, class A, class T>
MOE_INLINE void store_part(simd<A> x, T* row, int begin) {
  if (begin + simd<A>::width <= Depth) x.store(row + begin);
  else x.store(row + begin, Depth - begin);
}

/// Rows x Vectors running sums of a product, each element one chain of madd. Every loop over them is unrolled, so that they stay in registers from
/// the first step to the store.
template <int Rows, int Vectors, class A>
struct register_block {
  using V = simd<A>;
  V sum[Rows][Vectors];

  MOE_INLINE void clear() {
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i)
      MOE_UNROLL(2)
      for (int c = 0; c < Vectors; ++c) sum[i][c] = V::zero();
  }
  MOE_INLINE void load(A const* from, index_t stride) {
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i)
      MOE_UNROLL(2)
      for (int c = 0; c < Vectors; ++c) sum[i][c] = V::load(from + i * stride + c * V::width);
  }
  MOE_INLINE void store(A* to, index_t stride) const {
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i)
      MOE_UNROLL(2)
      for (int c = 0; c < Vectors; ++c) sum[i][c].store(to + i * stride + c * V::width);
  }
  /// Columns [column, Depth) of `count` rows of `Depth` elements, row i at to(i), divided by by[i].
  template <int Depth, class To>
  MOE_INLINE void divide_store(A const* by, index_t count, To const& to, int column) const {
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i)
      MOE_UNROLL(2)
      for (int c = 0; c < Vectors; ++c)
        if (i < count) store_part<Depth>(sum[i][c] / V::all(by[i]), to(i), column + c * V::width);
  }
  /// Rows [First, Last):  sum[i] = madd(a[i * Stride], b, sum[i]).
  template <int Stride, int First = 0, int Last = Rows>
  MOE_INLINE void step(A const* a, A const* b) {
    V row[Vectors];
    MOE_UNROLL(2)
    for (int c = 0; c < Vectors; ++c) row[c] = V::load(b + c * V::width);
    MOE_UNROLL(16)
    for (int i = First; i < Last; ++i) {
      V const x = V::all(a[i * Stride]);
      MOE_UNROLL(2)
      for (int c = 0; c < Vectors; ++c) sum[i][c] = madd(x, row[c], sum[i][c]);
    }
  }
  /// All rows, k ascending:  sum[i] = madd(a[i * Stride + k * Next], b[k], sum[i]).
  template <int Stride, int Next>
  MOE_INLINE void steps(index_t depth, A const* a, A const* b, index_t b_stride) {
    for (index_t k = 0; k < depth; ++k) step<Stride>(a + k * Next, b + k * b_stride);
  }
  /// Steps k = 1 .. Rows - 1, the rows from k on: at(k) points to row 0 of step k.
  template <int Stride, int K = 1, class At>
  MOE_INLINE void upper_steps(At const& at, A const* b, index_t b_stride) {
    if constexpr (K < Rows) {
      step<Stride, K, Rows>(at(K), b + K * b_stride);
      upper_steps<Stride, K + 1>(at, b, b_stride);
    }
  }
  /// Row i alone, steps `begin` .. end(i) - 1: at(k) points to row 0 of step k.
  template <int Stride, int I = 0, class End, class At>
  MOE_INLINE void row_steps(index_t begin, End const& end, At const& at, A const* b, index_t b_stride) {
    if constexpr (I < Rows) {
      for (index_t k = begin; k < end(I); ++k) step<Stride, I, I + 1>(at(k), b + k * b_stride);
      row_steps<Stride, I + 1>(begin, end, at, b, b_stride);
    }
  }
  /// Steps k = 0 .. min(Rows, depth) - 1, the rows up to k.
  template <int Stride, int Next, int K = 0>
  MOE_INLINE void lower_steps(index_t depth, A const* a, A const* b, index_t b_stride) {
    if constexpr (K < Rows) {
      if (K >= depth) return;
      step<Stride, 0, K + 1>(a + K * Next, b + K * b_stride);
      lower_steps<Stride, Next, K + 1>(depth, a, b, b_stride);
    }
  }
};

/// f(first vector, number of vectors), both constants, over `Vectors` vectors of a row: two at a time, then the odd one.
template <int Vectors, int First = 0, class F>
MOE_INLINE void for_each_column_block(F const& f) {
  if constexpr (First < Vectors) {
    f(std::integral_constant<int, First>{}, std::integral_constant<int, First + 2 <= Vectors ? 2 : 1>{});
    for_each_column_block<Vectors, First + 2>(f);
  }
}

/// s[i, j] = sum_k q[i, k] panel[k, j],  k ascending, for the first `Vectors` vectors of a panel.
///   q      [Rows, QStride], `Depth` columns of it
///   panel  [Depth, attention_tile::panel]   packed by pack_panel
///   s      [Rows, attention_tile::panel]
template <int Rows, int Vectors, int Depth, int QStride, class A>
inline void attention_scores(A const* q, A const* panel, A* s) {
  register_block<Rows, Vectors, A> block;
  block.clear();
  block.template steps<QStride, 1>(Depth, q, panel, attention_tile<A>::panel);
  block.store(s, attention_tile<A>::panel);
}

}  // namespace moe::inline MOE_ISA::detail
