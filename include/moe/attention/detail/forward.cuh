#pragma once
#include <moe/attention/detail/forward.hpp>
#include <moe/attention/detail/tile.cuh>
#include <moe/core/launch.cuh>

namespace moe::inline MOE_ISA::detail {

/// A tile of rows for one block. The query heads of a key/value head are rows of one tile, heads of a query side by side: keys and values are loaded
/// once for all of them, and a single new token still fills some rows.
template <int Group>
struct attention_work {
  index_t sequence, first, rows;  ///< rows: queries * Group of the sequence; the tile begins at row `first`
  int kv_head, slice;
  /// The heaviest tiles come first: they see the most keys, and the last blocks to start should be short ones.
  __device__ attention_work(index_t item, int height, index_t queries, int kv_heads, int slices, index_t sequences) : rows(queries * Group) {
    index_t const tiles = (rows + height - 1) / height, others = sequences * kv_heads * slices, rest = item % others;
    first = (tiles - 1 - item / others) * height;
    slice = static_cast<int>(rest % slices);
    kv_head = static_cast<int>(rest / slices % kv_heads);
    sequence = rest / slices / kv_heads;
  }
  __device__ bool has(int r) const { return first + r < rows; }
  __device__ index_t query(int r) const { return (first + r) / Group; }
  __device__ int head(int r) const { return kv_head * Group + static_cast<int>((first + r) % Group); }
  /// Row r of the tile in a view whose sequences have `queries` rows, at the first element of its head.
  template <int Depth, class T>
  __device__ T* at(tensor<T, dyn, dyn> const& x, index_t queries, int r) const {
    return has(r) ? x.row(sequence * queries + query(r)) + index_t{head(r)} * Depth : nullptr;
  }
  /// Keys that any row of the tile of `height` rows sees, and what each row of this thread sees of the tile of keys from key0 on.
  __device__ index_t keys(int height, index_t position, index_t queries) const {
    return position + (first + height < rows ? query(height - 1) : queries - 1) + 1;
  }
  template <int M>
  __device__ attention_range<M> seen(index_t position, index_t key0) const {
    attention_range<M> range;
    range.all = key0 + attention_tile_columns <= position + query(0) + 1;
    for (int m = 0; m < M; ++m) {
      index_t const end = position + query(static_cast<int>(threadIdx.x) / 16 + 16 * m) + 1 - key0;
      range.begin[m] = 0;
      range.end[m] = static_cast<int>(end < 0 ? 0 : end < attention_tile_columns ? end : attention_tile_columns);
    }
    return range;
  }
};
template <int Group>
index_t attention_items(int height, index_t queries, int kv_heads, int slices, index_t sequences) {
  return (queries * Group + height - 1) / height * kv_heads * slices * sequences;
}

/// Running maximum and this thread's part of the running sum of its rows.
template <class A, int M>
struct attention_softmax {
  A top[M], sum[M];
};

/// The larger one; NaN if either is.
template <class A>
__device__ A max_or_nan(A a, A b) {
  return a != a || a > b ? a : b;
}
/// Over the 16 lanes that share a row.
template <class A>
__device__ A row_max(A x) {
  for (int step = 8; step > 0; step /= 2) x = max_or_nan(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
template <class A>
__device__ A row_sum(A x) {
  for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/// Scores of a tile to weights exp(s - top), with sums and outputs scaled down to the new maximum. A row that sees none of the tile keeps its bits:
/// its factor is exp(0) = 1. While all scores are -infinity the weights are 0.
template <int M, int N, class A>
__device__ void softmax_tile(A (&s)[M][4], attention_range<M> const& range, attention_softmax<A, M>& row, A (&o)[M][N]) {
  constexpr A infinity = static_cast<A>(__builtin_inff());
  attention_lane const lane;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    A top = row.top[m], sum = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n)
      if (range.has(m, lane.x + 16 * n)) top = max_or_nan(top, s[m][n]);
    top = row_max(top);
    A const base = top == -infinity ? A(0) : top, factor = exp_scalar(row.top[m] - base);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      s[m][n] = range.has(m, lane.x + 16 * n) ? exp_scalar(s[m][n] - base) : A(0);
      sum += s[m][n];
    }
    row.top[m] = top;
    row.sum[m] = madd(row.sum[m], factor, sum);
#pragma unroll
    for (int n = 0; n < N; ++n) o[m][n] *= factor;
  }
}

}  // namespace moe::inline MOE_ISA::detail

namespace moe::inline MOE_ISA {

template <int Depth, int Group, int M, int N, class T>
__global__ void __launch_bounds__(detail::attention_threads, sizeof(accumulator<T>) == 4 && M * N <= 32 ? 2 : 1)
    attention_kernel(detail::attention_operands<T> x, detail::attention_extent e, int kv_heads, accumulator<T> scale) {
  using A = accumulator<T>;
  using layout = detail::attention_layout<A, M, N>;
  constexpr int width = detail::attention_tile_columns, slices = (Depth + 16 * N - 1) / (16 * N);
  auto& shared = ptx::dynamic_shared<layout>();
  detail::attention_lane const lane;
  index_t const items = (e.queries * Group + 16 * M - 1) / (16 * M) * kv_heads * slices * e.sequences;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    detail::attention_work<Group> const work(item, 16 * M, e.queries, kv_heads, slices, e.sequences);
    index_t const end = work.keys(16 * M, e.position, e.queries), row0 = work.sequence * e.keys(), column = index_t{work.kv_head} * Depth;
    auto const q = detail::attention_operand<Depth>(x.q, scale, [&](int r) { return work.template at<Depth>(x.q, e.queries, r); });
    detail::attention_softmax<A, M> softmax;
    A o[M][N] = {};
    for (int m = 0; m < M; ++m) softmax.top[m] = -static_cast<A>(__builtin_inff()), softmax.sum[m] = 0;

    for (index_t key0 = 0; key0 < end; key0 += width) {
      auto const k = detail::attention_operand<Depth>(x.k, A(1), [&](int r) { return key0 + r < end ? x.k.row(row0 + key0 + r) + column : nullptr; });
      auto const v = detail::attention_operand<Depth>(x.v, A(1), [&](int r) { return key0 + r < end ? x.v.row(row0 + key0 + r) + column : nullptr; });
      auto const range = work.template seen<M>(e.position, key0);
      A s[M][4];
      detail::attention_product<Depth>(shared, q, k, s);
      detail::softmax_tile(s, range, softmax, o);
      detail::store_weights(shared, s);
      detail::stage_rows<width, 16 * N, Depth>(shared.c, work.slice * 16 * N, v);
      __syncthreads();
      detail::accumulate(shared, range, o);
    }

    for (int m = 0; m < M; ++m) {
      A const sum = detail::row_sum(softmax.sum[m]);
      int const r = lane.y + 16 * m;
      if (!work.has(r)) continue;
      A const l = sum == A(0) ? static_cast<A>(__builtin_nanf("")) : sum;  // 0: all scores are -infinity
      detail::store_columns<Depth, N, layout::group>(work.template at<Depth>(x.o, e.queries, r), work.slice * 16 * N,
                                                     [&](int n) { return o[m][n] / l; });
      if (x.lse.data() != nullptr && work.slice == 0 && lane.x == 0)
        x.lse.row(work.sequence * e.queries + work.query(r))[work.head(r)] = softmax.top[m] + static_cast<A>(log_scalar(static_cast<double>(l)));
    }
  }
}

namespace detail {

/// Tiles of 16 * M rows. Results do not depend on M.
template <int Depth, int Group, int M, class T>
void attend_tiles(char const* op, cuda const& space, attention_operands<T> const& x, attention_extent const& e, int kv_heads) {
  using A = accumulator<T>;
  using S = attention_slices<Depth, 64 / static_cast<int>(sizeof(A)) / (sizeof(A) == 8 ? 2 : 1)>;
  launch(op, attention_kernel<Depth, Group, M, S::n, T>,
         {.blocks = attention_items<Group>(16 * M, e.queries, kv_heads, S::slices, e.sequences),
          .threads = attention_threads,
          .shared_bytes = sizeof(attention_layout<A, M, S::n>)},
         space, x, e, kv_heads, attention_head<Depth, T>::scale());
}

}  // namespace detail

}  // namespace moe::inline MOE_ISA
