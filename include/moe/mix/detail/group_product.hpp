#pragma once
#include <moe/gemm/detail/pack.hpp>
#include <moe/mix/group_softmax.hpp>

namespace moe::inline MOE_ISA::detail {

inline constexpr index_t mix_rows = 64;      ///< outputs of a group whose weights are packed together
inline constexpr index_t mix_steps = 64;     ///< inputs of a group that are summed in one pass
inline constexpr index_t mix_columns = 128;  ///< columns whose sums wait for the next pass

/// x, which the compiler would else load once for each of its uses: loads are what limits a block of sums.
template <class A>
MOE_INLINE simd<A> in_register(simd<A> x) {
#if defined(MOE_AVX512) && !defined(__CUDACC__)
  asm("" : "+v"(x.v));
#elif defined(__x86_64__) && !defined(__CUDACC__)
  asm("" : "+x"(x.v));
#endif
  return x;
}

/// multiply_full_block for rows of B that lie `from_stride` apart, and for the block that meets them first: they are left as A in `tile`, rows of
/// panel_columns, on their way. Copying them beforehand took a quarter of a block's time.
template <int Rows, class A, class T, class TC>
MOE_NOINLINE void multiply_and_pack(index_t steps, A const* a, index_t a_step, T const* from, index_t from_stride, index_t ahead, A* tile, TC* c,
                                    index_t c_stride, writing how) {
  using V = simd<A>;
  V sum[Rows][block_vectors];  // in registers only if every index is a constant
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
  for (index_t k = 0; k < steps; ++k) {
    V row[block_vectors];
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) {
      row[j] = in_register(V::load(from + j * V::width));
      row[j].store(tile + j * V::width);
      __builtin_prefetch(from + ahead + j * V::width, 0, 2);
    }
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      V const x = V::all(a[i]);
      MOE_UNROLL(4)
      for (int j = 0; j < block_vectors; ++j) sum[i][j] = madd(x, row[j], sum[i][j]);
    }
    a += a_step;
    from += from_stride;
    tile += panel_columns;
  }
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i) {
    MOE_UNROLL(4)
    for (int j = 0; j < block_vectors; ++j) {
      if constexpr (std::is_same_v<TC, A>) how == writing::stream ? stream(sum[i][j].v, c + j * V::width) : sum[i][j].store(c + j * V::width);
      else sum[i][j].store(c + j * V::width);
    }
    c = next_row(c, c_stride);
  }
}
/// All of a panel, for a number of rows known at run time, 1 <= rows <= block_rows.
template <int Rows = block_rows, class A, class T, class TC>
inline void multiply_and_pack_rows(index_t rows, index_t steps, A const* a, index_t a_step, T const* from, index_t from_stride, index_t ahead,
                                   A* tile, TC* c, index_t c_stride, writing how) {
  if constexpr (Rows >= 1) {
    if (rows != Rows) return multiply_and_pack_rows<Rows - 1>(rows, steps, a, a_step, from, from_stride, ahead, tile, c, c_stride, how);
    for (index_t j = 0; j < panel_columns; j += block_columns<A>)
      multiply_and_pack<Rows>(steps, a, a_step, from + j, from_stride, ahead, tile + j, c + j, c_stride, how);
  }
}

/// Few rows, far apart, each a weighted sum of few others, in one group:  to[m, c] = sum_k weight(m, k) from[k, c], one chain of madd in ascending k.
/// Rows of a batch are often a power of two apart, where a cache holds only eight of one column: so a tile of columns is copied to where it fits, then
/// used by all outputs.
template <class T>
struct group_product {
  using A = accumulator<T>;
  using step = chain<A>;
  operand<A> weight;  ///< [m, k]; transposed: its lines are members of k
  spaced_rows<T const> from;
  spaced_rows<T> to;
  index_t m, k;
  bool stream;

  /// Columns [c0, c1).
  void run(index_t c0, index_t c1) const {
    alignas(alignment) A packed[mix_rows * mix_steps + 16 * divide_up(mix_rows, block_rows)];
    for (index_t m0 = 0; m0 < m; m0 += mix_rows) {
      even_parts const blocks(std::min(mix_rows, m - m0), 1, block_rows);
      if (k <= mix_steps) {
        auto const order = pack_rows<step>(packed, weight, m0, blocks, 0, k);
        multiply(packed, order, 0, c0, c1, spaced_rows<T>{to.row(m0) + c0, to.stride}, stream ? writing::stream : writing::overwrite);
      } else {
        for (index_t c = c0; c < c1; c += mix_columns) in_passes(packed, blocks, m0, c, std::min(c1, c + mix_columns));
      }
    }
  }

 private:
  /// Sums wait in the output where they have its type.
  void in_passes(A* packed, even_parts const& blocks, index_t m0, index_t c0, index_t c1) const {
    alignas(alignment) A stage[std::is_same_v<A, T> ? 1 : mix_rows * mix_columns];
    spaced_rows<A> sums;
    if constexpr (std::is_same_v<A, T>) sums = {to.row(m0) + c0, to.stride};
    else sums = {stage, mix_columns};
    for (index_t k0 = 0; k0 < k; k0 += mix_steps) {
      auto const order = pack_rows<step>(packed, weight, m0, blocks, k0, std::min(mix_steps, k - k0));
      multiply(packed, order, k0, c0, c1, sums, k0 == 0 ? writing::overwrite : writing::add);
    }
    if constexpr (!std::is_same_v<A, T>)
      for (index_t i = 0; i < blocks.n; ++i)
        for (index_t c = c0; c < c1; c += simd<A>::width) simd<A>::load(sums.row(i) + (c - c0), c1 - c).store(to.row(m0 + i) + c, c1 - c);
  }

  /// One pass: the packed weights times rows [k0, k0 + order.steps); `c` begins at column c0.
  template <class TC>
  void multiply(A const* packed, packed_rows_order const& order, index_t k0, index_t c0, index_t c1, spaced_rows<TC> const& c, writing how) const {
    alignas(alignment) A tile[mix_steps * panel_columns];
    even_parts const& blocks = order.blocks;
    index_t const ahead = panel_columns * (1 + 1024 / (blocks.n * order.steps + 1));  // columns that arrive while these are multiplied
    for (index_t j = c0; j < c1; j += panel_columns) {
      index_t const columns = std::min(panel_columns, c1 - j);
      bool const whole = columns == panel_columns;
      if (whole)
        multiply_and_pack_rows(blocks.size(0), order.steps, packed + order.place(0), order.step(0), from.row(k0) + j, from.stride, ahead, tile,
                               c.row(0) + (j - c0), c.stride, how);
      else pack_columns<step>(tile, operand<T>{from.data, from.stride, false}, j, columns, k0, order.steps);
      for (index_t b = whole ? 1 : 0; b < blocks.count; ++b)
        multiply_rows<step>(blocks.size(b), order.steps, packed + order.place(b), order.step(b), tile, c.row(blocks.begin(b)) + (j - c0), c.stride,
                            columns, how, fetch_path::nothing(tile));
    }
  }
};

}  // namespace moe::inline MOE_ISA::detail
