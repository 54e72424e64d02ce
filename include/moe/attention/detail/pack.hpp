#pragma once
#include <moe/attention/detail/block.hpp>

namespace moe::inline MOE_ISA::detail {

/// to[k, j] = scale from_j[k] for the `count` <= panel rows j of `from`, zero for the other columns of the panel.
///   to  [Depth, attention_tile::panel]
template <int Depth, class A, class T>
inline void pack_panel(A* to, T const* from, index_t stride, index_t count, A scale = A(1)) {
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
        if (k0 + k < Depth) (square[k] * V::all(scale)).store(to + (k0 + k) * attention_tile<A>::panel + j0);
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

/// Rows of a head that will be packed later: their lines are asked for a few at a time, while registers are busy with the rows of now. Rows lie far
/// apart, one head of them is a tenth of a megabyte, and no hardware guesses where the next one begins. A hint: nothing is read.
template <int Depth, class T>
struct row_fetch {
  T const* at = nullptr;
  index_t stride = 0, left = 0;
  MOE_INLINE void next() {
    constexpr int bytes = Depth * static_cast<int>(sizeof(T));
    if (left <= 0) return;
    for (int b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<char const*>(at) + b, 0, 2);
    at += stride, --left;
  }
};
/// Several of them at the same pace.
template <int Depth, class T, int N>
struct rows_fetch {
  row_fetch<Depth, T> part[N];
  static constexpr int pace = 4;  ///< rows per block of scores, which takes hundreds of cycles
  MOE_INLINE void next() {
    for (int i = 0; i < pace; ++i)
      for (auto& x : part) x.next();
  }
};

}  // namespace moe::inline MOE_ISA::detail
