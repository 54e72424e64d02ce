#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/detail/check.hpp>
#include <moe/ssm/sequence_rows.hpp>

namespace moe::inline MOE_ISA {

/// d_state: states of a channel; groups: of channels that share b and c; softplus: whether delta goes through ln(1 + e^x).
struct selective_scan_config {
  int d_state = 16;
  int groups = 1;
  bool softplus = true;
};

/// What selective_scan reads. Any row stride, so that u, delta, b, c and z may be columns of wider matrices.
template <class T>
struct selective_scan_inputs {
  using A = accumulator<T>;
  matrix_view<T const> u, delta;  ///< [tokens, channels]
  matrix_view<A const> a;         ///< [channels, d_state]           decay rates, negative in a stable system
  matrix_view<T const> b, c;      ///< [tokens, groups * d_state]    group g serves channels [g * channels / groups, (g + 1) * channels / groups)
  vector_view<A const> skip, delta_bias;  ///< [channels], or no data: none
  matrix_view<T const> z;                 ///< [tokens, channels] gate, or no data: none

  MOE_HD index_t tokens() const { return u.template extent<0>(); }
  MOE_HD index_t channels() const { return u.template extent<1>(); }
};

/// What selective_scan_backward writes: those of T are overwritten, those of accumulator<T> added to. No data where the input has none.
template <class T>
struct selective_scan_gradients {
  using A = accumulator<T>;
  matrix_view<T> d_u, d_delta;          ///< [tokens, channels]; d_delta: of delta, before bias and softplus
  matrix_view<A> d_a;                   ///< [channels, d_state]
  matrix_view<T> d_b, d_c;              ///< [tokens, groups * d_state]
  vector_view<A> d_skip, d_delta_bias;  ///< [channels]
  matrix_view<T> d_z;                   ///< [tokens, channels]
};

/// The states [sequences, channels, d_state] before the first and after the last row of each sequence.
template <class T>
using scan_states = tensor<T, dyn, dyn, dyn>;

inline constexpr index_t scan_chunk = 64;  ///< rows of a sequence whose states the backward holds at once; chunks begin with their sequence

/// The states before each chunk of each sequence, which selective_scan leaves for selective_scan_backward. Chunk k of sequence s is slot(s, k).
template <class T>
struct selective_scan_checkpoints {
  matrix_view<accumulator<T>> states;  ///< [slots * d_state, channels]: a slot is d_state rows of all channels. Slots of first chunks are not used

  /// No two chunks share a slot, and none needs the lengths of other sequences.
  static MOE_HD index_t slot(sequence_rows const& sequences, index_t s, index_t chunk) { return sequences.first(s) / scan_chunk + s + chunk; }
  /// Slots for any `sequences` sequences of `tokens` rows together.
  static index_t slots(index_t tokens, index_t sequences) {
    expects(tokens >= 0 && sequences >= 0, errc::bad_argument, "selective_scan_checkpoints: ", tokens, " rows in ", sequences,
            " sequences, must not be negative");
    return tokens / scan_chunk + sequences;
  }
  /// A view, not initialised. On a measuring arena: counts the bytes.
  static selective_scan_checkpoints take(arena& memory, index_t tokens, index_t sequences, index_t channels, index_t d_state) {
    return {memory.mat<accumulator<T>>(detail::elements(slots(tokens, sequences), d_state), channels)};
  }
};

namespace detail {
template <selective_scan_config C>
constexpr void check_scan_config() {
  static_assert(C.d_state >= 1 && C.groups >= 1, "moe::selective_scan: d_state and groups must be at least 1");
}

/// A vector [n] or nothing.
template <class V>
void check_optional_vector(char const* op, char const* name, V const& v, index_t n) {
  if (v.data() != nullptr || v.size() != 0) check_vector(op, name, v, n);
}
template <class V>
void check_optional_matrix(char const* op, char const* name, V const& v, index_t rows, index_t columns) {
  if (v.data() != nullptr || v.template extent<1>() != 0) check_matrix(op, name, v, rows, columns);
}
template <class V>
void check_states(char const* op, char const* name, V const& v, index_t sequences, index_t channels, index_t d_state) {
  if (v.data() == nullptr && v.size() == 0) return;
  expects(v.template extent<0>() == sequences && v.template extent<1>() == channels && v.template extent<2>() == d_state, errc::shape_mismatch, op,
          ": ", name, " is [", v.template extent<0>(), ", ", v.template extent<1>(), ", ", v.template extent<2>(), "], needs [", sequences, ", ",
          channels, ", ", d_state, "]");
}

/// What both spaces check of the inputs.
template <selective_scan_config C, class T>
void check_scan_inputs(char const* op, selective_scan_inputs<T> const& in, sequence_rows const& sequences) {
  check_scan_config<C>();
  index_t const tokens = in.tokens(), channels = in.channels();
  expects(channels % C.groups == 0, errc::shape_mismatch, op, ": u has ", channels, " channels, which ", C.groups, " groups cannot share equally");
  check_matrix(op, "delta", in.delta, tokens, channels);
  check_matrix(op, "a", in.a, channels, C.d_state);
  check_matrix(op, "b", in.b, tokens, index_t{C.groups} * C.d_state);
  check_matrix(op, "c", in.c, tokens, index_t{C.groups} * C.d_state);
  check_optional_vector(op, "skip", in.skip, channels);
  check_optional_vector(op, "delta_bias", in.delta_bias, channels);
  check_optional_matrix(op, "z", in.z, tokens, channels);
  check_sequence_rows(op, sequences, tokens);
}

template <selective_scan_config C, class T>
void check_checkpoints(char const* op, selective_scan_inputs<T> const& in, sequence_rows const& sequences, selective_scan_checkpoints<T> const& c) {
  check_matrix(op, "checkpoints", c.states, selective_scan_checkpoints<T>::slots(in.tokens(), sequences.count) * C.d_state, in.channels());
}

template <selective_scan_config C, class T>
void check_scan(selective_scan_inputs<T> const& in, sequence_rows const& sequences, auto const& initial_state, auto const& out,
                auto const& final_state, selective_scan_checkpoints<T> const& checkpoints) {
  char const* const op = "selective_scan";
  check_scan_inputs<C>(op, in, sequences);
  check_states(op, "initial_state", initial_state, sequences.count, in.channels(), C.d_state);
  check_matrix(op, "out", out, in.tokens(), in.channels());
  check_states(op, "final_state", final_state, sequences.count, in.channels(), C.d_state);
  if (checkpoints.states.data() != nullptr) check_checkpoints<C>(op, in, sequences, checkpoints);
}

template <selective_scan_config C, class T>
void check_scan_backward(selective_scan_inputs<T> const& in, sequence_rows const& sequences, auto const& initial_state,
                         selective_scan_checkpoints<T> const& checkpoints, auto const& d_out, auto const& d_final_state,
                         selective_scan_gradients<T> const& g, auto const& d_initial_state) {
  char const* const op = "selective_scan_backward";
  index_t const tokens = in.tokens(), channels = in.channels();
  check_scan_inputs<C>(op, in, sequences);
  check_states(op, "initial_state", initial_state, sequences.count, channels, C.d_state);
  check_checkpoints<C>(op, in, sequences, checkpoints);
  check_matrix(op, "d_out", d_out, tokens, channels);
  check_states(op, "d_final_state", d_final_state, sequences.count, channels, C.d_state);
  check_matrix(op, "d_u", g.d_u, tokens, channels);
  check_matrix(op, "d_delta", g.d_delta, tokens, channels);
  check_matrix(op, "d_a", g.d_a, channels, C.d_state);
  check_matrix(op, "d_b", g.d_b, tokens, index_t{C.groups} * C.d_state);
  check_matrix(op, "d_c", g.d_c, tokens, index_t{C.groups} * C.d_state);
  check_vector(op, "d_skip", g.d_skip, in.skip.size());
  check_vector(op, "d_delta_bias", g.d_delta_bias, in.delta_bias.size());
  check_matrix(op, "d_z", g.d_z, in.z.template extent<0>(), in.z.template extent<1>());
  check_states(op, "d_initial_state", d_initial_state, sequences.count, channels, C.d_state);
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
