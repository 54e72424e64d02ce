#pragma once
#include <moe/nn/detail/norm.cuh>
#include <moe/nn/layer_norm.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

template <class T>
struct layer_norm_row {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> x;
  tensor<T const, dyn> weight, bias;
  A eps;
  tensor<T, dyn, dyn> y;
  tensor<A, dyn> mean, rstd;

  /// Mean of the scaled elements, and the sum of the squares of their distances from it.
  struct moments {
    A mean, squares;
  };
  __device__ moments scaled_moments(index_t t, int lane, A scale) const {
    constexpr int N = pack_size<T>;
    index_t const d = x.template extent<1>();
    A sum = 0, squares = 0;
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto const v = load_pack<N>(x.row(t) + c, n);
#pragma unroll
      for (A const e : v.v) sum = madd(e, scale, sum);
    });
    A const center = warp_sum(sum) / static_cast<A>(d > 0 ? d : 1);
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto const v = load_pack<N>(x.row(t) + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        A const distance = madd(v.v[i], scale, -center);
        squares = i < n ? madd(distance, distance, squares) : squares;
      }
    });
    return {center, warp_sum(squares)};
  }
  __device__ void operator()(index_t t, int lane) const {
    constexpr int N = pack_size<T>;
    index_t const d = x.template extent<1>();
    A scale = 1;
    moments s = scaled_moments(t, lane, scale);
    if (!(s.squares <= largest<A>)) {  // also where the mean overflowed; NaN stays
      scale = down_scale<A>;
      s = scaled_moments(t, lane, scale);
    }
    A const m = s.mean / scale, r = rstd_of(s.squares, d, eps, scale);
    if (lane == 0) mean(t) = m, rstd(t) = r;
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto v = load_pack<N>(x.row(t) + c, n);
      auto const w = load_pack<N>(weight.data() + c, n), b = load_pack<N>(bias.data() + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) v.v[i] = madd((v.v[i] - m) * r, w.v[i], b.v[i]);
      store_pack(y.row(t) + c, v, n);
    });
  }
};

template <class T>
struct layer_norm_gradients {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> d_y, x;
  tensor<T const, dyn> weight;
  tensor<A const, dyn> mean, rstd;
  tensor<A, dyn> mean_gradient, mean_dot;   // [tokens]     means over the row of g and of g u
  tensor<A, dyn, dyn> d_weights, d_biases;  // [chunks, d]  sums over the tokens of a chunk of d_y u and of d_y
};

template <class T>
struct layer_norm_means {
  using A = accumulator<T>;
  layer_norm_gradients<T> g;
  __device__ void operator()(index_t t, int lane) const {
    constexpr int N = pack_size<T>;
    index_t const d = g.x.template extent<1>();
    A const r = g.rstd(t), m = g.mean(t);
    A total = 0, dot = 0;
    lane_packs<N>(d, lane, [&](index_t c, int n) {
      auto const dy = load_pack<N>(g.d_y.row(t) + c, n), v = load_pack<N>(g.x.row(t) + c, n);
      auto const w = load_pack<N>(g.weight.data() + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) {  // beyond the row d_y and w are 0
        total = madd(dy.v[i], w.v[i], total);
        dot = madd(dy.v[i] * w.v[i], (v.v[i] - m) * r, dot);
      }
    });
    total = warp_sum(total), dot = warp_sum(dot);
    if (lane == 0) g.mean_gradient(t) = total / static_cast<A>(d), g.mean_dot(t) = dot / static_cast<A>(d);
  }
};

template <class T>
struct layer_norm_backward_chunk {
  using A = accumulator<T>;
  layer_norm_gradients<T> g;
  tensor<T, dyn, dyn> d_x;
  __device__ void operator()(index_t chunk, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = d_x.template extent<1>() - c;
    auto const w = load_pack<N>(g.weight.data() + c, n);
    pack<A, N> d_weight{}, d_bias{};
    chunk_rows<N>(chunk, g.d_y, g.x, c, [&](index_t t, ptx::vector16<T> const& d_y_row, ptx::vector16<T> const& x_row) {
      A const r = g.rstd(t), m = g.mean(t), mean_gradient = g.mean_gradient(t), mean_dot = g.mean_dot(t);
      pack<A, N> to;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        A const dy = static_cast<A>(d_y_row.v[i]), unit = (static_cast<A>(x_row.v[i]) - m) * r;
        d_weight.v[i] = madd(dy, unit, d_weight.v[i]);
        d_bias.v[i] += dy;
        to.v[i] = r * madd(-mean_dot, unit, madd(dy, w.v[i], -mean_gradient));
      }
      store_pack(d_x.row(t) + c, to, n);
    });
    store_pack(g.d_weights.row(chunk) + c, d_weight, n);
    store_pack(g.d_biases.row(chunk) + c, d_bias, n);
  }
};

/// The scratch of layer_norm_backward.
template <class T>
struct layer_norm_scratch {
  using A = accumulator<T>;
  tensor<A, dyn> mean_gradient, mean_dot;
  tensor<A, dyn, dyn> d_weights, d_biases;
  layer_norm_scratch(arena& a, index_t tokens, index_t d)
      : mean_gradient(a.vec<A>(tokens)), mean_dot(a.vec<A>(tokens)), d_weights(a.mat<A>((tokens + norm_chunk - 1) / norm_chunk, d)),
        d_biases(a.mat<A>((tokens + norm_chunk - 1) / norm_chunk, d)) {}
};
}  // namespace detail

/// The contract of layer_norm(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   a row whose sum or squares overflow is summed again, its elements scaled by a power of two.
/// Order   lane l of a warp has the 16 bytes number l, l + 32, ... of the row and adds in one chain; a tree of halves joins the lanes.
template <class T>
void layer_norm(cuda const& space, in<T, dyn, dyn> x, in<T, dyn> weight, in<T, dyn> bias, accumulator<T> eps, tensor<T, dyn, dyn> y,
                tensor<accumulator<T>, dyn> mean, tensor<accumulator<T>, dyn> rstd) {
  detail::check_layer_norm(x, weight, bias, eps, y, mean, rstd);
  for_each_row("layer_norm", space, x.template extent<0>(), detail::layer_norm_row<T>{x, weight, bias, eps, y, mean, rstd});
}

/// Bytes of scratch of layer_norm_backward.
template <class T>
std::size_t layer_norm_backward_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t d) {
  arena measure;
  detail::layer_norm_scratch<T>(measure, tokens, d);
  return measure.peak();
}

/// The contract of layer_norm_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Order   the means over a row as in the forward. d_weight, d_bias: chunks of 64 tokens, tokens ascending within a chunk, chunks ascending.
/// Cost    reads 4 tokens * d elements, two of them from cache if that holds them; writes tokens * d.
template <class T>
void layer_norm_backward(cuda const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> x, in<T, dyn> weight, in<accumulator<T>, dyn> mean,
                         in<accumulator<T>, dyn> rstd, tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn> d_weight,
                         tensor<accumulator<T>, dyn> d_bias, arena& scratch) {
  char const* const name = "layer_norm_backward";
  detail::check_layer_norm_backward(d_y, x, weight, mean, rstd, d_x, d_weight, d_bias);
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  if (tokens == 0 || d == 0) return;
  detail::check_scratch(name, scratch, layer_norm_backward_scratch_bytes<T>(space, tokens, d));
  arena::scope const scope(scratch);
  detail::layer_norm_scratch<T> const s(scratch, tokens, d);
  detail::layer_norm_gradients<T> const g{d_y, x, weight, mean, rstd, s.mean_gradient, s.mean_dot, s.d_weights, s.d_biases};
  for_each_row(name, space, tokens, detail::layer_norm_means<T>{g});
  for_each_element(name, space, s.d_weights.template extent<0>(), detail::packs<T>(d), detail::layer_norm_backward_chunk<T>{g, d_x});
  detail::add_row_sums(name, space, s.d_weights, d_weight);
  detail::add_row_sums(name, space, s.d_biases, d_bias);
}

}  // namespace moe::inline MOE_ISA
