#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/elementwise.hpp>
#include <moe/ssm/detail/conv_rows.hpp>
#include <moe/ssm/detail/sequence_tiles.hpp>

// How causal_conv1d deals its work to the threads of the CPU: tiles of rows of one sequence by blocks of channels, each by itself.
namespace moe::inline MOE_ISA::detail {

/// Rows of a tile: 64, or what tile but the first of a sequence needs to reach back to its initial state. Its gradients of weight and bias form one
/// partial sum.
template <int W>
inline constexpr index_t conv_chunk = W <= 65 ? 64 : (W + 62) / 64 * 64;

/// What forward and backward read.
template <int W, class T>
struct conv_operands {
  static_assert(W >= 1, "moe::causal_conv1d: causal_conv1d_config::width must be at least 1");
  tensor<T const, dyn, dyn> x;
  tensor<T const, dyn, W> weight;
  T const* bias;
  sequence_rows sequences;
  tensor<T const, dyn, dyn, dyn> initial_state;

  /// The channels from c on of what stands at row p of a sequence.
  T const* input(sequence_tile const& tile, index_t p, index_t c) const {
    if (p >= tile.rows) return conv_zeros<T>;
    if (p >= 0) return x.row(tile.first + p) + c;
    return initial_state.data() == nullptr ? conv_zeros<T> : initial_state.row((tile.s + 1) * (W - 1) + p) + c;
  }
};
template <class T>
struct conv_gradients {
  tensor<T const, dyn, dyn> d_y;
  tensor<T const, dyn, dyn, dyn> d_final_state;
  tensor<T, dyn, dyn> d_x;
  tensor<T, dyn, dyn, dyn> d_initial_state;
};

/// Calls f(i, tile, first, n, weights) for all tiles by blocks of n channels from `first` on. A worker keeps the weights of a block for a few tiles.
template <int W, class T, class F>
void conv_tiles(cpu const& space, conv_operands<W, T> const& o, double work, F const& f) {
  index_t const channels = o.x.template extent<1>(), size = conv_chunk<W>, block = conv_block<accumulator<T>>(W), blocks = chunks(channels, block);
  index_t const tiles = sequence_tiles(o.x.template extent<0>(), o.sequences.count, size);
  index_t const together = std::clamp<index_t>(tiles * blocks / (8 * std::max(space.threads, 1)), 1, 16), items = chunks(tiles, together) * blocks;
  double const rows = static_cast<double>(o.x.template extent<0>()) / static_cast<double>(std::max<index_t>(1, tiles)) + 1;
  parallel_for(space, items, work * rows * static_cast<double>(together * std::min(block, channels)), [&](index_t item) {
    index_t const first = item % blocks * block, n = std::min(block, channels - first), begin = item / blocks * together;
    conv_weights<W, T> const weights(o.weight, o.bias, first, n);
    for (index_t i = begin; i < std::min(tiles, begin + together); ++i)
      if (sequence_tile const tile = tile_of(o.sequences, i, size); !tile.empty()) f(i, tile, first, n, weights);
  });
}

template <bool Silu, bool Stream, int W, class T>
void conv_forward_tile(sequence_tile const& tile, conv_operands<W, T> const& o, tensor<T, dyn, dyn> y, index_t first, index_t n,
                       conv_weights<W, T> const& weights) {
  T const* in[static_cast<std::size_t>(conv_chunk<W> + W - 1 + conv_rows)];
  T* out[static_cast<std::size_t>(conv_chunk<W>)];
  index_t const rows = tile.end - tile.begin;
  for (index_t i = 0; i < rows + W - 1 + conv_rows; ++i) in[i] = o.input(tile, tile.begin - (W - 1) + i, first);
  for (index_t i = 0; i < rows; ++i) out[i] = y.row(tile.first + tile.begin + i) + first;
  index_t i = 0;
  for (; i + conv_rows <= rows; i += conv_rows) conv_forward_rows<Silu, Stream, conv_rows, W, T>(in + i, weights, out + i, n);
  for (; i < rows; ++i) conv_forward_rows<Silu, Stream, 1, W, T>(in + i, weights, out + i, n);
}

template <bool Silu, int W, class T>
void conv_forward(cpu const& space, conv_operands<W, T> const& o, tensor<T, dyn, dyn> y, tensor<T, dyn, dyn, dyn> final_state) {
  bool const stream = streams_rows(y);
  conv_tiles(space, o, Silu ? 20 : 8, [&](index_t, sequence_tile const& tile, index_t first, index_t n, conv_weights<W, T> const& weights) {
    if (stream) conv_forward_tile<Silu, true>(tile, o, y, first, n, weights), fence_streams();
    else conv_forward_tile<Silu, false>(tile, o, y, first, n, weights);
    if (!tile.leads() || final_state.data() == nullptr) return;
    for (index_t j = 0; j < W - 1; ++j) {  // ascending: it may be the initial state, which no other tile reads
      T const* const from = o.input(tile, tile.rows - (W - 1) + j, first);
      T* const to = final_state.row(tile.s * (W - 1) + j) + first;
      if (from != to) std::copy_n(from, n, to);
    }
  });
}

/// A tile of the backward: the pointers of its rows, and of the W - 1 rows behind it, which complete the gradients of its last rows.
template <bool Silu, bool Stream, int W, class T>
void conv_backward_tile(sequence_tile const& tile, conv_operands<W, T> const& o, conv_gradients<T> const& g, index_t first, index_t n,
                        conv_weights<W, T> const& weights, conv_carry<W, accumulator<T>>& carry) {
  constexpr index_t behind = (W - 1 + conv_rows - 1) / conv_rows * conv_rows;
  constexpr auto most = static_cast<std::size_t>(conv_chunk<W> + behind + conv_rows);  // the last are only fetched
  T const *in[most + W - 1], *d_y[most], *start[most];
  T* d_x[most];
  alignas(64) T unwanted[static_cast<std::size_t>(conv_block<accumulator<T>>(W))];
  index_t const rows = tile.end - tile.begin, final_rows = tile.rows - (W - 1);  // from there on rows are part of the final state
  bool const starts = g.d_final_state.data() != nullptr && tile.end > final_rows;
  for (index_t i = 0; i < rows + behind + W - 1 + conv_rows; ++i) in[i] = o.input(tile, tile.begin - (W - 1) + i, first);
  for (index_t i = 0; i < rows + behind + conv_rows; ++i) {
    index_t const t = tile.begin + i, p = t - (W - 1);
    d_y[i] = t < tile.rows ? g.d_y.row(tile.first + t) + first : conv_zeros<T>;
    start[i] = starts && p >= final_rows && p < tile.rows ? g.d_final_state.row(tile.s * (W - 1) + p - final_rows) + first : conv_zeros<T>;
    if (p >= tile.begin && p < tile.end) d_x[i] = g.d_x.row(tile.first + p) + first;
    else d_x[i] = p < 0 && g.d_initial_state.data() != nullptr ? g.d_initial_state.row((tile.s + 1) * (W - 1) + p) + first : unwanted;
  }
  auto const run = [&]<int R, bool Sum>(std::integral_constant<int, R>, std::bool_constant<Sum>, index_t i) {
    conv_backward_rows<Silu, Stream, Sum, R, W, T>(in + i, d_y + i, starts ? start + i : nullptr, d_x + i, weights, carry, n);
  };
  index_t i = 0;
  for (; i + conv_rows <= rows; i += conv_rows) run(std::integral_constant<int, conv_rows>(), std::true_type(), i);
  for (; i < rows; ++i) run(std::integral_constant<int, 1>(), std::true_type(), i);
  for (; i < rows + behind; i += conv_rows) run(std::integral_constant<int, conv_rows>(), std::false_type(), i);
}

/// The sums over the rows of each tile: row i * (W + 1) + k is tap k of tile i, or, for k == W, the bias.
template <int W, class A>
matrix_view<A> conv_partials(arena& memory, index_t tokens, index_t channels, index_t sequences) {
  return memory.mat<A>(elements(sequence_tiles(elements(tokens), elements(sequences), conv_chunk<W>), W + 1), channels);
}

template <bool Silu, int W, class T>
void conv_backward(cpu const& space, conv_operands<W, T> const& o, conv_gradients<T> const& g, matrix_view<accumulator<T>> partials) {
  using A = accumulator<T>;
  bool const stream = streams_rows(g.d_x);
  conv_tiles(space, o, Silu ? 45 : 25, [&](index_t i, sequence_tile const& tile, index_t first, index_t n, conv_weights<W, T> const& weights) {
    conv_carry<W, A> carry;
    std::fill_n(carry.g[0], std::size(carry.g) * std::size(carry.g[0]), A(0));
    for (int k = 0; k <= W; ++k) {
      carry.sums[k] = partials.row(i * (W + 1) + k) + first;
      std::fill_n(carry.sums[k], n, A(0));
    }
    if (stream && !(tile.leads() && g.d_initial_state.data() != nullptr))
      conv_backward_tile<Silu, true>(tile, o, g, first, n, weights, carry), fence_streams();
    else conv_backward_tile<Silu, false>(tile, o, g, first, n, weights, carry);
  });
}

/// Adds the partial sums: those of a sequence first, then one sequence after the other.
template <int W, class A>
void conv_add_partials(cpu const& space, sequence_rows const& sequences, matrix_view<A> partials, tensor<A, dyn, W> d_weight, tensor<A, dyn> d_bias) {
  using V = simd<A>;
  index_t const size = conv_chunk<W>;
  parallel_chunks(space, d_weight.template extent<0>(), V::width, static_cast<double>(partials.rows()), [&](index_t, index_t begin, index_t end) {
    for (index_t s = 0; s < sequences.count; ++s) {
      index_t const first = first_tile(sequences, s, size), tiles = chunks(sequences.rows(s), size);
      for (int k = 0; k <= W && tiles > 0; ++k) {
        V sum = V::load(partials.row(first * (W + 1) + k) + begin, end - begin);
        for (index_t i = 1; i < tiles; ++i) sum = sum + V::load(partials.row((first + i) * (W + 1) + k) + begin, end - begin);
        for (index_t c = begin; c < end; ++c) {
          if (k < W) d_weight.row(c)[k] += sum[static_cast<int>(c - begin)];
          else if (d_bias.data() != nullptr) d_bias.data()[c] += sum[static_cast<int>(c - begin)];
        }
      }
    }
  });
}

}  // namespace moe::inline MOE_ISA::detail
