#pragma once
#include <moe/gemm/detail/micro_kernel.hpp>

namespace moe::inline MOE_ISA::detail {

/// A matrix of a product: element (i, j) stands at data[i * row_stride + j * column_stride]; with `row_index`, row i of the product is row
/// row_index[i] of the memory. One of the strides is 1.
template <class T>
struct operand {
  T const* data;
  index_t row_stride, column_stride;
  int const* row_index = nullptr;

  T const* row(index_t i) const { return data + (row_index != nullptr ? index_t{row_index[i]} : i) * row_stride; }
};

/// to[k, i] = row_i[k] for `count` rows, k < depth, rows of `to` being `width` long: a transposition in tiles that stay in L1.
template <class A, class T, class Row>
inline void pack_transposed(A* to, index_t width, index_t count, index_t depth, Row const& row) {
  constexpr index_t tile = 16;
  for (index_t k0 = 0; k0 < depth; k0 += tile) {
    index_t const k1 = std::min(depth, k0 + tile);
    for (index_t i = 0; i < count; ++i) {
      T const* from = row(i);
      for (index_t k = k0; k < k1; ++k) to[k * width + i] = static_cast<A>(from[k]);
    }
  }
}

/// Rows [first, first + count) and columns [k0, k0 + depth) of `a`, as [depth, count].
template <class A, class T>
inline void pack_rows(A* to, operand<T> const& a, index_t first, index_t count, index_t k0, index_t depth) {
  if (a.column_stride == 1) {
    pack_transposed<A, T>(to, count, count, depth, [&](index_t i) { return a.row(first + i) + k0; });
  } else {
    for (index_t k = 0; k < depth; ++k)
      for (index_t i = 0; i < count; ++i) to[k * count + i] = static_cast<A>(a.row(first + i)[(k0 + k) * a.column_stride]);
  }
}

/// Columns [first, first + count) of all `depth` rows of `b`, as [depth, block_columns], zero beyond `count`.
template <class A, class T>
inline void pack_columns(A* to, operand<T> const& b, index_t first, index_t count, index_t depth) {
  constexpr index_t width = block_columns<A>;
  using V = simd<A>;
  if (b.column_stride == 1) {
    for (index_t k = 0; k < depth; ++k) {
      T const* from = b.row(k) + first;
      for (index_t j = 0; j < width; j += V::width) V::load(from + j, count - j).store(to + k * width + j);
    }
    return;
  }
  if (count < width)
    for (index_t i = 0; i < depth * width; ++i) to[i] = A(0);
  pack_transposed<A, T>(to, width, count, depth, [&](index_t j) { return b.data + (first + j) * b.column_stride; });
}

}  // namespace moe::inline MOE_ISA::detail
