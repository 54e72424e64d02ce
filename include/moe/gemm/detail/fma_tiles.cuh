#pragma once
#include <moe/core/launch.cuh>
#include <moe/core/math.hpp>
#include <moe/core/ptx.cuh>
#include <moe/gemm/detail/groups.cuh>

namespace moe::inline MOE_ISA {

/// A block of 16 x 16 threads computes 16 * rows by 16 * columns outputs, both multiples of 4. Results do not depend on it.
struct fma_tuning {
  int rows = 4, columns = 4;
};

namespace detail {

inline constexpr int fma_threads = 256, fma_depth = 16;

/// Four elements, moved as one where memory allows it.
template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) quad {
  T v[4];
};
/// Whether every fourth element of every line starts where a quad can.
template <class T>
__device__ bool quads_fit(T const* data, index_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % alignof(quad<T>) == 0 && stride % 4 == 0;
}
/// Elements p[0 .. left), zeros behind them.
template <class T>
__device__ quad<T> load_quad(T const* p, index_t left, bool aligned) {
  if (aligned && left >= 4) return *reinterpret_cast<quad<T> const*>(p);
  quad<T> q;
#pragma unroll
  for (int j = 0; j < 4; ++j) q.v[j] = j < left ? p[j] : T(0.0f);
  return q;
}
template <class T>
__device__ void store_quad(T* p, index_t left, bool aligned, quad<T> const& q) {
  if (aligned && left >= 4) {
    *reinterpret_cast<quad<T>*>(p) = q;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (j < left) p[j] = q.v[j];
}

/// Two stages of both factors in the type that sums are formed in, [depth, rows of the tile]. The odd row length halves the conflicts of transposing.
template <class A, int M, int N>
struct fma_layout {
  ptx::shared_matrix<quad<A>, 2 * fma_depth, 4 * M + 1> a;
  ptx::shared_matrix<quad<A>, 2 * fma_depth, 4 * N + 1> b;
};

/// This thread's part in bringing Rows rows by fma_depth elements of a factor into shared memory, by way of registers: what is stored may have another
/// type, and be transposed.
template <int Rows, class Lines>
struct fma_loader {
  using T = typename Lines::value_type;
  static constexpr int count = Rows * fma_depth / 4 / fma_threads;  ///< quads per thread
  quad<T> part[count];

  /// Row (AlongK) or column of quads, and which quad of it, for the i-th part.
  __device__ static int line(int i) { return (static_cast<int>(threadIdx.x) + i * fma_threads) / (Lines::along_k ? fma_depth / 4 : Rows / 4); }
  __device__ static int place(int i) { return (static_cast<int>(threadIdx.x) + i * fma_threads) % (Lines::along_k ? fma_depth / 4 : Rows / 4); }

  /// Rows [row, ...) of `rows`, summed index [k0, ...) of k; zeros beyond.
  __device__ void load(Lines const& from, index_t row, index_t rows, index_t k0, index_t k, bool aligned) {
    index_t const l0 = Lines::along_k ? row : k0, lines = Lines::along_k ? rows : k, p0 = Lines::along_k ? k0 : row,
                  length = Lines::along_k ? k : rows;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      index_t const l = l0 + line(i), p = p0 + 4 * place(i), left = l < lines ? length - p : 0;
      part[i] = load_quad(left > 0 ? from.line(l) + p : from.data, left, aligned);
    }
  }
  template <class Matrix>
  __device__ void store(Matrix& to, int stage) const {
    using A = std::remove_reference_t<decltype(to(0, 0).v[0])>;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if constexpr (Lines::along_k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) to(stage * fma_depth + 4 * place(i) + j, line(i) / 4).v[line(i) % 4] = static_cast<A>(part[i].v[j]);
      } else {
        quad<A> q;
#pragma unroll
        for (int j = 0; j < 4; ++j) q.v[j] = static_cast<A>(part[i].v[j]);
        to(stage * fma_depth + line(i), place(i)) = q;
      }
    }
  }
};

/// Continues every sum over `depth` elements of one stage, in ascending order. Never beyond them: adding a zero would turn -0 into +0.
template <class A, int M, int N>
__device__ void fma_stage(fma_layout<A, M, N>& shared, int stage, int depth, A (&sum)[M][N]) {
  int const row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
#pragma unroll(sizeof(A) > 4 ? 1 : 4)  // more would spill
  for (int k = 0; k < depth; ++k) {
    quad<A> x[M / 4], y[N / 4];
#pragma unroll
    for (int m = 0; m < M / 4; ++m) x[m] = shared.a(stage * fma_depth + k, 16 * m + row);
#pragma unroll
    for (int n = 0; n < N / 4; ++n) y[n] = shared.b(stage * fma_depth + k, 16 * n + column);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n) sum[m][n] = madd(x[m / 4].v[m % 4], y[n / 4].v[n % 4], sum[m][n]);
  }
}

/// Calls f(address in c, outputs from there to the end of the row, sums) for each quad of outputs of this thread that exists.
template <int M, int N, class A, class Tile, class F>
__device__ void for_each_quad(Tile const& t, A (&sum)[M][N], F const& f) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; n += 4) {
      index_t const r = t.row + 16 * (m - m % 4) + threadIdx.x / 16 * 4 + m % 4, c = t.column + 16 * n + threadIdx.x % 16 * 4;
      if (r < t.m && c < t.n) f(t.c + r * t.c_stride + c, t.n - c, &sum[m][n]);
    }
}

}  // namespace detail

/// One tile at a time: the next part of both factors is on its way to registers while this one is multiplied.
template <bool Accumulate, int M, int N, class Products>
__global__ void __launch_bounds__(detail::fma_threads) fma_tiles_kernel(Products products) {
  using T = typename Products::output;
  using A = accumulator<T>;
  auto& shared = ptx::dynamic_shared<detail::fma_layout<A, M, N>>();
  detail::fma_loader<16 * M, typename Products::a_lines> a;
  detail::fma_loader<16 * N, typename Products::b_lines> b;
  for (index_t number = blockIdx.x;; number += gridDim.x) {
    auto const t = products.tile(number, 16 * M, 16 * N);
    if (t.row < 0) return;                 // the whole block at once
    if (Accumulate && t.k == 0) continue;  // nothing to add
    bool const c_fits = detail::quads_fit(t.c, t.c_stride), a_fits = detail::quads_fit(t.a.data, t.a.stride),
               b_fits = detail::quads_fit(t.b.data, t.b.stride);
    A sum[M][N] = {};
    if constexpr (Accumulate)
      detail::for_each_quad(t, sum, [&](T const* c, index_t left, A* s) {
        auto const q = detail::load_quad(c, left, c_fits);
#pragma unroll
        for (int j = 0; j < 4; ++j) s[j] = static_cast<A>(q.v[j]);
      });
    a.load(t.a, t.row, t.m, 0, t.k, a_fits);
    b.load(t.b, t.column, t.n, 0, t.k, b_fits);
    int stage = 0;
    for (index_t k0 = 0; k0 < t.k; k0 += detail::fma_depth, stage ^= 1) {
      a.store(shared.a, stage);
      b.store(shared.b, stage);
      __syncthreads();  // this stage is complete, and nobody reads the other one any more
      a.load(t.a, t.row, t.m, k0 + detail::fma_depth, t.k, a_fits);
      b.load(t.b, t.column, t.n, k0 + detail::fma_depth, t.k, b_fits);
      detail::fma_stage(shared, stage, static_cast<int>(t.k - k0 < detail::fma_depth ? t.k - k0 : detail::fma_depth), sum);
    }
    __syncthreads();  // before the next tile overwrites a stage
    detail::for_each_quad(t, sum, [&](T* c, index_t left, A const* s) {
      detail::quad<T> q;
#pragma unroll
      for (int j = 0; j < 4; ++j) q.v[j] = T(s[j]);
      detail::store_quad(c, left, c_fits, q);
    });
  }
}

namespace detail {
template <bool Accumulate, fma_tuning P, class Products>
void multiply_by_fma(char const* name, cuda const& space, Products const& products) {
  static_assert(P.rows >= 4 && P.columns >= 4 && P.rows % 4 == 0 && P.columns % 4 == 0,
                "moe::gemm: fma_tuning::rows and columns must be multiples of 4");
  using layout = fma_layout<accumulator<typename Products::output>, P.rows, P.columns>;
  launch(name, fma_tiles_kernel<Accumulate, P.rows, P.columns, Products>,
         {.blocks = products.most_tiles(16 * P.rows, 16 * P.columns), .threads = fma_threads, .shared_bytes = sizeof(layout)}, space, products);
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
