#pragma once
#include <moe/ssm/detail/scan_forward.hpp>
#include <moe/ssm/detail/scan_rounds.hpp>

namespace moe::inline MOE_ISA {

/// Bytes of scratch of selective_scan for `tokens` rows.
template <selective_scan_config C, class T>
std::size_t selective_scan_scratch_bytes(cpu const& space, index_t /*tokens*/, index_t /*channels*/, index_t /*sequences*/) {
  detail::check_scan_config<C>();
  return detail::scan_forward_scratch_bytes<C, T>(space);
}

/// The selective state-space recurrence, in each sequence and channel by itself. With dt = softplus(delta + delta_bias), identity above 20
/// (config::softplus; else delta + delta_bias), and group g of channel d:
///
///   h[t, d, n] = exp(dt[t, d] a[d, n]) h[t - 1, d, n] + dt[t, d] u[t, d] b[t, g, n]
///   y[t, d]    = sum_n c[t, g, n] h[t, d, n] + skip[d] u[t, d]
///   out[t, d]  = y[t, d] silu(z[t, d])                                              out = y where there is no z
///
///   in             views  selective_scan_inputs says which
///   sequences      in     which rows are a sequence
///   initial_state  [sequences, channels, d_state]  in   of accumulator<T>: h before the first row; no data: 0
///   out            [tokens, channels]              out  must not overlap an input
///   final_state    [sequences, channels, d_state]  out  of accumulator<T>: h after the last row, of an empty sequence its initial state; no data:
///                                                       not wanted. May be the very same view as initial_state
///   checkpoints    out    what selective_scan_backward needs; no data: not wanted
///
/// Edges   0 rows write final_state only. A NaN in u, delta or z of a channel reaches that channel of its sequence, from its row on, nothing else.
///         delta may be as large as T allows: the decay is then exactly 0; where dt is 0 it is exactly 1.
/// Throws  shape_mismatch if extents disagree or groups do not divide the channels; bad_argument if offsets do not ascend from 0; out_of_memory if
///         scratch holds less than selective_scan_scratch_bytes.
/// Order   h in accumulator<T>: madd(decay, h, (dt u) b), t ascending; the sum over n is one chain of madd, n ascending, then madd(skip, u, y). So
///         the bits depend neither on threads nor on other sequences, and a sequence cut anywhere into calls, down to one row each, with the final
///         state of one as the initial state of the next, has the bits of one call.
/// Cost    per row, channel and state 1 exponential and 3 multiply-adds; reads u, delta, z once, writes out once.
/// Source  Gu and Dao 2023, arXiv:2312.00752, algorithm 2 (a by zero-order hold, b by Euler's rule, as their code).
template <selective_scan_config C, class T>
void selective_scan(cpu const& space, selective_scan_inputs<T> const& in, sequence_rows sequences,
                    std::type_identity_t<scan_states<accumulator<T> const>> initial_state, std::type_identity_t<matrix_view<T>> out,
                    std::type_identity_t<scan_states<accumulator<T>>> final_state, selective_scan_checkpoints<T> const& checkpoints, arena& scratch) {
  detail::check_scan<C>(in, sequences, initial_state, out, final_state, checkpoints);
  detail::check_sequence_rows("selective_scan", space, sequences, in.tokens());
  detail::check_scratch("selective_scan", scratch, selective_scan_scratch_bytes<C, T>(space, in.tokens(), in.channels(), sequences.count));
  detail::scan_forward<C, T>(space, {in, sequences, initial_state, out, final_state, checkpoints}, scratch);
}

/// Bytes of scratch of selective_scan_backward: they grow with channels and sequences, but not with the length of a sequence.
template <selective_scan_config C, class T>
std::size_t selective_scan_backward_scratch_bytes(cpu const& space, index_t tokens, index_t channels, index_t sequences) {
  detail::check_scan_config<C>();
  return detail::scan_backward_scratch_bytes<C, T>(space, tokens, channels, sequences);
}

/// Gradients of selective_scan from d_out = d loss / d out and d_final_state. With d_y = d_out silu(z), q[t] = exp(dt[t] a) h[t - 1] and the adjoint
///
///   l[t, d, n] = d_y[t, d] c[t, g, n] + exp(dt[t + 1, d] a[d, n]) l[t + 1, d, n]         d_final_state in place of the last product at the last row
///
///   d_u     = skip d_y + dt sum_n l b          d_delta = softplus'(delta + delta_bias) sum_n l (b u + a q)     d_delta_bias += sum_t d_delta
///   d_b     = sum_d l dt u                     d_c     = sum_d d_y h                                           over the channels of the group
///   d_a    += sum_t l dt q                     d_skip += sum_t d_y u                                           d_z = d_out y silu'(z)
///   d_initial_state = exp(dt[0] a) l[0]        of an empty sequence d_final_state
///
///   in, sequences, initial_state  in   as of selective_scan
///   checkpoints      in   of selective_scan with these inputs
///   d_out            [tokens, channels]              in
///   d_final_state    [sequences, channels, d_state]  in   of accumulator<T>; no data: 0
///   gradients        out  those of T overwritten, those of accumulator<T> added to; no data where the input has none; must not overlap an input
///   d_initial_state  [sequences, channels, d_state]  out  of accumulator<T>; no data: not wanted. May be the very same view as d_final_state
///
/// Edges   0 rows write d_initial_state only. A NaN in u, delta, z or d_out of a channel reaches the gradients of that channel, and d_b and d_c of
///         its group and sequence, but no other channel and no other sequence.
/// Throws  as selective_scan.
/// Order   h as the forward, t ascending from a checkpoint; l: madd, t descending; sums over n: one chain, n ascending. d_b and d_c: the channels of
///         a group in blocks of one machine vector, a tree of halves within a block, blocks ascending. d_a, d_skip and d_delta_bias: chunks of
///         scan_chunk rows from the first row of a sequence, rows descending within a chunk, chunks descending, sequences ascending. So the bits do
///         not depend on threads; those of all but these three depend neither on other sequences nor on where a sequence is cut into calls.
/// Cost    per row, channel and state 1 exponential and about 16 operations; reads every input once. What it keeps of a chunk stands in scratch:
///         memory grows with the length of a sequence by its checkpoints alone, d_state / scan_chunk elements per row and channel.
/// Source  arXiv:2312.00752, section 3.3.2 (recomputation).
template <selective_scan_config C, class T>
void selective_scan_backward(cpu const& space, selective_scan_inputs<T> const& in, sequence_rows sequences,
                             std::type_identity_t<scan_states<accumulator<T> const>> initial_state, selective_scan_checkpoints<T> const& checkpoints,
                             std::type_identity_t<matrix_view<T const>> d_out, std::type_identity_t<scan_states<accumulator<T> const>> d_final_state,
                             selective_scan_gradients<T> const& gradients, std::type_identity_t<scan_states<accumulator<T>>> d_initial_state,
                             arena& scratch) {
  char const* const op = "selective_scan_backward";
  detail::check_scan_backward<C>(in, sequences, initial_state, checkpoints, d_out, d_final_state, gradients, d_initial_state);
  detail::check_sequence_rows(op, space, sequences, in.tokens());
  detail::check_scratch(op, scratch, selective_scan_backward_scratch_bytes<C, T>(space, in.tokens(), in.channels(), sequences.count));
  detail::scan_backward<C, T>(space, {in, sequences, initial_state, checkpoints, d_out, d_final_state, gradients, d_initial_state}, scratch);
}

}  // namespace moe::inline MOE_ISA
