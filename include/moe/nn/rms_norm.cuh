#pragma once
#include <moe/nn/detail/norm.cuh>
#include <moe/nn/rms_norm.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

template <class T>
struct rms_norm_row {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> x;
  tensor<T const, dyn> weight;
  A eps;
  tensor<T, dyn, dyn> y;
  tensor<A, dyn> rstd;

  __device__ A squares(index_t t, int lane, A scale) const {
    constexpr int N = pack_size<T>;
    A sum = 0;
    lane_packs<N>(x.template extent<1>(), lane, [&](index_t c, int n) {
      auto const v = load_pack<N>(x.row(t) + c, n);
#pragma unroll
      for (A const e : v.v) sum = madd(e * scale, e * scale, sum);
    });
    return warp_sum(sum);
  }
  __device__ void operator()(index_t t, int lane) const {
    constexpr int N = pack_size<T>;
    index_t const d = x.template extent<1>();
    A const sum = squares(t, lane, A(1)), scale = down_scale<A>;
    A const r = sum > largest<A> ? rstd_of(squares(t, lane, scale), d, eps, scale) : rstd_of(sum, d, eps, A(1));
    if (lane == 0) rstd(t) = r;
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto v = load_pack<N>(x.row(t) + c, n);
      auto const w = load_pack<N>(weight.data() + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) v.v[i] = (v.v[i] * r) * w.v[i];
      store_pack(y.row(t) + c, v, n);
    });
  }
};

template <class T>
struct rms_norm_gradients {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> d_y, x;
  tensor<T const, dyn> weight;
  tensor<A const, dyn> rstd;
  tensor<A, dyn> mean_dot;        // [tokens]     mean over the row of weight d_y u
  tensor<A, dyn, dyn> d_weights;  // [chunks, d]  sums over the tokens of a chunk of d_y u
};

template <class T>
struct rms_norm_means {
  using A = accumulator<T>;
  rms_norm_gradients<T> g;
  __device__ void operator()(index_t t, int lane) const {
    constexpr int N = pack_size<T>;
    index_t const d = g.x.template extent<1>();
    A const r = g.rstd(t);
    A sum = 0;
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto const dy = load_pack<N>(g.d_y.row(t) + c, n), v = load_pack<N>(g.x.row(t) + c, n);
      auto const w = load_pack<N>(g.weight.data() + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) sum = madd(dy.v[i] * w.v[i], v.v[i] * r, sum);
    });
    sum = warp_sum(sum);
    if (lane == 0) g.mean_dot(t) = sum / static_cast<A>(d);
  }
};

template <class T>
struct rms_norm_backward_chunk {
  using A = accumulator<T>;
  rms_norm_gradients<T> g;
  tensor<T, dyn, dyn> d_x;
  __device__ void operator()(index_t chunk, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = d_x.template extent<1>() - c;
    auto const w = load_pack<N>(g.weight.data() + c, n);
    pack<A, N> sum{};
    chunk_rows<N>(chunk, g.d_y, g.x, c, [&](index_t t, ptx::vector16<T> const& d_y_row, ptx::vector16<T> const& x_row) {
      A const r = g.rstd(t), mean = g.mean_dot(t);
      pack<A, N> to;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        A const dy = static_cast<A>(d_y_row.v[i]), unit = static_cast<A>(x_row.v[i]) * r;
        sum.v[i] = madd(dy, unit, sum.v[i]);
        to.v[i] = r * madd(-mean, unit, dy * w.v[i]);
      }
      store_pack(d_x.row(t) + c, to, n);
    });
    store_pack(g.d_weights.row(chunk) + c, sum, n);
  }
};

/// The scratch of rms_norm_backward.
template <class T>
struct rms_norm_scratch {
  tensor<accumulator<T>, dyn> mean_dot;
  tensor<accumulator<T>, dyn, dyn> d_weights;
  rms_norm_scratch(arena& a, index_t tokens, index_t d)
      : mean_dot(a.vec<accumulator<T>>(tokens)), d_weights(a.mat<accumulator<T>>((tokens + norm_chunk - 1) / norm_chunk, d)) {}
};
}  // namespace detail

/// The contract of rms_norm(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   a row whose squares overflow is summed again, its elements scaled by a power of two.
/// Order   lane l of a warp has the 16 bytes number l, l + 32, ... of the row and adds their squares in one chain; a tree of halves joins the lanes.
template <class T>
void rms_norm(cuda const& space, in<T, dyn, dyn> x, in<T, dyn> weight, accumulator<T> eps, tensor<T, dyn, dyn> y, tensor<accumulator<T>, dyn> rstd) {
  detail::check_rms_norm(x, weight, eps, y, rstd);
  for_each_row("rms_norm", space, x.template extent<0>(), detail::rms_norm_row<T>{x, weight, eps, y, rstd});
}

/// Bytes of scratch of rms_norm_backward.
template <class T>
std::size_t rms_norm_backward_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t d) {
  arena measure;
  detail::rms_norm_scratch<T>(measure, tokens, d);
  return measure.peak();
}

/// The contract of rms_norm_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Order   the mean over a row as in the forward. d_weight: chunks of 64 tokens, tokens ascending within a chunk, chunks ascending.
/// Cost    reads 4 tokens * d elements, two of them from cache if that holds them; writes tokens * d.
template <class T>
void rms_norm_backward(cuda const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> x, in<T, dyn> weight, in<accumulator<T>, dyn> rstd,
                       tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn> d_weight, arena& scratch) {
  char const* const name = "rms_norm_backward";
  detail::check_rms_norm_backward(d_y, x, weight, rstd, d_x, d_weight);
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  if (tokens == 0 || d == 0) return;
  detail::check_scratch(name, scratch, rms_norm_backward_scratch_bytes<T>(space, tokens, d));
  arena::scope const scope(scratch);
  detail::rms_norm_scratch<T> const s(scratch, tokens, d);
  detail::rms_norm_gradients<T> const g{d_y, x, weight, rstd, s.mean_dot, s.d_weights};
  for_each_row(name, space, tokens, detail::rms_norm_means<T>{g});
  for_each_element(name, space, s.d_weights.template extent<0>(), detail::packs<T>(d), detail::rms_norm_backward_chunk<T>{g, d_x});
  detail::add_row_sums(name, space, s.d_weights, d_weight);
}

}  // namespace moe::inline MOE_ISA
