#pragma once
#include <moe/ssm/causal_conv1d.hpp>
#include <moe/ssm/detail/conv_tiles.cuh>
#include <moe/ssm/detail/conv_wide.cuh>

namespace moe::inline MOE_ISA {

/// The contract of causal_conv1d(cpu), with all views and the offsets in device memory; asynchronous on `space.stream`. In float and bf16 the bits of
/// the CPU where that one has fused multiply-adds; double uses the device's exponential.
///
/// Edges   offsets are not checked. Where they descend or leave the rows, other rows of x are read and other rows of y written.
template <causal_conv1d_config C = causal_conv1d_config{}, class T>
void causal_conv1d(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, C.width> weight, in<T, dyn> bias, sequence_rows sequences,
                   in<T, dyn, dyn, dyn> initial_state, tensor<T, dyn, dyn> y, std::type_identity_t<tensor<T, dyn, dyn, dyn>> final_state) {
  char const* const op = "causal_conv1d";
  detail::conv_operands<C.width, T> const operands{x, weight, bias.data(), sequences, initial_state};
  detail::check_conv(operands, bias, y, final_state);
  detail::check_sequence_rows(op, sequences, x.template extent<0>());
  if constexpr (C.width <= detail::conv_window_width)
    detail::for_each_conv_tile<detail::conv_lanes<T, C.width>>(op, space, operands,
                                                               detail::conv_forward_thread<C.silu, C.width, T>{operands, y, final_state});
  else detail::for_each_conv_tile<1>(op, space, operands, detail::conv_wide_forward_thread<C.silu, C.width, T>{operands, y, final_state});
}

/// Bytes of scratch of causal_conv1d_backward.
template <causal_conv1d_config C, class T>
std::size_t causal_conv1d_backward_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t channels, index_t sequences) {
  arena measure;
  detail::conv_device_scratch<C.width, T>(measure, tokens, channels, sequences);
  return measure.peak();
}

/// The contract of causal_conv1d_backward(cpu), with all views and the offsets in device memory; asynchronous on `space.stream`. The bits of the CPU
/// as in the forward.
///
/// Edges   offsets are not checked. Where they descend or leave the rows, other rows are read and other rows of d_x written.
template <causal_conv1d_config C = causal_conv1d_config{}, class T>
void causal_conv1d_backward(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, C.width> weight, in<T, dyn> bias, sequence_rows sequences,
                            in<T, dyn, dyn, dyn> initial_state, in<T, dyn, dyn> d_y, in<T, dyn, dyn, dyn> d_final_state, tensor<T, dyn, dyn> d_x,
                            std::type_identity_t<tensor<accumulator<T>, dyn, C.width>> d_weight,
                            std::type_identity_t<tensor<accumulator<T>, dyn>> d_bias, std::type_identity_t<tensor<T, dyn, dyn, dyn>> d_initial_state,
                            arena& scratch) {
  char const* const op = "causal_conv1d_backward";
  detail::conv_operands<C.width, T> const operands{x, weight, bias.data(), sequences, initial_state};
  detail::conv_gradients<T> const gradients{d_y, d_final_state, d_x, d_initial_state};
  detail::check_conv_backward(operands, bias, gradients, d_weight, d_bias);
  index_t const tokens = x.template extent<0>(), channels = x.template extent<1>();
  detail::check_sequence_rows(op, sequences, tokens);
  detail::check_scratch(op, scratch, causal_conv1d_backward_scratch_bytes<C, T>(space, tokens, channels, sequences.count));
  arena::scope const scope(scratch);
  detail::conv_device_scratch<C.width, T> const s(scratch, tokens, channels, sequences.count);
  if constexpr (C.width <= detail::conv_window_width) {
    detail::conv_backward_thread<C.silu, C.width, T> const thread{operands, gradients, s.partials};
    detail::for_each_conv_tile<detail::conv_lanes<T, C.width>>(op, space, operands, thread);
  } else {
    detail::for_each_conv_tile<1>(op, space, operands, detail::conv_wide_sums_thread<C.silu, C.width, T>{operands, d_y, s.g});
    detail::for_each_conv_tile<1>(op, space, operands, detail::conv_wide_gradients_thread<C.width, T>{operands, gradients, s.g, s.partials});
  }
  for_each_element(op, space, C.width + 1, channels,
                   detail::conv_add_partials_thread<C.width, accumulator<T>>{sequences, s.partials, d_weight, d_bias});
}

}  // namespace moe::inline MOE_ISA
