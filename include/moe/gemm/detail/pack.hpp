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
  if (!a.transposed) {
    pack_transposed<A, T>(to, count, count, depth, [&](index_t i) { return a.line(first + i) + k0; });
  } else {
    for (index_t k = 0; k < depth; ++k) {
      T const* from = a.line(k0 + k) + first;
      for (index_t i = 0; i < count; ++i) to[k * count + i] = static_cast<A>(from[i]);
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
      if constexpr (std::same_as<T, A> || std::same_as<T, bf16>) {
        for (index_t j = 0; j < width; j += V::width) V::load(from + j, count - j).store(to + k * width + j);
      } else {
        for (index_t j = 0; j < width; ++j) to[k * width + j] = j < count ? static_cast<A>(from[j]) : A(0);
      }
    }
    return;
  }
  if (count < width)
    for (index_t i = 0; i < depth * width; ++i) to[i] = A(0);
  pack_transposed<A, T>(to, width, count, depth, [&](index_t j) { return b.line(first + j); });
}

}  // namespace moe::inline MOE_ISA::detail
