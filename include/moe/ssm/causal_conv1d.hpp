#pragma once
#include <moe/ssm/detail/conv_tiles.hpp>

namespace moe::inline MOE_ISA {

/// width: taps of a channel, at least 1. silu: whether the result goes through silu.
struct causal_conv1d_config {
  int width = 4;
  bool silu = true;
};

namespace detail {
void check_conv_state(char const* op, char const* name, auto const& state, index_t sequences, index_t rows, index_t channels) {
  if (state.data() == nullptr) return;
  index_t const n = state.template extent<0>(), of_each = state.template extent<1>(), columns = state.template extent<2>();
  expects(n == sequences && of_each == rows && columns == channels, errc::shape_mismatch, op, ": ", name, " is [", n, ", ", of_each, ", ", columns,
          "], needs [", sequences, ", ", rows, ", ", channels, "]");
}
template <int W, class T>
void check_conv_operands(char const* op, conv_operands<W, T> const& o, vector_view<T const> bias) {
  index_t const channels = o.x.template extent<1>();
  check_matrix(op, "weight", o.weight, channels, W);
  if (bias.data() != nullptr) check_vector(op, "bias", bias, channels);
  check_conv_state(op, "initial_state", o.initial_state, o.sequences.count, W - 1, channels);
}
template <int W, class T>
void check_conv(conv_operands<W, T> const& o, vector_view<T const> bias, matrix_view<T> y, tensor<T, dyn, dyn, dyn> final_state) {
  char const* const op = "causal_conv1d";
  check_conv_operands(op, o, bias);
  check_matrix(op, "y", y, o.x.template extent<0>(), o.x.template extent<1>());
  check_conv_state(op, "final_state", final_state, o.sequences.count, W - 1, o.x.template extent<1>());
}
template <int W, class T>
void check_conv_backward(conv_operands<W, T> const& o, vector_view<T const> bias, conv_gradients<T> const& g,
                         std::type_identity_t<tensor<accumulator<T>, dyn, W>> d_weight, vector_view<accumulator<T>> d_bias) {
  char const* const op = "causal_conv1d_backward";
  index_t const tokens = o.x.template extent<0>(), channels = o.x.template extent<1>();
  check_conv_operands(op, o, bias);
  check_matrix(op, "d_y", g.d_y, tokens, channels);
  check_conv_state(op, "d_final_state", g.d_final_state, o.sequences.count, W - 1, channels);
  check_matrix(op, "d_x", g.d_x, tokens, channels);
  check_matrix(op, "d_weight", d_weight, channels, W);
  if (d_bias.data() != nullptr) check_vector(op, "d_bias", d_bias, channels);
  check_conv_state(op, "d_initial_state", g.d_initial_state, o.sequences.count, W - 1, channels);
  expects(g.d_initial_state.size() == 0 || g.d_initial_state.data() != g.d_final_state.data(), errc::bad_argument, op,
          ": d_initial_state is d_final_state, needs memory of its own");
}
}  // namespace detail

/// Convolution over time, every channel by itself, that looks back only; silu fused:
///   s[t, c] = bias[c] + sum_k weight[c, k] x[t - (width - 1) + k, c],   y = silu(s) = s / (1 + e^-s), or s itself without config.silu
/// What stands before the first row of a sequence is its initial state, or zeros.
///
///   x              [tokens, channels]                in   the rows of the sequences, one sequence after the other
///   weight         [channels, width]                 in   tap width - 1 is the token's own
///   bias           [channels]                        in   or null: none
///   sequences                                        in   where each sequence lies among the rows
///   initial_state  [sequences, width - 1, channels]  in   the width - 1 inputs before the sequence, oldest first; or null: zeros
///   y              [tokens, channels]                out  must not overlap x
///   final_state    [sequences, width - 1, channels]  out  the last width - 1 inputs, what initial_state is to the rows that follow; or null: not
///                                                         wanted. May be the very same view as initial_state
///
/// Edges   a sequence of no rows hands its state on. A sequence shorter than width - 1 keeps the younger part of its initial state. Zeros before the
///         first row are multiplied like any input: an infinite weight gives NaN there. A NaN reaches the width rows from its own on, nothing else.
/// Throws  shape_mismatch if the shapes differ or the sequences do not cover the rows; bad_argument if their offsets descend.
/// Order   one chain of fused multiply-adds from the bias (or 0) on, k ascending, in accumulator<T>: the same bits for any cut of a sequence into
///         calls, for a sequence alone as among others, and for any number of threads.
/// Cost    reads and writes tokens * channels elements; bound by memory. 8 MiB and more are written past the caches.
/// Source  Gu and Dao 2023, arXiv:2312.00752, figure 3.
template <causal_conv1d_config C = causal_conv1d_config{}, class T>
void causal_conv1d(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, C.width> weight, in<T, dyn> bias, sequence_rows sequences,
                   in<T, dyn, dyn, dyn> initial_state, tensor<T, dyn, dyn> y, std::type_identity_t<tensor<T, dyn, dyn, dyn>> final_state) {
  detail::conv_operands<C.width, T> const operands{x, weight, bias.data(), sequences, initial_state};
  detail::check_conv(operands, bias, y, final_state);
  detail::check_sequence_rows("causal_conv1d", space, sequences, x.template extent<0>());
  detail::conv_forward<C.silu>(space, operands, y, final_state);
}

/// Bytes of scratch of causal_conv1d_backward.
template <causal_conv1d_config C, class T>
std::size_t causal_conv1d_backward_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t channels, index_t sequences) {
  arena measure;
  detail::conv_partials<C.width, accumulator<T>>(measure, tokens, channels, sequences);
  return measure.peak();
}

/// Gradients of causal_conv1d. With g[t, c] = d_y[t, c] silu'(s[t, c]) (or d_y itself without config.silu), s being computed again:
///   d_x[t, c]        = sum_k weight[c, k] g[t + (width - 1) - k, c], over the rows of the sequence, plus d_final_state where the row is part of it
///   d_weight[c, k] += sum_t g[t, c] x[t - (width - 1) + k, c],   d_bias[c] += sum_t g[t, c]
///
///   x, weight, bias, sequences, initial_state        in      as in the forward
///   d_y              [tokens, channels]              in
///   d_final_state    [sequences, width - 1, channels] in     or null: zeros
///   d_x              [tokens, channels]              out     overwritten; must not overlap x or d_y
///   d_weight         [channels, width]               in/out  added to; accumulator<T>
///   d_bias           [channels]                      in/out  added to; accumulator<T>; or null: not wanted
///   d_initial_state  [sequences, width - 1, channels] out    overwritten; or null: not wanted. Must not overlap an input: the last tile of
///                                                         a sequence reads d_final_state, at any time
///
/// Edges   a sequence of no rows hands d_final_state on.
/// Throws  as the forward; bad_argument if d_initial_state is d_final_state; out_of_memory if scratch holds less than
///         causal_conv1d_backward_scratch_bytes.
/// Order   d_x, d_initial_state: one chain from d_final_state (or 0) on, rows ascending, which is k descending. d_weight, d_bias: chunks of 64 rows
///         of a sequence (of the multiple of 64 that holds width - 1 rows), rows ascending within one; the chunks of a sequence ascending; then the
///         sums of the sequences, one after the other, are added to what was there. So packed sequences give the bits of one call per sequence.
/// Cost    reads 2 tokens * channels elements, writes tokens * channels; bound by memory.
template <causal_conv1d_config C = causal_conv1d_config{}, class T>
void causal_conv1d_backward(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, C.width> weight, in<T, dyn> bias, sequence_rows sequences,
                            in<T, dyn, dyn, dyn> initial_state, in<T, dyn, dyn> d_y, in<T, dyn, dyn, dyn> d_final_state, tensor<T, dyn, dyn> d_x,
                            std::type_identity_t<tensor<accumulator<T>, dyn, C.width>> d_weight,
                            std::type_identity_t<tensor<accumulator<T>, dyn>> d_bias, std::type_identity_t<tensor<T, dyn, dyn, dyn>> d_initial_state,
                            arena& scratch) {
  char const* const op = "causal_conv1d_backward";
  detail::conv_operands<C.width, T> const operands{x, weight, bias.data(), sequences, initial_state};
  detail::conv_gradients<T> const gradients{d_y, d_final_state, d_x, d_initial_state};
  detail::check_conv_backward(operands, bias, gradients, d_weight, d_bias);
  index_t const tokens = x.template extent<0>(), channels = x.template extent<1>();
  detail::check_sequence_rows(op, space, sequences, tokens);
  detail::check_scratch(op, scratch, causal_conv1d_backward_scratch_bytes<C, T>(space, tokens, channels, sequences.count));
  arena::scope const scope(scratch);
  auto const partials = detail::conv_partials<C.width, accumulator<T>>(scratch, tokens, channels, sequences.count);
  detail::conv_backward<C.silu>(space, operands, gradients, partials);
  detail::conv_add_partials<C.width>(space, sequences, partials, d_weight, d_bias);
}

}  // namespace moe::inline MOE_ISA
