#pragma once
#include <algorithm>

#include <moe/core/detail/streaming.hpp>
#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA::detail {

/// What one step along k multiplies. A lane of a packed operand holds what one output needs of one step.
///
/// chain: one element of A per lane, one madd per step.
template <class A>
struct chain {
  using lane = A;                      ///< of the sums, and of packed operands
  static constexpr index_t depth = 1;  ///< elements along k per step
  static MOE_INLINE simd<A> add(simd<A> a, simd<A> b, simd<A> sum) { return madd(a, b, sum); }
};
#if defined(MOE_AVX512_BF16)
/// pairs: two neighbours along k per lane, as bf16; a step adds both products (VDPBF16PS: denormal factors and sums count as 0).
struct pairs {
  using lane = float;
  static constexpr index_t depth = 2;
  static MOE_INLINE simd<float> add(simd<float> a, simd<float> b, simd<float> sum) { return madd_pairs(a, b, sum); }
};
#endif

/// Columns of a panel of the right factor, for every type and instruction set: so packed weights do not depend on either.
inline constexpr index_t panel_columns = 32;

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
inline constexpr int block_columns = block_vectors* simd<A>::width;

/// Memory that will be needed soon, while registers are busy: two cache lines per step along k, `step` bytes apart, and `jump` further after each
/// chunk_steps of them. A hint: it may point anywhere.
struct fetch_path {
  char const* at;
  index_t step, jump;
  static fetch_path nothing(void const* near) { return {static_cast<char const*>(near), 0, 0}; }
};
/// Steps that a square of a packed weight, panel_columns by panel_columns, takes.
template <class Step>
inline constexpr index_t chunk_steps = panel_columns / Step::depth;

/// What becomes of c: overwritten, overwritten past the caches (then its rows are whole cache lines), or what the sums start from.
enum class writing { overwrite, stream, add };

/// The row below. One running pointer: the compiler would rather keep twelve addresses, in more registers than there are.
template <class T>
MOE_INLINE T* next_row(T* row, index_t stride) {
  row += stride;
  asm("" : "+r"(row));
  return row;
}

/// c[i, j] = (add ? c[i, j] : 0) + sum over steps of a[., i] b[., j] for i < Rows, j < block_columns: each element one chain in ascending k.
///   a  [steps, Rows]             packed, steps `a_step` lanes apart
///   b  [steps, panel_columns]    packed; the block reads the first block_columns of each row
template <class Step, int Rows, class TC>
MOE_NOINLINE void multiply_full_block(index_t steps, typename Step::lane const* a, index_t a_step, typename Step::lane const* b, TC* c,
                                      index_t c_stride, writing how, fetch_path next) {
  using V = simd<typename Step::lane>;
  V sum[Rows][block_vectors];  // in registers only if every index is a constant: all loops over it are unrolled, and no element's address is taken
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i) MOE_UNROLL(4)
  for (int j = 0; j < block_vectors; ++j) sum[i][j] = V::zero();
  if (how == writing::add) {
    TC* row = c;
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      MOE_UNROLL(4)
      for (int j = 0; j < block_vectors; ++j) sum[i][j] = V::load(row + j * V::width);
      row = next_row(row, c_stride);
    }
  }
  for (index_t k = 0; k < steps; next.at += next.jump) {
    for (index_t const end = std::min(steps, k + chunk_steps<Step>); k < end; ++k) {
      V row[block_vectors];
      MOE_UNROLL(4)
      for (int j = 0; j < block_vectors; ++j) row[j] = V::load(b + j * V::width);
      __builtin_prefetch(next.at, 0, 2);
      __builtin_prefetch(next.at + 64, 0, 2);
      MOE_UNROLL(16)
      for (int i = 0; i < Rows; ++i) {
        V const x = V::all(a[i]);
        MOE_UNROLL(4)
        for (int j = 0; j < block_vectors; ++j) sum[i][j] = Step::add(x, row[j], sum[i][j]);
      }
      a += a_step;
      b += panel_columns;
      next.at += next.step;
    }
  }
  if constexpr (std::is_same_v<TC, typename Step::lane>)
    if (how == writing::stream) {
      MOE_UNROLL(16)
      for (int i = 0; i < Rows; ++i) {
        MOE_UNROLL(4)
        for (int j = 0; j < block_vectors; ++j) stream(sum[i][j].v, c + j * V::width);
        c = next_row(c, c_stride);
      }
      return;
    }
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i) {
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) sum[i][j].store(c + j * V::width);
    c = next_row(c, c_stride);
  }
}
/// multiply_full_block for the `columns` <= block_columns that c has; b is zero beyond them.
template <class Step, int Rows, class TC>
inline void multiply_block(index_t steps, typename Step::lane const* a, index_t a_step, typename Step::lane const* b, TC* c, index_t c_stride,
                           index_t columns, writing how, fetch_path next) {
  using A = typename Step::lane;
  constexpr index_t width = block_columns<A>;
  if (columns == width) return multiply_full_block<Step, Rows>(steps, a, a_step, b, c, c_stride, how, next);
  alignas(vector_bytes) A edge[Rows * width] = {};
  for (int i = 0; i < Rows && how == writing::add; ++i)
    for (index_t j = 0; j < columns; ++j) edge[i * width + j] = static_cast<A>(c[i * c_stride + j]);
  multiply_full_block<Step, Rows>(steps, a, a_step, b, edge, width, how == writing::add ? how : writing::overwrite, next);
  for (int i = 0; i < Rows; ++i)
    for (index_t j = 0; j < columns; ++j) c[i * c_stride + j] = TC(edge[i * width + j]);
}

/// All `columns` <= panel_columns of a panel, for a number of rows known at run time, 1 <= rows <= block_rows.
template <class Step, int Rows = block_rows, class TC>
inline void multiply_rows(index_t rows, index_t steps, typename Step::lane const* a, index_t a_step, typename Step::lane const* b, TC* c,
                          index_t c_stride, index_t columns, writing how, fetch_path next) {
  if constexpr (Rows >= 1) {
    constexpr index_t width = block_columns<typename Step::lane>;
    if (rows != Rows) return multiply_rows<Step, Rows - 1>(rows, steps, a, a_step, b, c, c_stride, columns, how, next);
    for (index_t j = 0; j < columns; j += width)
      multiply_block<Step, Rows>(steps, a, a_step, b + j, c + j, c_stride, std::min(width, columns - j), how, next);
  }
}

}  // namespace moe::inline MOE_ISA::detail
