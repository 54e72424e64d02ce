#pragma once
#include <moe/gemm/detail/micro_kernel.hpp>

namespace moe::inline MOE_ISA::detail {

/// A matrix as it lies in memory: lines of contiguous elements, `stride` apart; with `index`, line l of the product is line index[l] of the memory.
/// The lines are the rows of the matrix, or its columns if `transposed`.
template <class T>
struct operand {
  T const* data;
  index_t stride;
  bool transposed;
  int const* index = nullptr;

  T const* line(index_t l) const { return data + (index != nullptr ? index_t{index[l]} : l) * stride; }
};

/// What simd<A> can load.
template <class A, class T>
inline constexpr bool loads_as = std::same_as<T, A> || (std::same_as<T, bf16> && std::same_as<A, float>);

/// to[k, i] = row_i[k] for i < count, 0 for count <= i < width, k < depth: rows of `to` are `width` long.
/// Squares of one vector's width are transposed in registers.
template <class A, class T, class Row>
inline void pack_transposed(A* to, index_t width, index_t count, index_t depth, Row const& row) {
  using V = simd<A>;
  if constexpr (loads_as<A, T>) {
    for (index_t i0 = 0; i0 < width; i0 += V::width) {
      T const* from[V::width];
      for (index_t i = 0; i < V::width; ++i) from[i] = i0 + i < count ? row(i0 + i) : nullptr;
      for (index_t k0 = 0; k0 < depth; k0 += V::width) {
        V square[V::width];
        MOE_UNROLL(16)
        for (int i = 0; i < V::width; ++i) square[i] = i0 + i < count ? V::load(from[i] + k0, depth - k0) : V::zero();
        transpose(square);
        MOE_UNROLL(16)
        for (int k = 0; k < V::width; ++k)
          if (k0 + k < depth) square[k].store(to + (k0 + k) * width + i0, width - i0);
      }
    }
  } else {
    for (index_t k = 0; k < depth; ++k)
      for (index_t i = 0; i < width; ++i) to[k * width + i] = i < count ? static_cast<A>(row(i)[k]) : A(0);
  }
}

/// Rows [first, first + count) and columns [k0, k0 + depth) of `a`, as [depth, count].
template <class A, class T>
inline void pack_rows(A* to, operand<T> const& a, index_t first, index_t count, index_t k0, index_t depth) {
  if (!a.transposed) {
    pack_transposed<A, T>(to, count, count, depth, [&](index_t i) { return a.line(first + i) + k0; });
  } else {
    for (index_t k = 0; k < depth; ++k) {
      T const* from = a.line(k0 + k) + first;
      if constexpr (loads_as<A, T>) {
        for (index_t i = 0; i < count; i += simd<A>::width) simd<A>::load(from + i, count - i).store(to + k * count + i, count - i);
      } else {
        for (index_t i = 0; i < count; ++i) to[k * count + i] = static_cast<A>(from[i]);
      }
    }
  }
}

/// Columns [first, first + count) of all `depth` rows of `b`, as [depth, block_columns], zero beyond `count`.
template <class A, class T>
inline void pack_columns(A* to, operand<T> const& b, index_t first, index_t count, index_t depth) {
  constexpr index_t width = block_columns<A>;
  using V = simd<A>;
  if (!b.transposed) {
    for (index_t k = 0; k < depth; ++k) {
      T const* from = b.line(k) + first;
      if constexpr (loads_as<A, T>) {
        for (index_t j = 0; j < width; j += V::width) V::load(from + j, count - j).store(to + k * width + j);
      } else {
        for (index_t j = 0; j < width; ++j) to[k * width + j] = j < count ? static_cast<A>(from[j]) : A(0);
      }
    }
    return;
  }
  pack_transposed<A, T>(to, width, count, depth, [&](index_t j) { return b.line(first + j); });
}

}  // namespace moe::inline MOE_ISA::detail
