#pragma once
#include <moe/ssm/detail/scan_backward.cuh>
#include <moe/ssm/detail/scan_forward.cuh>
#include <moe/ssm/selective_scan.hpp>

namespace moe::inline MOE_ISA {

/// Bytes of scratch of selective_scan: none.
template <selective_scan_config C, class T>
std::size_t selective_scan_scratch_bytes(cuda const& /*space*/, index_t /*tokens*/, index_t /*channels*/, index_t /*sequences*/) {
  detail::check_scan_config<C>();
  return 0;
}

/// The contract of selective_scan(cpu), with all views and the offsets in device memory; asynchronous on `space.stream`. The order of summation is
/// the same: in float and bf16 the bits of the CPU where that one has fused multiply-adds; double uses the device's exponential.
///
/// Edges   offsets are not checked. Where they descend or leave the rows, other rows of the inputs are read, and other rows of out and of the
///         checkpoints written.
/// Cost    sequential in time: a block per sequence and 32 channels (of 16 states), so that few channels of few long sequences leave the device idle.
template <selective_scan_config C, class T>
void selective_scan(cuda const& space, selective_scan_inputs<T> const& in, sequence_rows sequences,
                    std::type_identity_t<scan_states<accumulator<T> const>> initial_state, std::type_identity_t<matrix_view<T>> out,
                    std::type_identity_t<scan_states<accumulator<T>>> final_state, selective_scan_checkpoints<T> const& checkpoints,
                    arena& /*scratch*/) {
  using shape = detail::scan_forward_shape<C.d_state, accumulator<T>>;
  char const* const op = "selective_scan";
  detail::check_scan<C>(in, sequences, initial_state, out, final_state, checkpoints);
  index_t const items = detail::elements(sequences.count, detail::scan_channel_blocks(in.channels(), C.groups, shape::channels));
  detail::scan_forward_problem<T> const problem{in, sequences, initial_state, out, final_state, checkpoints};
  launch(op, detail::scan_forward_kernel<C.d_state, C.softplus, T>,
         {.blocks = items, .threads = shape::threads, .shared_bytes = sizeof(typename shape::layout)}, space, problem, index_t{C.groups}, items);
}

/// Bytes of scratch of selective_scan_backward: 2 d_state numbers for each row and 64 channels (32 in double), d_state + 2 for each channel of each
/// sequence.
template <selective_scan_config C, class T>
std::size_t selective_scan_backward_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t channels, index_t sequences) {
  detail::check_scan_config<C>();
  arena measure;
  detail::scan_device_scratch<C.d_state, accumulator<T>>(measure, tokens, channels, C.groups, sequences);
  return measure.peak();
}

/// The contract of selective_scan_backward(cpu), with all views and the offsets in device memory; asynchronous on `space.stream`.
///
/// Edges   offsets are not checked. Where they descend or leave the rows, other rows are read, and other rows of the gradients and of scratch
///         written.
/// Order   h, l and d_a as on the CPU. Sums over n: a chain for each lane's states, a tree of halves over the lanes of a channel. d_b and d_c: a
///         tree of halves over the channels of a warp, the warps of a block ascending, blocks ascending. d_skip and d_delta_bias: the rows of a
///         sequence in as many classes as a channel has lanes, each summed up the sequence; classes ascending; sequences ascending.
/// Cost    2 exponentials per row, channel and state; sequential in time, as the forward.
template <selective_scan_config C, class T>
void selective_scan_backward(cuda const& space, selective_scan_inputs<T> const& in, sequence_rows sequences,
                             std::type_identity_t<scan_states<accumulator<T> const>> initial_state, selective_scan_checkpoints<T> const& checkpoints,
                             std::type_identity_t<matrix_view<T const>> d_out, std::type_identity_t<scan_states<accumulator<T> const>> d_final_state,
                             selective_scan_gradients<T> const& gradients, std::type_identity_t<scan_states<accumulator<T>>> d_initial_state,
                             arena& scratch) {
  using A = accumulator<T>;
  constexpr int N = C.d_state;
  using shape = detail::scan_backward_shape<N, A>;
  char const* const op = "selective_scan_backward";
  detail::check_scan_backward<C>(in, sequences, initial_state, checkpoints, d_out, d_final_state, gradients, d_initial_state);
  detail::check_scratch(op, scratch, selective_scan_backward_scratch_bytes<C, T>(space, in.tokens(), in.channels(), sequences.count));
  arena::scope const scope(scratch);
  detail::scan_device_scratch<N, A> const s(scratch, in.tokens(), in.channels(), C.groups, sequences.count);
  index_t const blocks = detail::scan_channel_blocks(in.channels(), C.groups, shape::channels), items = detail::elements(sequences.count, blocks);
  detail::scan_backward_problem<T> const problem{in, sequences, initial_state, checkpoints, d_out, d_final_state, gradients, d_initial_state};
  launch(op, detail::scan_backward_kernel<N, C.softplus, T>,
         {.blocks = items, .threads = shape::threads, .shared_bytes = sizeof(typename shape::layout)}, space, problem, s, index_t{C.groups}, items);
  for_each_element(op, space, in.tokens(), index_t{2} * N * C.groups,
                   detail::scan_add_blocks<N, T>{s.by_block, gradients.d_b, gradients.d_c, blocks / C.groups});
  for_each_element(op, space, N + 2, in.channels(), detail::scan_add_sequences<N, T>{s.d_a, s.ends, gradients, sequences.count});
}

}  // namespace moe::inline MOE_ISA
