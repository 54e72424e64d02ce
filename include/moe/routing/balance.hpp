#pragma once
#include <moe/routing/detail/balance_pass.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// What both spaces check; counts and ids themselves are data.
inline void check_balance(char const* who, index_t tokens, index_t experts, in<index_t, dyn> counts, int k, balance_config config,
                          sequence_choices const& of) {
  expects(k >= 1 && k <= experts, errc::bad_argument, who, ": k = ", k, " of ", experts, " experts");
  if (!of_sequences(config)) {
    expects(counts.extent<0>() == experts, errc::shape_mismatch, who, ": counts has ", counts.extent<0>(), " entries, logits has ", experts,
            " experts");
    return;
  }
  expects(of.shape.tokens() == tokens, errc::shape_mismatch, who, ": ", of.shape.sequences, " sequences of ", of.shape.length, " tokens, logits has ",
          tokens, " rows");
  check_matrix(who, "expert", of.expert, tokens, k);
}
inline void check_counts(char const* who, index_t tokens, index_t experts, in<index_t, dyn> counts, int k) {
  index_t sum = 0;
  for (index_t e = 0; e < experts; ++e) {
    expects(counts(e) >= 0, errc::bad_argument, who, ": counts[", e, "] is ", counts(e));
    expects(!__builtin_add_overflow(sum, counts(e), &sum), errc::bad_argument, who, ": counts add up to more than 64 bits hold, at entry ", e);
  }
  expects(sum <= tokens * k, errc::bad_argument, who, ": counts add up to ", sum, ", ", tokens, " tokens of ", k, " choices make ", tokens * k,
          " at most");
}
inline void check_load(char const* who, index_t tokens, index_t experts, in<index_t, dyn> counts, int k, balance_config config,
                       sequence_choices const& of) {
  if (of_sequences(config)) check_expert_ids(who, of.expert, experts, -1);
  else if (config.balance != 0) check_counts(who, tokens, experts, counts, k);
}

inline void check_balance_gradient(index_t tokens, index_t experts, auto const& d_logits) {
  expects(d_logits.template extent<0>() == tokens && d_logits.template extent<1>() == experts, errc::shape_mismatch,
          "balance_losses_backward: d_logits is [", d_logits.template extent<0>(), ", ", d_logits.template extent<1>(), "], logits is [", tokens,
          ", ", experts, "]");
}
}  // namespace detail

/// Bytes of scratch for balance_losses.
template <class T>
std::size_t balance_losses_scratch_bytes(cpu const& space, index_t tokens, index_t experts) {
  arena measure;
  detail::balance_scratch<T>(measure, space, {1, tokens}, experts, false);
  return measure.peak();
}
/// The same where balance_config::per_sequence is true.
template <class T>
std::size_t balance_losses_scratch_bytes(cpu const& space, sequence_shape shape, index_t experts) {
  arena measure;
  detail::balance_scratch<T>(measure, space, shape, experts, true);
  return measure.peak();
}

/// Bytes of scratch for balance_losses_backward.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cpu const& space, index_t experts) {
  arena measure;
  detail::balance_backward_scratch<T>(measure, space, 1, experts, false);
  return measure.peak();
}
/// The same where balance_config::per_sequence is true.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cpu const& space, sequence_shape shape, index_t experts) {
  arena measure;
  detail::balance_backward_scratch<T>(measure, space, shape.sequences, experts, true);
  return measure.peak();
}

/// Auxiliary losses of a router, and how decided it is. With p_t = softmax(logits[t]), and P_t = p_t, or with the sigmoids s of the row s / sum_i s_i:
///   balance = config.balance * experts / (k tokens) * sum_e counts[e] (1 / tokens) sum_t P_t,e   (= config.balance where counts or P are uniform)
///             per sequence: the mean over the sequences of the same, made of the tokens and the choices of each
///   z       = config.z / tokens * sum_t logsumexp(logits[t])^2
///   entropy = 1 / tokens * sum_t sum_e -p_t,e ln(p_t,e)   in nats: 0 where each token is sure, ln(experts) where it does not care
///
///   logits  [tokens, experts]  in
///   counts  [experts]          in   choices of each expert, before capacity: they add up to k tokens at most; not read per sequence
///   k                          in   choices of a token
///   losses  [3]                out  balance, z, entropy
///   of                         in   sequences, and the expert of each choice; read only per sequence
///
/// Edges   tokens == 0 gives 0, 0, 0. config.balance == 0 gives a balance loss of 0 and reads neither counts nor `of`. A row with a NaN, with +infinity,
///         or of -infinity alone makes all three NaN (the balance loss of sigmoids: not for +infinity). A probability of 0 adds nothing to the entropy.
/// Throws  shape_mismatch or bad_argument if counts or `of` has other extents, a negative entry or an id outside [-1, experts), or counts another sum,
///         or k is not in [1, experts]; out_of_memory if scratch holds less than balance_losses_scratch_bytes.
/// Order   P is summed in accumulator<T> over chunks of 64 tokens (of a sequence, the last of each shorter), t ascending; chunks, experts and
///         sequences in double, ascending. The entropy: of 16, 8 or 4 rows at a time (as many as a vector has lanes) in accumulator<T>, then in double.
/// Cost    one exponential per logit, with sigmoids two.
/// Source  Fedus et al. 2021, arXiv:2101.03961, eq. 4, divided by k as MegaBlocks does; Zoph et al. 2022, arXiv:2202.08906, eq. 5; sigmoids and sequences
///         DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2.
template <class T>
void balance_losses(cpu const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config, tensor<double, 3> losses,
                    arena& scratch, sequence_choices const& of = {}) {
  char const* const name = "balance_losses";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance(name, tokens, experts, counts, k, config, of);
  detail::check_load(name, tokens, experts, counts, k, config, of);
  bool const sequences = detail::of_sequences(config);
  detail::check_scratch(
      name, scratch, sequences ? balance_losses_scratch_bytes<T>(space, of.shape, experts) : balance_losses_scratch_bytes<T>(space, tokens, experts));
  losses(0) = losses(1) = losses(2) = 0;
  if (tokens == 0) return;
  arena::scope const scope(scratch);
  sequence_shape const shape = detail::balanced_shape(config, tokens, of);
  detail::balance_scratch<T> const partial(scratch, space, shape, experts, sequences);
  parallel_for(space, partial.count, 8.0 * static_cast<double>(partial.chunk * experts),
               [&](index_t c) { detail::balance_chunk_sums<T>(partial, c, shape.length, logits, config, of); });
  double z = 0, entropy = 0;
  for (index_t c = 0; c < partial.count; ++c) z += partial.z(c), entropy += partial.entropy(c);
  detail::balance_factors const factor(shape, experts, k, config, 1);
  if (config.balance != 0) losses(0) = factor.balance * detail::load_times_scores(partial, shape.sequences, experts, counts);
  losses(1) = factor.z * z;
  losses(2) = factor.entropy * entropy;
}

/// Adds the gradient of scale * (balance + z), the choices held fixed. With n the counts of the batch, or those of the sequence of t:
///   d_logits[t, e] += scale * (q_t,e a (n[e] - sum_i P_t,i n[i]) + p_t,e b lse_t),  q = p for softmax, P_t,e (1 - s_t,e) for sigmoids,
///   a = config.balance * experts / (k tokens^2), per sequence config.balance * experts / (k length^2 sequences),
///   b = 2 config.z / tokens,  lse_t = logsumexp(logits[t])
///
///   logits, counts, k, config, of  in      as for balance_losses
///   scale                          in
///   d_logits [tokens, experts]     in out  added to; must not overlap logits
///
/// Edges   tokens == 0 changes nothing. Rows that make a loss NaN whose coefficient is not 0 get NaN. Uniform counts and config.z == 0 change nothing,
///         exactly.
/// Throws  as balance_losses, and shape_mismatch if d_logits has other extents than logits.
/// Order   one worker per row; sums over experts in one chain per vector lane, then a fixed tree.
/// Cost    one exponential per logit, with sigmoids two, or one where config.z == 0.
template <class T, index_t R, index_t E>
void balance_losses_backward(cpu const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config,
                             std::type_identity_t<accumulator<T>> scale, tensor<T, R, E> const& d_logits, arena& scratch,
                             sequence_choices const& of = {}) {
  using A = accumulator<T>;
  char const* const name = "balance_losses_backward";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance(name, tokens, experts, counts, k, config, of);
  detail::check_load(name, tokens, experts, counts, k, config, of);
  detail::check_balance_gradient(tokens, experts, d_logits);
  if (tokens == 0) return;
  bool const sequences = detail::of_sequences(config);
  detail::check_scratch(
      name, scratch,
      sequences ? balance_losses_backward_scratch_bytes<T>(space, of.shape, experts) : balance_losses_backward_scratch_bytes<T>(space, experts));
  arena::scope const scope(scratch);
  sequence_shape const shape = detail::balanced_shape(config, tokens, of);
  detail::balance_backward_scratch<T> const taken(scratch, space, shape.sequences, experts, sequences);
  detail::balance_factors const factor(shape, experts, k, config, static_cast<double>(scale));
  detail::find_excess(space, taken, shape, experts, counts, k, factor.excess, config, of);
  constexpr index_t group = simd<A>::width;
  index_t const groups = detail::chunks(shape.length, group);
  A const z = static_cast<A>(factor.shift);
  parallel_for(space, shape.sequences * groups, 10.0 * static_cast<double>(group * experts), [&](index_t g) {
    index_t const sequence = g / groups, first = sequence * shape.length + g % groups * group;
    detail::row_group<A, T> const rows(rows_of(logits, first, std::min(first + group, (sequence + 1) * shape.length)), 0);
    auto const x = detail::exponentials_of_worker(taken.exponential);
    auto const d_row = [&](int l) { return d_logits.row(first + l); };
    if (config.score == score_function::softmax) return detail::add_softmax_gradient(rows, experts, x, taken.excess.row(sequence), z, d_row);
    if (config.balance != 0) detail::add_sigmoid_gradient(rows, experts, x, taken.excess.row(sequence), d_row);
    if (config.z != 0) detail::add_softmax_gradient(rows, experts, x, taken.excess.row(shape.sequences), z, d_row);
  });
}

}  // namespace moe::inline MOE_ISA
