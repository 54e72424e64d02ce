#pragma once
#include <moe/ssm/detail/conv_tiles.cuh>

// causal_conv1d on CUDA for more taps than registers hold: the same tiles, a thread per channel, the window in the caches. The backward keeps g, the
// gradient of the sums of the taps, in scratch: every d_x looks at `width` of them.
namespace moe::inline MOE_ISA::detail {

/// The scratch of causal_conv1d_backward: the sums over the rows of each tile, and g where the window is wide.
template <int W, class T>
struct conv_device_scratch {
  using A = accumulator<T>;
  matrix_view<A> partials, g;
  conv_device_scratch(arena& memory, index_t tokens, index_t channels, index_t sequences)
      : partials(conv_partials<W, A>(memory, tokens, channels, sequences)) {
    if constexpr (W > conv_window_width) g = memory.mat<A>(tokens, channels);
  }
};

/// s of row t, channel c.
template <int W, class T>
__device__ accumulator<T> conv_wide_sum(conv_operands<W, T> const& o, sequence_tile const& tile, index_t t, index_t c) {
  using A = accumulator<T>;
  A s = o.bias != nullptr ? static_cast<A>(o.bias[c]) : A(0);
  for (int k = 0; k < W; ++k) s = madd(static_cast<A>(o.weight.row(c)[k]), conv_input<1>(o, tile, t - (W - 1) + k, c, 1).v[0], s);
  return s;
}

template <bool Silu, int W, class T>
struct conv_wide_forward_thread {
  using A = accumulator<T>;
  static constexpr int blocks = 4;
  conv_operands<W, T> o;
  tensor<T, dyn, dyn> y;
  tensor<T, dyn, dyn, dyn> final_state;
  __device__ void operator()(sequence_tile const& tile, index_t, index_t c) const {
    for (index_t t = tile.begin; t < tile.end; ++t) {
      A const s = conv_wide_sum(o, tile, t, c);
      y(tile.first + t, c) = T(Silu ? silu_scalar<A>::value(s) : s);
    }
    conv_write_state<1>(o, tile, final_state, c, 1);
  }
};

template <bool Silu, int W, class T>
struct conv_wide_sums_thread {
  using A = accumulator<T>;
  static constexpr int blocks = 4;
  conv_operands<W, T> o;
  tensor<T const, dyn, dyn> d_y;
  tensor<A, dyn, dyn> g;
  __device__ void operator()(sequence_tile const& tile, index_t, index_t c) const {
    for (index_t t = tile.begin; t < tile.end; ++t) {
      A const d = static_cast<A>(d_y(tile.first + t, c));
      g(tile.first + t, c) = Silu ? product(d, silu_scalar<A>::derivative(conv_wide_sum(o, tile, t, c))) : d;
    }
  }
};

template <int W, class T>
struct conv_wide_gradients_thread {
  using A = accumulator<T>;
  static constexpr int blocks = 4;
  conv_operands<W, T> o;
  conv_gradients<T> gradients;
  tensor<A const, dyn, dyn> g;
  tensor<A, dyn, dyn> partials;
  __device__ A g_of(sequence_tile const& tile, index_t t, index_t c) const { return t >= 0 && t < tile.rows ? g(tile.first + t, c) : A(0); }
  __device__ void operator()(sequence_tile const& tile, index_t number, index_t c) const {
    conv_gradient_place<1, W, T> const to{gradients, tile, c, 1};
    for (index_t p = tile.leads() ? 1 - W : tile.begin; p < tile.end; ++p) {
      pack<A, 1> d = to.start(p);
      for (int k = W - 1; k >= 0; --k) d.v[0] = madd(static_cast<A>(o.weight.row(c)[k]), g_of(tile, p + W - 1 - k, c), d.v[0]);
      to.store(p, d);
    }
    for (int k = 0; k <= W; ++k) {
      A sum = 0;
      for (index_t t = tile.begin; t < tile.end; ++t) {
        A const v = g(tile.first + t, c);
        sum = k < W ? madd(v, conv_input<1>(o, tile, t - (W - 1) + k, c, 1).v[0], sum) : sum + v;
      }
      partials.row(number * (W + 1) + k)[c] = sum;
    }
  }
};

}  // namespace moe::inline MOE_ISA::detail
