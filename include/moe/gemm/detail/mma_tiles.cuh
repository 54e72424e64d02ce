#pragma once
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/gemm/detail/groups.cuh>

namespace moe::inline MOE_ISA {

/// A block computes rows by columns outputs, 64, 128 or 256 each; each warp 64 by 32 of them. Results do not depend on it.
struct mma_tuning {
  int rows = 128, columns = 128;
  int stages = 4;  ///< parts of 32 along the summed index in shared memory
};

namespace detail {

inline constexpr int mma_depth = 32, mma_warp_rows = 64, mma_warp_columns = 32;
MOE_HD constexpr int mma_threads(int rows, int columns) { return 32 * (rows / mma_warp_rows) * (columns / mma_warp_columns); }

/// A stage of a factor as it lies in memory: lines of 16-byte chunks, each line's chunks permuted so that the eight rows of a matrix that ldmatrix reads
/// lie in different banks.
template <int Rows, bool AlongK, int Stages>
struct mma_factor {
  using chunk_t = ptx::vector16<bf16>;
  static constexpr int lines = AlongK ? Rows : mma_depth, chunks = (AlongK ? mma_depth : Rows) / 8;
  ptx::shared_matrix<chunk_t, Stages * lines, chunks> chunk;

  __device__ chunk_t* at(int stage, int line, int c) { return &chunk(stage * lines + line, c ^ (AlongK ? line / 2 % 4 : line % 8)); }

  /// 16 rows from `row` by 16 of k from 16 * step, as the A of an mma.
  __device__ void load_a(std::uint32_t (&r)[4], int stage, int row, int step) {
    int const lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (AlongK) ptx::ldmatrix_x4(r, at(stage, row + lane % 16, 2 * step + lane / 16));
    else ptx::ldmatrix_x4<true>(r, at(stage, 16 * step + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
  }
  /// The same as the B of two: r[0] and r[1] for the first 8 rows (columns of c), r[2] and r[3] for the others.
  __device__ void load_b(std::uint32_t (&r)[4], int stage, int row, int step) {
    int const lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (AlongK) ptx::ldmatrix_x4(r, at(stage, row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    else ptx::ldmatrix_x4<true>(r, at(stage, 16 * step + lane % 16, row / 8 + lane / 16));
  }
};

template <int M, int N, int Stages, bool AlongKA, bool AlongKB>
struct alignas(128) mma_layout {
  mma_factor<M, AlongKA, Stages> a;
  mma_factor<N, AlongKB, Stages> b;
};

/// Whether every eighth element of every line starts at a multiple of 16 bytes.
template <class Lines>
__device__ bool chunks_fit(Lines const& x) {
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0;
}

/// This thread's part in bringing stages of a factor into shared memory: zeros behind the rows and behind k.
template <int Rows, int Threads, class Lines>
struct mma_loader {
  static constexpr int chunks = (Lines::along_k ? mma_depth : Rows) / 8, count = Rows * mma_depth / 8 / Threads;
  static_assert(count * Threads * 8 == Rows * mma_depth, "every thread brings as many chunks as the others");
  Lines from;
  index_t row, rows, k;
  bool aligned;
  bf16 const* line[Lines::along_k ? count : 1];  ///< a thread's lines along k are the same in every stage

  __device__ static int line_of(int i) { return (static_cast<int>(threadIdx.x) + i * Threads) / chunks; }
  __device__ static int chunk_of(int i) { return (static_cast<int>(threadIdx.x) + i * Threads) % chunks; }

  __device__ mma_loader(Lines const& lines, index_t row0, index_t row_count, index_t depth)
      : from(lines), row(row0), rows(row_count), k(depth), aligned(chunks_fit(lines)) {
    if constexpr (Lines::along_k)
      for (int i = 0; i < count; ++i) line[i] = row + line_of(i) < rows ? from.line(row + line_of(i)) : nullptr;
  }

  template <class Factor>
  __device__ void load(Factor& to, int stage, index_t k0) const {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      index_t const p = (Lines::along_k ? k0 : row) + 8 * chunk_of(i);
      bf16 const* source = from.data;
      index_t left = 0;
      if constexpr (Lines::along_k) {
        if (line[i] != nullptr && p < k) source = line[i] + p, left = k - p;
      } else {
        index_t const l = k0 + line_of(i);
        if (l < k && p < rows) source = from.line(l) + p, left = rows - p;
      }
      int const n = left < 8 ? static_cast<int>(left) : 8;
      auto* const place = to.at(stage, line_of(i), chunk_of(i));
      if (aligned) {
        ptx::cp_async_16(place, source, 2 * n);
      } else {
        ptx::vector16<bf16> v;
#pragma unroll
        for (int j = 0; j < 8; ++j) v.v[j] = j < n ? source[j] : bf16(0.0f);
        *place = v;
      }
    }
  }
};

/// Where in a tile of M rows the outputs of this warp begin.
template <int M>
struct mma_warp {
  int row, column;
  __device__ mma_warp() {
    int const warp = static_cast<int>(threadIdx.x) / 32;
    row = warp % (M / mma_warp_rows) * mma_warp_rows;
    column = warp / (M / mma_warp_rows) * mma_warp_columns;
  }
};

/// The sums of a warp: 4 x 4 products of 16 x 16 by 16 x 8.
struct mma_sums {
  float v[mma_warp_rows / 16][mma_warp_columns / 8][4];
};

/// Continues every sum over the 16s of one stage that k reaches into, in ascending order: so the sums do not depend on mma_depth.
template <int M, class Layout>
__device__ void mma_stage(Layout& shared, int stage, index_t depth, mma_sums& sum) {
  mma_warp<M> const warp;
#pragma unroll
  for (int step = 0; step < mma_depth / 16; ++step) {
    if (16 * step >= depth) break;
    std::uint32_t a[mma_warp_rows / 16][4], b[mma_warp_columns / 16][4];
#pragma unroll
    for (int m = 0; m < mma_warp_rows / 16; ++m) shared.a.load_a(a[m], stage, warp.row + 16 * m, step);
#pragma unroll
    for (int n = 0; n < mma_warp_columns / 16; ++n) shared.b.load_b(b[n], stage, warp.column + 16 * n, step);
#pragma unroll
    for (int m = 0; m < mma_warp_rows / 16; ++m)
#pragma unroll
      for (int n = 0; n < mma_warp_columns / 8; ++n) ptx::mma_m16n8k16(sum.v[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
}

/// Two outputs beside each other, moved as one where memory allows it.
template <class T>
struct alignas(2 * sizeof(T)) output_pair {
  T v[2];
};

/// Calls f(address in c, outputs from there to the end of the row, two sums) for each pair of outputs of this thread that exists.
template <int M, class Tile, class F>
__device__ void for_each_pair(Tile const& t, mma_sums& sum, F const& f) {
  mma_warp<M> const warp;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  index_t const row = t.row + warp.row + lane / 4, column = t.column + warp.column + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < mma_warp_rows / 8; ++m) {
    index_t const r = row + 8 * m;
    if (r >= t.m) break;
#pragma unroll
    for (int n = 0; n < mma_warp_columns / 8; ++n) {
      index_t const c = column + 8 * n;
      if (c < t.n) f(t.c + r * t.c_stride + c, t.n - c, &sum.v[m / 2][n][m % 2 * 2]);
    }
  }
}

template <class T>
__device__ void load_sums_pair(T const* c, index_t left, bool aligned, float* s) {
  if (aligned && left >= 2) {
    auto const pair = *reinterpret_cast<output_pair<T> const*>(c);
    s[0] = static_cast<float>(pair.v[0]), s[1] = static_cast<float>(pair.v[1]);
  } else {
    s[0] = static_cast<float>(c[0]);
    if (left >= 2) s[1] = static_cast<float>(c[1]);
  }
}
template <class T>
__device__ void store_sums_pair(T* c, index_t left, bool aligned, float const* s) {
  if (aligned && left >= 2) {
    *reinterpret_cast<output_pair<T>*>(c) = {T(s[0]), T(s[1])};
  } else {
    c[0] = T(s[0]);
    if (left >= 2) c[1] = T(s[1]);
  }
}

}  // namespace detail

/// One tile at a time: Stages - 1 stages are under way while one is multiplied.
template <bool Accumulate, int M, int N, int Stages, class Products>
__global__ void __launch_bounds__(detail::mma_threads(M, N)) mma_tiles_kernel(Products products) {
  using T = typename Products::output;
  using LA = typename Products::a_lines;
  using LB = typename Products::b_lines;
  constexpr int threads = detail::mma_threads(M, N);
  auto& shared = ptx::dynamic_shared<detail::mma_layout<M, N, Stages, LA::along_k, LB::along_k>>();
  detail::mma_warp<M> const warp;
  for (index_t number = blockIdx.x;; number += gridDim.x) {
    auto const t = products.tile(number, M, N);
    if (t.row < 0) return;                                                       // the whole block at once
    if (Accumulate && t.k == 0) continue;                                        // nothing to add
    bool const useful = t.row + warp.row < t.m && t.column + warp.column < t.n;  // else this warp only loads
    bool const pairs_fit = reinterpret_cast<std::uintptr_t>(t.c) % (2 * sizeof(T)) == 0 && t.c_stride % 2 == 0;
    detail::mma_loader<M, threads, LA> const a(t.a, t.row, t.m, t.k);
    detail::mma_loader<N, threads, LB> const b(t.b, t.column, t.n, t.k);
    auto const load = [&](index_t part) {
      if (part * detail::mma_depth < t.k) {
        a.load(shared.a, static_cast<int>(part % Stages), part * detail::mma_depth);
        b.load(shared.b, static_cast<int>(part % Stages), part * detail::mma_depth);
      }
      ptx::cp_async_commit();  // also of nothing: waiting counts groups
    };
    for (int part = 0; part < Stages - 1; ++part) load(part);
    detail::mma_sums sum = {};
    if constexpr (Accumulate)
      detail::for_each_pair<M>(t, sum, [&](T const* c, index_t left, float* s) { detail::load_sums_pair(c, left, pairs_fit, s); });
    for (index_t part = 0; part * detail::mma_depth < t.k; ++part) {
      ptx::cp_async_wait<Stages - 2>();
      __syncthreads();  // this stage is complete, and nobody reads the one before any more
      load(part + Stages - 1);
      if (useful) detail::mma_stage<M>(shared, static_cast<int>(part % Stages), t.k - part * detail::mma_depth, sum);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();  // before the next tile overwrites a stage
    detail::for_each_pair<M>(t, sum, [&](T* c, index_t left, float const* s) { detail::store_sums_pair(c, left, pairs_fit, s); });
  }
}

namespace detail {
template <bool Accumulate, mma_tuning P, class Products>
void multiply_by_mma(char const* name, cuda const& space, Products const& products) {
  static_assert(P.rows >= 64 && P.columns >= 64 && 256 % P.rows == 0 && 256 % P.columns == 0,
                "moe::gemm: mma_tuning::rows and columns must be 64, 128 or 256");
  static_assert(P.stages >= 2, "moe::gemm: mma_tuning::stages must be at least 2");
  using layout = mma_layout<P.rows, P.columns, P.stages, Products::a_lines::along_k, Products::b_lines::along_k>;
  launch(name, mma_tiles_kernel<Accumulate, P.rows, P.columns, P.stages, Products>,
         {.blocks = products.most_tiles(P.rows, P.columns), .threads = mma_threads(P.rows, P.columns), .shared_bytes = sizeof(layout)}, space,
         products);
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
