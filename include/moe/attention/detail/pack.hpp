#pragma once
#include <moe/attention/detail/block.hpp>

namespace moe::inline MOE_ISA::detail {

/// to[k, j] = from_j[k] for the `count` <= panel rows j of `from`, zero for the other columns of the panel.
///   to  [Depth, attention_tile::panel]
template <int Depth, class A, class T>
inline void pack_panel(A* to, T const* from, index_t stride, index_t count) {
  using V = simd<A>;
  constexpr int width = V::width;
  for (int j0 = 0; j0 < attention_tile<A>::panel; j0 += width)
    for (int k0 = 0; k0 < Depth; k0 += width) {
      V square[width];
      MOE_UNROLL(16)
      for (int j = 0; j < width; ++j) square[j] = j0 + j < count ? load_part<Depth, A>(from + (j0 + j) * stride, k0) : V::zero();
      transpose(square);
      MOE_UNROLL(16)
      for (int k = 0; k < width; ++k)
        if (k0 + k < Depth) square[k].store(to + (k0 + k) * attention_tile<A>::panel + j0);
    }
}

/// to[i, k] = scale from_i[k] for `count` rows, zero in columns [Depth, Padded).
template <int Depth, int Padded, class A, class T>
inline void pack_rows_scaled(A* to, T const* from, index_t stride, index_t count, A scale) {
  using V = simd<A>;
  for (index_t i = 0; i < count; ++i)
    MOE_UNROLL(8)
    for (int k = 0; k < Padded; k += V::width) (load_part<Depth, A>(from + i * stride, k) * V::all(scale)).store(to + i * Padded + k);
}

/// to_i[k] = scale from[i, k]: the way back, rounded to T.
template <int Depth, int Padded, class A, class T>
inline void unpack_rows_scaled(T* to, index_t stride, A const* from, index_t count, A scale) {
  using V = simd<A>;
  for (index_t i = 0; i < count; ++i)
    MOE_UNROLL(8)
    for (int k = 0; k < Padded; k += V::width) store_part<Depth>(V::load(from + i * Padded + k) * V::all(scale), to + i * stride, k);
}

}  // namespace moe::inline MOE_ISA::detail
