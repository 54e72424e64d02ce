#pragma once
#include <cuda_runtime.h>

#include <moe/core/math.hpp>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor.hpp>

// The two products of attention, by a block of 16 x 16 threads. The thread of row y and column x holds rows y + 16 m of a tile, of a 64-wide tile of
// scores the columns x + 16 n, and of an output groups of neighbouring columns. All of a row is in 16 neighbouring lanes of one warp, and nothing of
// its arithmetic depends on where in the tile it stands.
namespace moe::inline MOE_ISA::detail {

inline constexpr int attention_threads = 256, attention_tile_columns = 64;

/// G neighbouring numbers, moved as one.
template <class A, int G>
struct alignas(G * sizeof(A)) attention_pack {
  static constexpr int size = G;
  A v[G];
};

/// How the `Depth` columns of an output are dealt: `slices` blocks of 16 * n columns. Limited by registers and shared memory, so that any depth
/// works.
template <int Depth, int Most>
struct attention_slices {
  static constexpr int slices = (Depth + 16 * Most - 1) / (16 * Most), n = (Depth + 16 * slices - 1) / (16 * slices), columns = 16 * n;
};

/// Shared memory. `a` and `b`: a stage of two operands that are summed along their rows, odd row lengths against bank conflicts; `weight`: a tile
/// of scores; `c`: the operand that is summed down its columns.
template <class A, int M, int N>
struct attention_layout {
  static constexpr int size = ptx::vector16<A>::size, vectors = 8, depth = vectors * size;
  static constexpr int group = N % size == 0 ? size : N % 2 == 0 ? 2 : 1;
  ptx::shared_matrix<ptx::vector16<A>, 16 * M, vectors + 1> a;
  ptx::shared_matrix<ptx::vector16<A>, attention_tile_columns, vectors + 1> b;
  ptx::shared_matrix<ptx::vector16<A>, 16 * M, attention_tile_columns / size + 1> weight;
  ptx::shared_matrix<attention_pack<A, group>, attention_tile_columns, 16 * N / group> c;

  __device__ A& weight_at(int row, int column) { return weight(row, column / size).v[column % size]; }
};

/// Where a thread stands in the block.
struct attention_lane {
  int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  template <int G>
  __device__ int column(int n) const {  // of an output
    return n / G * 16 * G + x * G + n % G;
  }
};

/// Rows of one operand: where they are, what they are multiplied by, whether 16 bytes of them can be moved as one.
template <class T, class RowOf>
struct attention_rows {
  RowOf row_of;  ///< row of the tile -> its first element, or nullptr
  bool vectors;
  accumulator<T> scale;
};
template <int Depth, class T, class RowOf>
__device__ attention_rows<T, RowOf> attention_operand(tensor<T const, dyn, dyn> const& view, accumulator<T> scale, RowOf const& row_of) {
  constexpr int size = ptx::vector16<T>::size;
  return {row_of, Depth % size == 0 && reinterpret_cast<std::uintptr_t>(view.data()) % 16 == 0 && view.row_stride() % size == 0, scale};
}

/// to[r, c] = scale row_of(r)[first + c], in accumulators; zero for rows that are nullptr and columns from Depth on, where nothing is read.
template <int Rows, int Columns, int Depth, class P, int R, int C, class T, class RowOf>
__device__ void stage_rows(ptx::shared_matrix<P, R, C>& to, int first, attention_rows<T, RowOf> const& from) {
  constexpr int size = ptx::vector16<T>::size, pieces = Columns / size;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * pieces; i += attention_threads) {
    int const r = i / pieces, c = i % pieces * size, left = Depth - first - c;
    T const* const row = from.row_of(r);
    ptx::vector16<T> x;
    if (row != nullptr && from.vectors && left >= size) {
      x = *reinterpret_cast<ptx::vector16<T> const*>(row + first + c);
    } else {
      for (int j = 0; j < size; ++j) x.v[j] = row != nullptr && j < left ? row[first + c + j] : T(0.0f);
    }
#pragma unroll
    for (int j = 0; j < size; j += P::size) {
      P y;
#pragma unroll
      for (int g = 0; g < P::size; ++g) y.v[g] = static_cast<accumulator<T>>(x.v[j + g]) * from.scale;
      to(r, (c + j) / P::size) = y;
    }
  }
}

/// s[m][n] = sum_i a[row, i] b[column, i], one chain over i ascending. Begins with a barrier: whatever the block read of the layout before is free.
template <int Depth, int M, class A, int N, class T, class RowOfA, class RowOfB>
__device__ void attention_product(attention_layout<A, M, N>& shared, attention_rows<T, RowOfA> const& a, attention_rows<T, RowOfB> const& b,
                                  A (&s)[M][4]) {
  using layout = attention_layout<A, M, N>;
  attention_lane const lane;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) s[m][n] = 0;
  for (int first = 0; first < Depth; first += layout::depth) {
    __syncthreads();
    stage_rows<16 * M, layout::depth, Depth>(shared.a, first, a);
    stage_rows<attention_tile_columns, layout::depth, Depth>(shared.b, first, b);
    __syncthreads();
    for (int v = 0; v < layout::vectors && first + v * layout::size < Depth; ++v) {
      ptx::vector16<A> p[M], q[4];
#pragma unroll
      for (int m = 0; m < M; ++m) p[m] = shared.a(lane.y + 16 * m, v);
#pragma unroll
      for (int n = 0; n < 4; ++n) q[n] = shared.b(lane.x + 16 * n, v);
#pragma unroll
      for (int j = 0; j < layout::size; ++j)
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int n = 0; n < 4; ++n) s[m][n] = madd(p[m].v[j], q[n].v[j], s[m][n]);
    }
  }
}

/// The columns of a tile that each row of a thread has a part in. The others must not even be multiplied by zero: they may be NaN.
template <int M>
struct attention_range {
  int begin[M], end[M];
  bool all;  ///< whether all rows of the block have all columns
  __device__ bool has(int m, int column) const { return all || (begin[m] <= column && column < end[m]); }
};

/// o[m][n] += sum_j weight[row, j] c[j, column], j ascending over the range of the row: continues one chain per output.
template <bool All, int M, int N, class A>
__device__ void accumulate_range(attention_layout<A, M, N>& shared, attention_range<M> const& range, A (&o)[M][N]) {
  using layout = attention_layout<A, M, N>;
  constexpr int G = layout::group;
  attention_lane const lane;
  for (int v = 0; v * layout::size < attention_tile_columns; ++v) {
    ptx::vector16<A> w[M];
#pragma unroll
    for (int m = 0; m < M; ++m) w[m] = shared.weight(lane.y + 16 * m, v);
#pragma unroll
    for (int j = 0; j < layout::size; ++j) {
      attention_pack<A, G> c[N / G];
#pragma unroll
      for (int n = 0; n < N / G; ++n) c[n] = shared.c(v * layout::size + j, 16 * n + lane.x);
#pragma unroll
      for (int m = 0; m < M; ++m)
        if (All || range.has(m, v * layout::size + j)) {
#pragma unroll
          for (int n = 0; n < N; ++n) o[m][n] = madd(w[m].v[j], c[n / G].v[n % G], o[m][n]);
        }
    }
  }
}
template <int M, int N, class A>
__device__ void accumulate(attention_layout<A, M, N>& shared, attention_range<M> const& range, A (&o)[M][N]) {
  if (range.all) accumulate_range<true>(shared, range, o);
  else accumulate_range<false>(shared, range, o);
}

template <int M, int N, class A>
__device__ void store_weights(attention_layout<A, M, N>& shared, A const (&s)[M][4]) {
  attention_lane const lane;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) shared.weight_at(lane.y + 16 * m, lane.x + 16 * n) = s[m][n];
}

/// to[column] = T(f(n)) for the columns of this thread that exist in a row of `Depth` elements, `first` columns from its beginning.
template <int Depth, int N, int G, class T, class F>
__device__ void store_columns(T* row, int first, F const& f) {
  attention_lane const lane;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    int const c = first + lane.column<G>(n);
    if (c < Depth) row[c] = T(f(n));
  }
}

}  // namespace moe::inline MOE_ISA::detail
