#pragma once
#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA::detail {

/// Shape of the register block: `rows` x `vectors` accumulators stay in registers while k runs. Sized so that accumulators, one row of B and one broadcast of A
/// fill the register file: 24 of 32 (AVX-512), 12 of 16 (AVX2), 8 of 16 (128-bit vectors).
#if defined(MOE_AVX512)
inline constexpr int block_rows = 12, block_vectors = 2;
#elif defined(MOE_AVX2)
inline constexpr int block_rows = 6, block_vectors = 2;
#else
inline constexpr int block_rows = 4, block_vectors = 2;
#endif
template <class A>
inline constexpr int block_columns = block_vectors * simd<A>::width;

/// c[i, j] = (from_c ? c[i, j] : 0) + sum_k a[k, i] b[k, j] for i < Rows, j < columns: each element one chain of madd in ascending k.
///   a  [depth, Rows]            packed, contiguous
///   b  [depth, block_columns]   packed, contiguous, zero beyond `columns`
template <int Rows, class A>
inline void multiply_block(index_t depth, A const* a, A const* b, A* c, index_t c_stride, index_t columns, bool from_c) {
  using V = simd<A>;
  V sum[Rows][block_vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < block_vectors; ++j)
      sum[i][j] = from_c ? V::load(c + i * c_stride + j * V::width, columns - j * V::width) : V::zero();
  for (index_t k = 0; k < depth; ++k) {
    V row[block_vectors];
    for (int j = 0; j < block_vectors; ++j) row[j] = V::load(b + j * V::width);
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      V const x = V::all(a[i]);
      for (int j = 0; j < block_vectors; ++j) sum[i][j] = madd(x, row[j], sum[i][j]);
    }
    a += Rows;
    b += block_columns<A>;
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < block_vectors; ++j) sum[i][j].store(c + i * c_stride + j * V::width, columns - j * V::width);
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
