#pragma once
#include <algorithm>

#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA::detail {

/// Shape of the register block: `rows` x `vectors` accumulators stay in registers while k runs. Sized so that accumulators, one row of B and one
/// broadcast of A fill the register file: 24 of 32 (AVX-512), 12 of 16 (AVX2), 8 of 16 (128-bit vectors).
#if defined(MOE_AVX512)
inline constexpr int block_rows = 12, block_vectors = 2;
#elif defined(MOE_AVX2)
inline constexpr int block_rows = 6, block_vectors = 2;
#else
inline constexpr int block_rows = 4, block_vectors = 2;
#endif
template <class A>
inline constexpr int block_columns = block_vectors * simd<A>::width;

/// c[i, j] = (from_c ? c[i, j] : 0) + sum_k a[k, i] b[k, j] for i < Rows, j < block_columns: each element one chain of madd in ascending k.
///   a  [depth, Rows]            packed, contiguous
///   b  [depth, block_columns]   packed, contiguous
template <int Rows, class A>
inline void multiply_full_block(index_t depth, A const* a, A const* b, A* c, index_t c_stride, bool from_c) {
  using V = simd<A>;
  V sum[Rows][block_vectors];  // in registers only if every index is a constant: all loops over it are unrolled, and no element's address is taken
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i)
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) sum[i][j] = V::zero();
  if (from_c) {
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i)
      MOE_UNROLL(4)
      for (int j = 0; j < block_vectors; ++j) sum[i][j] = V::load(c + i * c_stride + j * V::width);
  }
  for (index_t k = 0; k < depth; ++k) {
    V row[block_vectors];
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) row[j] = V::load(b + j * V::width);
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      V const x = V::all(a[i]);
      MOE_UNROLL(4)
      for (int j = 0; j < block_vectors; ++j) sum[i][j] = madd(x, row[j], sum[i][j]);
    }
    a += Rows;
    b += block_columns<A>;
  }
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i)
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) sum[i][j].store(c + i * c_stride + j * V::width);
}
/// multiply_full_block for the `columns` <= block_columns that c has; b is zero beyond them.
template <int Rows, class A>
inline void multiply_block(index_t depth, A const* a, A const* b, A* c, index_t c_stride, index_t columns, bool from_c) {
  constexpr index_t width = block_columns<A>;
  if (columns == width) return multiply_full_block<Rows>(depth, a, b, c, c_stride, from_c);
  alignas(vector_bytes) A edge[Rows * width] = {};
  for (int i = 0; i < Rows && from_c; ++i) std::copy_n(c + i * c_stride, columns, edge + i * width);
  multiply_full_block<Rows>(depth, a, b, edge, width, from_c);
  for (int i = 0; i < Rows; ++i) std::copy_n(edge + i * width, columns, c + i * c_stride);
}

/// multiply_block for a number of rows known at run time, 1 <= rows <= block_rows.
template <class A, int Rows = block_rows>
inline void multiply_rows(index_t rows, index_t depth, A const* a, A const* b, A* c, index_t c_stride, index_t columns, bool from_c) {
  if constexpr (Rows >= 1) {
    if (rows == Rows) multiply_block<Rows>(depth, a, b, c, c_stride, columns, from_c);
    else multiply_rows<A, Rows - 1>(rows, depth, a, b, c, c_stride, columns, from_c);
  }
}

}  // namespace moe::inline MOE_ISA::detail
