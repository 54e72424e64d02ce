#pragma once
#include <cuda_runtime.h>

#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/gemm/grouped_gemm.hpp>

namespace moe::inline MOE_ISA {

/// A block of 16 x 16 threads computes 16 * rows by 16 * columns outputs. Results do not depend on it.
struct grouped_gemm_tuning {
  int rows = 4, columns = 4;  ///< outputs per thread: those of row and column i, i + 16, i + 32, ...
};

namespace detail {

inline constexpr int grouped_threads = 256;

/// Shared memory: two stages of both operands, `vectors` 16-byte vectors of the summed index each. The odd row length keeps eight
/// neighbouring rows in different banks.
template <class T, int M, int N>
struct grouped_gemm_layout {
  static constexpr int vectors = 8, depth = vectors * ptx::vector16<T>::size;
  ptx::shared_matrix<ptx::vector16<T>, 2 * 16 * M, vectors + 1> x;
  ptx::shared_matrix<ptx::vector16<T>, 2 * 16 * N, vectors + 1> w;
};

/// Rows [row, end) of one expert; expert == -1 behind the last tile.
struct grouped_rows {
  index_t expert = -1, row = 0, end = 0;
};

/// The tile-th group of at most `height` rows, counted over all experts. Offsets live on the device and nobody checked them: whatever they hold, the
/// rows are
/// inside [0, rows).
__device__ inline grouped_rows find_rows(tensor<index_t const, dyn> offsets, index_t tile, index_t height, index_t rows) {
  index_t const experts = offsets.extent<0>() - 1;
  for (index_t e = 0; e < experts; ++e) {
    index_t const first = offsets(e) > 0 ? offsets(e) : 0, end = offsets(e + 1) < rows ? offsets(e + 1) : rows;
    index_t const tiles = end > first ? (end - first + height - 1) / height : 0;
    if (tile < tiles) return {e, first + tile * height, end};
    tile -= tiles;
  }
  return {};
}

/// Whether every row starts at a multiple of 16 bytes.
template <class View>
__device__ bool aligned_rows(View const& v) {
  return reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.row_stride() % ptx::vector16<typename View::value_type>::size == 0;
}

/// Fills rows [first, first + Rows) of `to` with elements [k0, k0 + depth of a stage) of the rows `row_of(r)`, zeros behind `k` and for rows that are
/// nullptr.
template <int Rows, class T, class Matrix, class RowOf>
__device__ void load_rows(Matrix& to, int first, index_t k0, index_t k, bool aligned, T const* any, RowOf const& row_of) {
  constexpr int size = ptx::vector16<T>::size, vectors = 8;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * vectors; i += grouped_threads) {
    int const r = i / vectors, v = i % vectors;
    T const* const row = row_of(r);
    index_t const begin = k0 + v * size, left = row == nullptr ? 0 : k - begin;
    int const count = left <= 0 ? 0 : left < size ? static_cast<int>(left) : size;
    if (aligned) {
      ptx::cp_async_16(&to(first + r, v), count > 0 ? row + begin : any, count * static_cast<int>(sizeof(T)));
    } else {
      ptx::vector16<T> value;
      for (int j = 0; j < size; ++j) value.v[j] = j < count ? row[begin + j] : T(0.0f);
      to(first + r, v) = value;
    }
  }
}

/// The same for an operand whose summed index runs down its rows: to(c, k) = column0[(k0 + k) * stride + c] for c < columns. Element by element.
template <int Rows, class T, class Matrix>
__device__ void load_columns(Matrix& to, int first, index_t k0, index_t k, T const* column0, index_t stride, index_t columns) {
  constexpr int size = ptx::vector16<T>::size, depth = 8 * size;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * depth; i += grouped_threads) {
    int const c = i % Rows, d = i / Rows;
    to(first + c, d / size).v[d % size] = c < columns && k0 + d < k ? column0[(k0 + d) * stride + c] : T(0.0f);
  }
}

/// Continues every sum over the `depth` elements of one stage, in ascending order. Never beyond them: adding a zero would turn -0 into +0.
template <int M, int N, class T, class A>
__device__ void multiply_stage(grouped_gemm_layout<T, M, N>& shared, int stage, int depth, A (&sum)[M][N]) {
  constexpr int size = ptx::vector16<T>::size;
  int const row = stage * 16 * M + static_cast<int>(threadIdx.x) / 16, column = stage * 16 * N + static_cast<int>(threadIdx.x) % 16;
  for (int v = 0; v * size < depth; ++v) {
    ptx::vector16<T> a[M], b[N];
#pragma unroll
    for (int m = 0; m < M; ++m) a[m] = shared.x(row + 16 * m, v);
#pragma unroll
    for (int n = 0; n < N; ++n) b[n] = shared.w(column + 16 * n, v);
#pragma unroll
    for (int j = 0; j < size; ++j) {
      if (v * size + j >= depth) break;
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n) sum[m][n] = madd(static_cast<A>(a[m].v[j]), static_cast<A>(b[n].v[j]), sum[m][n]);
    }
  }
}

/// Calls f(row, column, sum) for the outputs of this thread that exist.
template <int M, int N, class A, class F>
__device__ void for_each_output(grouped_rows rows, index_t column0, index_t columns, A (&sum)[M][N], F const& f) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n) {
      index_t const r = rows.row + threadIdx.x / 16 + 16 * m, c = column0 + threadIdx.x % 16 + 16 * n;
      if (r < rows.end && c < columns) f(r, c, sum[m][n]);
    }
}

}  // namespace detail

template <bool TransposeW, bool Accumulate, int M, int N, class T>
__global__ void __launch_bounds__(detail::grouped_threads, 2)
    grouped_gemm_kernel(tensor<T const, dyn, dyn> x, tensor<index_t const, dyn> offsets, tensor<T const, dyn, dyn, dyn> w, tensor<T, dyn, dyn> y,
                        tensor<int const, dyn> gather) {
  using A = accumulator<T>;
  using layout = detail::grouped_gemm_layout<T, M, N>;
  auto& shared = ptx::dynamic_shared<layout>();
  index_t const k = x.template extent<1>(), columns = y.template extent<1>(), column_tiles = (columns + 16 * N - 1) / (16 * N);
  index_t const row_limit =
      gather.template extent<0>() > 0 && gather.template extent<0>() < y.template extent<0>() ? gather.template extent<0>() : y.template extent<0>();
  bool const x_aligned = detail::aligned_rows(x), w_aligned = detail::aligned_rows(w), gathered = gather.template extent<0>() > 0;
  for (index_t tile = blockIdx.x;; tile += gridDim.x) {
    auto const rows = detail::find_rows(offsets, tile / column_tiles, 16 * M, row_limit);
    if (rows.expert < 0) return;  // the whole block at once
    index_t const column0 = tile % column_tiles * 16 * N;
    T const* const we = w.row(rows.expert * w.template extent<1>());
    A sum[M][N] = {};
    if constexpr (Accumulate) detail::for_each_output(rows, column0, columns, sum, [&](index_t r, index_t c, A& s) { s = static_cast<A>(y(r, c)); });

    auto const load = [&](index_t k0) {
      int const stage = static_cast<int>(k0 / layout::depth % 2);
      detail::load_rows<16 * M>(shared.x, stage * 16 * M, k0, k, x_aligned, x.data(), [&](int i) -> T const* {
        index_t const r = rows.row + i;
        return r >= rows.end ? nullptr : x.row(gathered ? index_t{gather(r)} : r);
      });
      if constexpr (TransposeW)
        detail::load_rows<16 * N>(shared.w, stage * 16 * N, k0, k, w_aligned, w.data(),
                                  [&](int i) { return column0 + i < columns ? we + (column0 + i) * w.row_stride() : nullptr; });
      else detail::load_columns<16 * N>(shared.w, stage * 16 * N, k0, k, we + column0, w.row_stride(), columns - column0);
      ptx::cp_async_commit();
    };
    if (k > 0) load(0);
    for (index_t k0 = 0; k0 < k; k0 += layout::depth) {
      if (k0 + layout::depth < k) load(k0 + layout::depth);
      else ptx::cp_async_commit();
      ptx::cp_async_wait<1>();
      __syncthreads();  // the stage is complete
      detail::multiply_stage<M, N>(shared, static_cast<int>(k0 / layout::depth % 2),
                                   static_cast<int>(k - k0 < layout::depth ? k - k0 : layout::depth), sum);
      __syncthreads();  // and free again
    }
    ptx::cp_async_wait<0>();
    detail::for_each_output(rows, column0, columns, sum, [&](index_t r, index_t c, A s) { y(r, c) = T(s); });
  }
}

/// The contract of grouped_gemm(cpu), with all views in device memory; asynchronous on `space.stream`, and needs no scratch.
/// The launch depends on the extents alone, so a CUDA graph can capture it.
///
/// Edges   offsets and gather are on the device and not checked: with offsets out of range or not ascending, y holds unspecified values and nothing
///         outside y is
///         written; an index of gather must be a row of x.
///         With gather, rows behind its last entry are not touched.
/// Order   each output is one chain of fused multiply-adds in ascending k: the bits of the CPU operator where that one has fused multiply-adds.
/// Cost    plain tiles, no tensor cores. Rows that do not start at multiples of 16 bytes, and transpose_w false, are loaded element by element.
template <grouped_gemm_config C = grouped_gemm_config{}, grouped_gemm_tuning P = grouped_gemm_tuning{}, class T, index_t YR, index_t YC>
void grouped_gemm(cuda const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, in<T, dyn, dyn, dyn> w, tensor<T, YR, YC> const& y,
                  arena& /*scratch*/, in<int, dyn> gather = {}) {
  static_assert(P.rows >= 1 && P.columns >= 1, "moe::grouped_gemm: grouped_gemm_tuning needs at least one row and one column per thread");
  index_t const experts = w.template extent<0>(), rows = y.template extent<0>(), columns = y.template extent<1>(), k = x.template extent<1>();
  index_t const w_in = w.template extent < C.transpose_w ? 2 : 1 > (), w_out = w.template extent < C.transpose_w ? 1 : 2 > ();
  bool const gathered = gather.template extent<0>() > 0;
  expects(w_in == k, errc::shape_mismatch, "grouped_gemm: x has ", k, " columns, w sums over ", w_in);
  expects(w_out == columns, errc::shape_mismatch, "grouped_gemm: y has ", columns, " columns, w gives ", w_out);
  expects(gathered || x.template extent<0>() == rows, errc::shape_mismatch, "grouped_gemm: x has ", x.template extent<0>(), " rows, ", rows,
          " are needed");
  expects(offsets.template extent<0>() == experts + 1, errc::shape_mismatch, "grouped_gemm: offsets has ", offsets.template extent<0>(), " entries, ",
          experts, " experts need ", experts + 1);
  if (experts == 0 || rows == 0 || columns == 0) return;
  index_t const height = 16 * P.rows, width = 16 * P.columns;
  index_t const row_tiles = rows / height + (experts < rows ? experts : rows);  // each expert with rows adds at most one incomplete tile
  using layout = detail::grouped_gemm_layout<T, P.rows, P.columns>;
  launch("grouped_gemm", grouped_gemm_kernel<C.transpose_w, C.accumulate, P.rows, P.columns, T>,
         {.blocks = row_tiles * ((columns + width - 1) / width), .threads = detail::grouped_threads, .shared_bytes = sizeof(layout)}, space, x,
         offsets, w, tensor<T, dyn, dyn>(y), gather);
}

/// The CUDA operator needs none.
template <class T>
std::size_t grouped_gemm_scratch_bytes(cuda const&, index_t /*experts*/, index_t /*n*/, index_t /*k*/) {
  return 0;
}

}  // namespace moe::inline MOE_ISA
