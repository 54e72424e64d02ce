#pragma once
#include <algorithm>

#include <moe/core/parallel.hpp>
#include <moe/routing/balance_config.hpp>
#include <moe/routing/detail/balance_rows.hpp>
#include <moe/routing/detail/expert_ids.hpp>

// The losses of a router in pieces: what they are multiplied by in both spaces; on the CPU memory, and the sums of chunks of rows.
namespace moe::inline MOE_ISA::detail {

/// Whether the loss is of sequences, and what they are: the batch is one of them else.
inline bool of_sequences(balance_config config) { return config.per_sequence && config.balance != 0; }
inline sequence_shape balanced_shape(balance_config config, index_t tokens, sequence_choices const& of) {
  return of_sequences(config) ? of.shape : sequence_shape{1, tokens};
}

/// What the sums are multiplied by: the loss is balance * sum_e counts[e] sum_t P_t,e, and z * sum_t lse_t^2; its gradient has `excess` and `shift`.
struct balance_factors {
  double balance = 0, z = 0, entropy = 0, excess = 0, shift = 0;
  balance_factors(sequence_shape shape, index_t experts, int k, balance_config config, double scale) {
    if (shape.tokens() == 0) return;
    double const n = static_cast<double>(shape.tokens()), length = static_cast<double>(shape.length);
    double const share = k * length * length * static_cast<double>(shape.sequences);
    balance = config.balance * static_cast<double>(experts) / share, z = config.z / n, entropy = 1 / n;
    excess = scale * config.balance / share, shift = scale * 2 * config.z / n;
  }
};
/// The load of an expert enters the gradient as its excess over the mean, in whole numbers: as sum P = 1 this is the same gradient, and it cancels
/// nothing.
MOE_HD inline double scaled_excess(double factor, index_t tokens, index_t experts, int k, index_t count) {
  return factor * static_cast<double>(experts * count - k * tokens);
}

/// For each worker the scores of a group of rows.
template <class T>
matrix_view<accumulator<T>> take_exponentials(arena& memory, cpu const& space, index_t padded_experts) {
  return memory.mat<accumulator<T>>(elements(thread_count(space), simd<accumulator<T>>::width), padded_experts);
}
template <class A>
tensor<A, dyn, dyn> exponentials_of_worker(matrix_view<A> all) {
  return rows_of(all, index_t{thread_index()} * simd<A>::width, (index_t{thread_index()} + 1) * simd<A>::width);
}
template <class A>
index_t padded_to_vectors(index_t experts) {
  return elements(chunks(experts, simd<A>::width), simd<A>::width);
}

/// Sums per chunk of tokens. A chunk lies in one sequence, and its boundaries depend on their number and length alone; the batch is one sequence where
/// the loss is of the batch.
template <class T>
struct balance_scratch {
  using A = accumulator<T>;
  static constexpr index_t chunk = 64;
  index_t of_sequence, count;      ///< chunks of a sequence, and of all
  matrix_view<A> probability;      ///< [chunks, padded experts]  sums of the scores of a token over their sum
  vector_view<double> z, entropy;  ///< [chunks]                  softmax_sums
  matrix_view<A> exponential;      ///< [workers * rows of a group, padded experts]
  matrix_view<int> choices;        ///< [chunks, experts]         only where there are sequences
  balance_scratch(arena& memory, cpu const& space, sequence_shape n, index_t experts, bool per_sequence)
      : of_sequence(chunks(n.length, chunk)), count(elements(n.sequences, of_sequence)),
        probability(memory.mat<A>(count, padded_to_vectors<A>(experts))), z(memory.vec<double>(count)), entropy(memory.vec<double>(count)),
        exponential(take_exponentials<T>(memory, space, padded_to_vectors<A>(experts))) {
    if (per_sequence) choices = memory.mat<int>(count, experts);
  }
};

template <class T>
struct balance_backward_scratch {
  using A = accumulator<T>;
  matrix_view<A> excess;       ///< [sequences + 1, padded experts]  excess load, scaled; the last row: none
  matrix_view<A> exponential;  ///< [workers * rows of a group, padded experts]
  matrix_view<int> count;      ///< [workers, experts]               only where there are sequences
  balance_backward_scratch(arena& memory, cpu const& space, index_t sequences, index_t experts, bool per_sequence)
      : excess(memory.mat<A>(sequences + 1, padded_to_vectors<A>(experts))),
        exponential(take_exponentials<T>(memory, space, padded_to_vectors<A>(experts))) {
    if (per_sequence) count = memory.mat<int>(thread_count(space), experts);
  }
};

/// The sums of one chunk.
template <class T>
void balance_chunk_sums(balance_scratch<T> const& to, index_t c, index_t length, tensor<T const, dyn, dyn> logits, balance_config config,
                        sequence_choices const& of) {
  using A = accumulator<T>;
  index_t const experts = logits.template extent<1>(), sequence = c / to.of_sequence, begin = sequence * length + c % to.of_sequence * to.chunk,
                end = std::min(begin + to.chunk, (sequence + 1) * length);
  auto const own = rows_of(logits, begin, end);
  auto const x = exponentials_of_worker(to.exponential);
  A* const probability = to.probability.row(c);
  if (config.balance != 0) std::fill_n(probability, padded_to_vectors<A>(experts), A(0));
  softmax_sums sums;
  for (index_t t = 0; t < end - begin; t += simd<A>::width) {
    row_group<A, T> const rows(own, t);
    simd<A> inverse = softmax_of(rows, experts, x, sums);
    if (config.balance == 0) continue;
    if (config.score == score_function::sigmoid) inverse = sigmoids_of(rows, experts, x);
    add_scores(rows, inverse, experts, x, probability);
  }
  to.z(c) = sums.z, to.entropy(c) = sums.entropy;
  if (!of_sequences(config)) return;
  int* const count = to.choices.row(c);
  std::fill_n(count, experts, 0);
  for (index_t t = begin; t < end; ++t) for_each_choice(of.expert.row(t), of.expert.template extent<1>(), [&](index_t, int e) { ++count[e]; });
}

/// sum over sequences and experts of the choices of an expert times the sum of its scores.
template <class T>
double load_times_scores(balance_scratch<T> const& from, index_t sequences, index_t experts, in<index_t, dyn> counts) {
  double balance = 0;
  for (index_t s = 0; s < sequences; ++s)
    for (index_t e = 0; e < experts; ++e) {
      double probability = 0;
      index_t const first = s * from.of_sequence, last = first + from.of_sequence;
      for (index_t c = first; c < last; ++c) probability += static_cast<double>(from.probability(c, e));
      index_t count = 0;
      if (from.choices.size() == 0) count = counts(e);
      else
        for (index_t c = first; c < last; ++c) count += from.choices(c, e);
      balance = madd(static_cast<double>(count), probability, balance);
    }
  return balance;
}

/// The excess load of the experts of each sequence.
template <class T>
void find_excess(cpu const& space, balance_backward_scratch<T> const& to, sequence_shape shape, index_t experts, in<index_t, dyn> counts, int k,
                 double factor, balance_config config, sequence_choices const& of) {
  using A = accumulator<T>;
  std::fill_n(to.excess.data(), to.excess.size(), A(0));
  if (config.balance == 0) return;
  auto const excess = [&](index_t count) { return static_cast<A>(scaled_excess(factor, shape.length, experts, k, count)); };
  if (!config.per_sequence) {
    for (index_t e = 0; e < experts; ++e) to.excess(0, e) = excess(counts(e));
    return;
  }
  parallel_for(space, shape.sequences, 2.0 * static_cast<double>(k * shape.length), [&](index_t s) {
    int* const count = to.count.row(thread_index());
    std::fill_n(count, experts, 0);
    for (index_t t = s * shape.length; t < (s + 1) * shape.length; ++t) for_each_choice(of.expert.row(t), k, [&](index_t, int e) { ++count[e]; });
    for (index_t e = 0; e < experts; ++e) to.excess(s, e) = excess(count[e]);
  });
}

}  // namespace moe::inline MOE_ISA::detail
