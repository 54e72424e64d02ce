#pragma once
#include <moe/routing/balance.hpp>
#include <moe/routing/detail/balance_kernels.cuh>

namespace moe::inline MOE_ISA {

/// Bytes of scratch for balance_losses.
template <class T>
std::size_t balance_losses_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t experts) {
  arena measure;
  detail::cuda_balance_scratch<accumulator<T>>(measure, {1, tokens}, experts, false);
  return measure.peak();
}
/// The same where balance_config::per_sequence is true.
template <class T>
std::size_t balance_losses_scratch_bytes(cuda const& /*space*/, sequence_shape shape, index_t experts) {
  arena measure;
  detail::cuda_balance_scratch<accumulator<T>>(measure, shape, experts, true);
  return measure.peak();
}

/// Bytes of scratch for balance_losses_backward.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cuda const& /*space*/, index_t experts) {
  arena measure;
  measure.mat<accumulator<T>>(1, experts);
  return measure.peak();
}
/// The same where balance_config::per_sequence is true.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cuda const& /*space*/, sequence_shape shape, index_t experts) {
  arena measure;
  measure.mat<accumulator<T>>(shape.sequences > 1 ? shape.sequences : 1, experts);
  return measure.peak();
}

/// The contract of balance_losses(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   counts and ids are not checked: the balance loss is the formula's for whatever they are; an id outside [0, experts) is counted nowhere.
/// Order   sums over the experts of a row: one chain per lane of a warp, then a tree of halves. P is summed in accumulator<T> over chunks of 64
///         tokens, t ascending; then in double over 16 ranges of chunks, then over the ranges; then experts, and likewise the chunks of z and of the
///         entropy, in one chain per lane and a tree of halves. Per sequence: chunks ascending, experts and sequences in chains and trees.
/// Cost    three kernels, two exponentials per logit, with sigmoids three.
template <class T>
void balance_losses(cuda const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config, tensor<double, 3> losses,
                    arena& scratch, sequence_choices const& of = {}) {
  using A = accumulator<T>;
  using namespace detail;
  char const* const name = "balance_losses";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  check_balance(name, tokens, experts, counts, k, config, of);
  bool const sequences = of_sequences(config), scores = config.balance != 0, some = scores && tokens > 0;
  check_scratch(name, scratch,
                sequences ? balance_losses_scratch_bytes<T>(space, of.shape, experts) : balance_losses_scratch_bytes<T>(space, tokens, experts));
  arena::scope const scope(scratch);
  sequence_shape const shape = balanced_shape(config, tokens, of);
  cuda_balance_scratch<A> const s(scratch, shape, experts, sequences);
  balance_factors const factor(shape, experts, k, config, 1);
  auto const kernel = config.score == score_function::sigmoid && scores ? balance_kernel<true, A, T> : balance_kernel<false, A, T>;
  launch(name, kernel, {.blocks = s.count, .threads = balance_threads, .shared_bytes = sizeof(balance_layout<A>)}, space, logits,
         sequences ? of.expert : matrix_view<int const>(), shape.length, s, scores);
  if (some && sequences) for_each_row(name, space, shape.sequences, load_of_sequence<A>{s});
  else if (some)
    launch(name, balance_total_kernel<A>,
           {.blocks = (experts + lanes - 1) / lanes, .threads = lanes * balance_ranges, .shared_bytes = sizeof(balance_total_layout)}, space,
           s.probability, s.total);
  for_each_row(name, space, 1,
               weigh_losses{sequences ? vector_view<index_t const>() : counts,
                            vector_view<double const>(s.total.data(), !some       ? 0
                                                                      : sequences ? shape.sequences
                                                                                  : experts),
                            s.z, s.entropy, factor.balance, factor.z, factor.entropy, losses});
}

/// The contract of balance_losses_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   counts and ids are not checked, as in balance_losses.
/// Order   one warp per row: one chain per lane, then a tree of halves.
/// Cost    two or three kernels. Per sequence each expert's warp reads all ids of the sequence.
template <class T, index_t R, index_t E>
void balance_losses_backward(cuda const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config,
                             std::type_identity_t<accumulator<T>> scale, tensor<T, R, E> const& d_logits, arena& scratch,
                             sequence_choices const& of = {}) {
  using A = accumulator<T>;
  char const* const name = "balance_losses_backward";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance(name, tokens, experts, counts, k, config, of);
  detail::check_balance_gradient(tokens, experts, d_logits);
  if (tokens == 0) return;
  bool const sequences = detail::of_sequences(config), sigmoid = config.score == score_function::sigmoid;
  detail::check_scratch(
      name, scratch,
      sequences ? balance_losses_backward_scratch_bytes<T>(space, of.shape, experts) : balance_losses_backward_scratch_bytes<T>(space, experts));
  arena::scope const scope(scratch);
  sequence_shape const shape = detail::balanced_shape(config, tokens, of);
  detail::balance_factors const factor(shape, experts, k, config, static_cast<double>(scale));
  matrix_view<A> excess;
  if (config.balance != 0) {
    excess = scratch.mat<A>(shape.sequences, experts);
    for_each_row(name, space, excess.size(),
                 detail::excess_of_expert<A>{sequences ? vector_view<index_t const>() : counts, of.expert, excess, factor.excess, shape.length, k});
  }
  if (sigmoid && config.balance != 0) for_each_row(name, space, tokens, detail::sigmoid_gradient<A, T>{logits, excess, shape.length, d_logits});
  if (!sigmoid || config.z != 0)
    for_each_row(
        name, space, tokens,
        detail::softmax_balance_gradient<A, T>{logits, sigmoid ? matrix_view<A>() : excess, shape.length, d_logits, static_cast<A>(factor.shift)});
}

}  // namespace moe::inline MOE_ISA
