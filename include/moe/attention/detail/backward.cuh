#pragma once
#include <moe/attention/detail/backward.hpp>
#include <moe/attention/detail/forward.cuh>
#include <moe/core/elements.cuh>

namespace moe::inline MOE_ISA::detail {

/// delta[row, h] = sum_i d_o[row, h, i] o[row, h, i] by one warp: lane i mod 32 over i ascending, then the tree of halves.
template <int Depth, class T>
struct attention_delta_row {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> d_o, o;
  A* delta;
  index_t heads;
  __device__ void operator()(index_t r, int lane) const {
    T const *const x = d_o.row(r / heads) + r % heads * Depth, *const y = o.row(r / heads) + r % heads * Depth;
    A sum = 0;
    for (int i = lane; i < Depth; i += lanes) sum = madd(static_cast<A>(x[i]), static_cast<A>(y[i]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[r] = sum;
  }
};

/// p = exp(s - lse) in place of s, d_s = p (d_p - delta) in place of d_p; 0 for what the row has no part in.
template <class A>
__device__ void softmax_gradient_at(A& s, A& d_p, bool has, A lse, A delta) {
  s = has ? exp_scalar(s - lse) : A(0);
  d_p = has ? s * (d_p - delta) : A(0);
}

/// Columns of an output that a block of the backward computes: two outputs at a time in registers.
template <int Depth, class T>
using attention_gradient_slices = attention_slices<Depth, 32 / static_cast<int>(sizeof(accumulator<T>))>;

}  // namespace moe::inline MOE_ISA::detail

namespace moe::inline MOE_ISA {

/// d_q of a tile of rows: a loop over the tiles of keys that they see.
template <int Depth, int Group, int N, class T>
__global__ void __launch_bounds__(detail::attention_threads, 1)
    attention_d_q_kernel(detail::attention_gradient<T> g, accumulator<T> const* delta, index_t sequences, index_t seq, int kv_heads,
                         accumulator<T> scale) {
  using A = accumulator<T>;
  constexpr int M = 4, width = detail::attention_tile_columns, slices = (Depth + 16 * N - 1) / (16 * N);
  using layout = detail::attention_layout<A, M, N>;
  auto& shared = ptx::dynamic_shared<layout>();
  detail::attention_lane const lane;
  index_t const items = (seq * Group + 16 * M - 1) / (16 * M) * kv_heads * slices * sequences;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    detail::attention_work<Group> const work(item, 16 * M, seq, kv_heads, slices, sequences);
    index_t const row0 = work.sequence * seq, column = index_t{work.kv_head} * Depth, end = work.keys(16 * M, 0, seq);
    auto const q = detail::attention_operand<Depth>(g.q, scale, [&](int r) { return work.template at<Depth>(g.q, seq, r); });
    auto const d_o = detail::attention_operand<Depth>(g.d_o, A(1), [&](int r) { return work.template at<Depth>(g.d_o, seq, r); });
    A lse[M], row_delta[M], d_q[M][N] = {};
    for (int m = 0; m < M; ++m) {
      int const r = lane.y + 16 * m;
      lse[m] = work.has(r) ? g.lse.row(row0 + work.query(r))[work.head(r)] : A(0);
      row_delta[m] = work.has(r) ? delta[(row0 + work.query(r)) * (kv_heads * Group) + work.head(r)] : A(0);
    }
    for (index_t key0 = 0; key0 < end; key0 += width) {
      auto const k = detail::attention_operand<Depth>(g.k, A(1), [&](int r) { return key0 + r < end ? g.k.row(row0 + key0 + r) + column : nullptr; });
      auto const v = detail::attention_operand<Depth>(g.v, A(1), [&](int r) { return key0 + r < end ? g.v.row(row0 + key0 + r) + column : nullptr; });
      auto const range = work.template seen<M>(0, key0);
      A s[M][4], d_p[M][4];
      detail::attention_product<Depth>(shared, q, k, s);
      detail::attention_product<Depth>(shared, d_o, v, d_p);
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) detail::softmax_gradient_at(s[m][n], d_p[m][n], range.has(m, lane.x + 16 * n), lse[m], row_delta[m]);
      detail::store_weights(shared, d_p);
      detail::stage_rows<width, 16 * N, Depth>(shared.c, work.slice * 16 * N, k);
      __syncthreads();
      detail::accumulate(shared, range, d_q);
    }
    for (int m = 0; m < M; ++m)
      if (T* const to = work.template at<Depth>(g.d_q, seq, lane.y + 16 * m))
        detail::store_columns<Depth, N, layout::group>(to, work.slice * 16 * N, [&](int n) { return d_q[m][n] * scale; });
  }
}

/// d_k and d_v of a tile of keys: a loop over the query heads of the group and the tiles of queries that see a key. Rows of the tile are keys.
template <int Depth, int Group, int N, class T>
__global__ void __launch_bounds__(detail::attention_threads, 1)
    attention_d_kv_kernel(detail::attention_gradient<T> g, accumulator<T> const* delta, index_t sequences, index_t seq, int kv_heads,
                          accumulator<T> scale) {
  using A = accumulator<T>;
  constexpr int M = 4, width = detail::attention_tile_columns, slices = (Depth + 16 * N - 1) / (16 * N);
  using layout = detail::attention_layout<A, M, N>;
  auto& shared = ptx::dynamic_shared<layout>();
  detail::attention_lane const lane;
  index_t const tiles = (seq + width - 1) / width, others = sequences * kv_heads * slices;
  for (index_t item = blockIdx.x; item < tiles * others; item += gridDim.x) {
    index_t const first = item / others * width, rest = item % others;  // ascending: the first keys are seen by the most queries
    int const slice = static_cast<int>(rest % slices), kv_head = static_cast<int>(rest / slices % kv_heads);
    index_t const row0 = rest / slices / kv_heads * seq, column = index_t{kv_head} * Depth;
    auto const k = detail::attention_operand<Depth>(g.k, A(1), [&](int r) { return first + r < seq ? g.k.row(row0 + first + r) + column : nullptr; });
    auto const v = detail::attention_operand<Depth>(g.v, A(1), [&](int r) { return first + r < seq ? g.v.row(row0 + first + r) + column : nullptr; });
    A d_k[M][N] = {}, d_v[M][N] = {};
    for (int head = kv_head * Group; head < (kv_head + 1) * Group; ++head)
      for (index_t t0 = first; t0 < seq; t0 += width) {
        int const count = static_cast<int>(seq - t0 < width ? seq - t0 : width);
        auto const at = [&](auto const& x, int r) { return r < count ? x.row(row0 + t0 + r) + index_t{head} * Depth : nullptr; };
        auto const q = detail::attention_operand<Depth>(g.q, scale, [&](int r) { return at(g.q, r); });
        auto const d_o = detail::attention_operand<Depth>(g.d_o, A(1), [&](int r) { return at(g.d_o, r); });
        detail::attention_range<M> range;
        range.all = t0 > first && count == width;
        for (int m = 0; m < M; ++m) range.begin[m] = t0 > first ? 0 : lane.y + 16 * m, range.end[m] = count;
        A s[M][4], d_p[M][4];
        detail::attention_product<Depth>(shared, k, q, s);
        detail::attention_product<Depth>(shared, v, d_o, d_p);
        for (int n = 0; n < 4; ++n) {
          int const c = lane.x + 16 * n;
          A const lse = c < count ? g.lse.row(row0 + t0 + c)[head] : A(0);
          A const column_delta = c < count ? delta[(row0 + t0 + c) * (kv_heads * Group) + head] : A(0);
#pragma unroll
          for (int m = 0; m < M; ++m) detail::softmax_gradient_at(s[m][n], d_p[m][n], range.has(m, c), lse, column_delta);
        }
        detail::store_weights(shared, s);
        detail::stage_rows<width, 16 * N, Depth>(shared.c, slice * 16 * N, d_o);
        __syncthreads();
        detail::accumulate(shared, range, d_v);
        __syncthreads();
        detail::store_weights(shared, d_p);
        detail::stage_rows<width, 16 * N, Depth>(shared.c, slice * 16 * N, q);
        __syncthreads();
        detail::accumulate(shared, range, d_k);
      }
    for (int m = 0; m < M; ++m) {
      index_t const r = first + lane.y + 16 * m;
      if (r >= seq) continue;
      detail::store_columns<Depth, N, layout::group>(g.d_k.row(row0 + r) + column, slice * 16 * N, [&](int n) { return d_k[m][n]; });
      detail::store_columns<Depth, N, layout::group>(g.d_v.row(row0 + r) + column, slice * 16 * N, [&](int n) { return d_v[m][n]; });
    }
  }
}

}  // namespace moe::inline MOE_ISA
