#pragma once
#include <limits>

#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>
#include <moe/routing/detail/balance_pass.hpp>
#include <moe/routing/detail/softmax_row.cuh>

namespace moe::inline MOE_ISA::detail {

template <class A>
inline constexpr A lowest_number = std::numeric_limits<A>::lowest();  // a host function; the constant is not
inline constexpr int balance_chunk = 64, balance_threads = 256, balance_ranges = 16;

template <class A>
struct cuda_balance_scratch {
  index_t of_sequence, count;      ///< chunks of balance_chunk tokens (the last one of a sequence shorter): of a sequence, and of all
  matrix_view<A> probability;      ///< [chunks, experts]  sums of the scores of a token over their sum
  vector_view<double> z, entropy;  ///< [chunks]           sums of lse^2, and of the entropy of the softmax
  matrix_view<int> choices;        ///< [chunks, experts]  only where there are sequences
  vector_view<double> total;  ///< [experts]          sums of the scores over all tokens; [sequences] of them times the choices (its size: the larger)
  cuda_balance_scratch(arena& memory, sequence_shape n, index_t experts, bool per_sequence)
      : of_sequence(chunks(n.length, balance_chunk)), count(elements(n.sequences, of_sequence)), probability(memory.mat<A>(count, experts)),
        z(memory.vec<double>(count)), entropy(memory.vec<double>(count)),
        total(memory.vec<double>(per_sequence && n.sequences > experts ? n.sequences : experts)) {
    if (per_sequence) choices = memory.mat<int>(count, experts);
  }
};

template <class A>
struct balance_layout {
  ptx::shared_matrix<A, 2, balance_chunk> score;     ///< of each row: its largest logit, and 1 / the sum of its scores
  ptx::shared_matrix<double, 2, balance_chunk> sum;  ///< of each row: lse, and the entropy of its softmax
};

/// 1 / (1 + e^-x).
template <class A>
__device__ A score_sigmoid(A x) {
  return A(1) / (A(1) + exp_scalar(-x));
}
/// What the balance loss sees of a logit; the largest one of a softmax is `top`.
template <bool Sigmoid, class A>
__device__ A score_of(A logit, A top) {
  if constexpr (Sigmoid) return score_sigmoid(logit);
  else return exp_scalar(logit - top);
}
template <bool Sigmoid, class A, class T>
__device__ A warp_sum_of_scores(T const* row, index_t experts, int lane) {
  A sum = 0;
  for (index_t e = lane; e < experts; e += lanes) sum += score_of<Sigmoid>(static_cast<A>(row[e]), A(0));
  return warp_sum(sum);
}

/// What softmax(row) adds to the losses: the largest logit and the sum of exponentials in every lane.
template <class A>
struct row_terms {
  A top, sum;
  double lse, entropy;
  template <class T>
  __device__ row_terms(T const* row, index_t experts, int lane) : top(warp_largest_logit<A>(row, experts, lane)) {
    A total = 0, exponents = 0;
    for (index_t e = lane; e < experts; e += lanes) {
      A const d = static_cast<A>(row[e]) - top, x = exp_scalar(d);
      total += x;
      exponents = madd(x, d > lowest_number<A> ? d : lowest_number<A>, exponents);  // -infinity counts 0; a NaN is in x
    }
    sum = warp_sum(total);
    exponents = warp_sum(exponents);
    double const log_sum = log_scalar(static_cast<double>(sum));
    lse = static_cast<double>(top) + log_sum;
    entropy = log_sum - static_cast<double>(exponents / sum);
  }
};

/// A block per chunk of tokens. First a warp per row finds what the row's scores need, then a thread per expert adds its column, tokens ascending, and
/// counts its choices where `choices` is not empty.
template <bool Sigmoid, class A, class T>
__global__ void __launch_bounds__(balance_threads)
    balance_kernel(tensor<T const, dyn, dyn> logits, tensor<int const, dyn, dyn> expert, index_t length, cuda_balance_scratch<A> to, bool scores) {
  balance_layout<A>& shared = ptx::dynamic_shared<balance_layout<A>>();
  int const lane = static_cast<int>(threadIdx.x) % lanes, warp = static_cast<int>(threadIdx.x) / lanes;
  index_t const experts = logits.template extent<1>(), k = expert.template extent<1>();
  for (index_t c = blockIdx.x; c < to.count; c += gridDim.x) {
    index_t const in_sequence = c % to.of_sequence * balance_chunk, first = c / to.of_sequence * length + in_sequence, left = length - in_sequence;
    int const rows = static_cast<int>(left < balance_chunk ? left : balance_chunk);
    for (int t = warp; t < rows; t += balance_threads / lanes) {
      T const* const row = logits.row(first + t);
      row_terms<A> const terms(row, experts, lane);
      A sum = terms.sum;
      if constexpr (Sigmoid) sum = warp_sum_of_scores<true, A>(row, experts, lane);
      if (lane != 0) continue;
      shared.score(0, t) = terms.top;
      shared.score(1, t) = A(1) / sum;
      shared.sum(0, t) = terms.lse;
      shared.sum(1, t) = terms.entropy;
    }
    __syncthreads();
    for (index_t e = threadIdx.x; scores && e < experts; e += balance_threads) {
      A p = 0;
      for (int t = 0; t < rows; ++t) p = madd(score_of<Sigmoid>(static_cast<A>(logits.row(first + t)[e]), shared.score(0, t)), shared.score(1, t), p);
      to.probability(c, e) = p;
      if (to.choices.template extent<0>() == 0) continue;
      int n = 0;
      for (int t = 0; t < rows; ++t)
        for (index_t j = 0; j < k; ++j) n += expert.row(first + t)[j] == e ? 1 : 0;
      to.choices(c, e) = n;
    }
    if (threadIdx.x == 0) {
      double squares = 0, entropy = 0;
      for (int t = 0; t < rows; ++t) {
        squares = madd(shared.sum(0, t), shared.sum(0, t), squares);
        entropy += shared.sum(1, t);
      }
      to.z(c) = squares;
      to.entropy(c) = entropy;
    }
    __syncthreads();  // the next chunk overwrites the rows
  }
}

struct balance_total_layout {
  ptx::shared_matrix<double, balance_ranges, lanes> sum;
};

/// total(e) = sum_c probability(c, e): 16 ranges of chunks, ascending within each, then the ranges in order. A lane has a column, a warp a range.
template <class A>
__global__ void __launch_bounds__(lanes* balance_ranges) balance_total_kernel(tensor<A const, dyn, dyn> probability, tensor<double, dyn> total) {
  balance_total_layout& shared = ptx::dynamic_shared<balance_total_layout>();
  int const lane = static_cast<int>(threadIdx.x) % lanes, warp = static_cast<int>(threadIdx.x) / lanes;
  index_t const chunks = probability.template extent<0>(), experts = probability.template extent<1>(),
                share = (chunks + balance_ranges - 1) / balance_ranges, begin = warp * share, end = begin + share < chunks ? begin + share : chunks;
  for (index_t first = index_t{blockIdx.x} * lanes; first < experts; first += index_t{gridDim.x} * lanes) {
    index_t const e = first + lane;
    double sum = 0;
    for (index_t c = begin; e < experts && c < end; ++c) sum += static_cast<double>(probability(c, e));
    shared.sum(warp, lane) = sum;
    __syncthreads();
    if (warp == 0 && e < experts) {
      for (int range = 1; range < balance_ranges; ++range) sum += shared.sum(range, lane);
      total(e) = sum;
    }
    __syncthreads();
  }
}

/// total(s) = sum_e (choices of e in sequence s) * (sum of its scores there), by one warp: chunks ascending, experts in one chain per lane.
template <class A>
struct load_of_sequence {
  cuda_balance_scratch<A> from;
  __device__ void operator()(index_t s, int lane) const {
    double load = 0;
    for (index_t e = lane; e < from.probability.template extent<1>(); e += lanes) {
      double probability = 0;
      int count = 0;
#pragma unroll 1  // unrolled it has more addresses than a thread of this block has registers
      for (index_t c = s * from.of_sequence; c < (s + 1) * from.of_sequence; ++c) {
        probability += static_cast<double>(from.probability(c, e));
        count += from.choices(c, e);
      }
      load = madd(static_cast<double>(count), probability, load);
    }
    load = warp_sum(load);
    if (lane == 0) from.total(s) = load;
  }
};

/// losses(0) = balance * sum_e counts(e) total(e) (without counts: of total alone), the others the sums over chunks times their factors, by one warp.
struct weigh_losses {
  tensor<index_t const, dyn> counts;
  tensor<double const, dyn> total, z_of_chunk, entropy_of_chunk;
  double balance, z, entropy;
  tensor<double, 3> losses;
  __device__ void operator()(index_t, int lane) const {
    double load = 0, squares = 0, entropies = 0;
    for (index_t e = lane; e < total.template extent<0>(); e += lanes)
      load = counts.template extent<0>() == 0 ? load + total(e) : madd(static_cast<double>(counts(e)), total(e), load);
    for (index_t c = lane; c < z_of_chunk.template extent<0>(); c += lanes) {
      squares += z_of_chunk(c);
      entropies += entropy_of_chunk(c);
    }
    load = warp_sum(load);
    squares = warp_sum(squares);
    entropies = warp_sum(entropies);
    if (lane != 0) return;
    losses(0) = product(balance, load);
    losses(1) = product(z, squares);
    losses(2) = product(entropy, entropies);
  }
};

/// The excess load of expert e = i % experts of sequence i / experts, by one warp: from the counts, or from the ids of the sequence's choices.
template <class A>
struct excess_of_expert {
  tensor<index_t const, dyn> counts;
  tensor<int const, dyn, dyn> expert;
  tensor<A, dyn, dyn> excess;
  double factor;
  index_t length;
  int k;
  __device__ void operator()(index_t i, int lane) const {
    index_t const experts = excess.template extent<1>(), s = i / experts, e = i % experts;
    int count = 0;
    if (counts.template extent<0>() == 0) {
      for (index_t j = lane; j < length * k; j += lanes) count += expert.row(s * length + j / k)[j % k] == e ? 1 : 0;
      count = warp_sum(count);
    }
    if (lane == 0)
      excess(s, e) = static_cast<A>(scaled_excess(factor, length, experts, k, counts.template extent<0>() == 0 ? index_t{count} : counts(e)));
  }
};

/// d_row[e] += p_e (excess[e] - sum_i p_i excess[i] + z lse), p the softmax of the row; excess is 0 where it is empty.
template <class A, class T>
struct softmax_balance_gradient {
  tensor<T const, dyn, dyn> logits;
  tensor<A const, dyn, dyn> excess;
  index_t length;  ///< tokens that share a row of excess
  tensor<T, dyn, dyn> d_logits;
  A z;
  __device__ void operator()(index_t t, int lane) const {
    T const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    A const* const load = excess.template extent<0>() == 0 ? nullptr : excess.row(t / length);
    index_t const experts = logits.template extent<1>();
    A const top = warp_largest_logit<A>(row, experts, lane);
    A sum = 0, weighted = 0;
    for (index_t e = lane; e < experts; e += lanes) {
      A const x = exp_scalar(static_cast<A>(row[e]) - top);
      sum += x;
      weighted = madd(x, load == nullptr ? A(0) : load[e], weighted);
    }
    sum = warp_sum(sum);
    A const inverse = A(1) / sum, shift = madd(z, top + static_cast<A>(log_scalar(static_cast<double>(sum))), -(warp_sum(weighted) / sum));
    for (index_t e = lane; e < experts; e += lanes) {
      A const p = product(exp_scalar(static_cast<A>(row[e]) - top), inverse);
      d_row[e] = T(madd(p, (load == nullptr ? A(0) : load[e]) + shift, static_cast<A>(d_row[e])));
    }
  }
};

/// d_row[e] += p_e (1 - s_e) (excess[e] - sum_i p_i excess[i]), s the sigmoids of the row, p_e = s_e / sum_i s_i.
template <class A, class T>
struct sigmoid_gradient {
  tensor<T const, dyn, dyn> logits;
  tensor<A const, dyn, dyn> excess;
  index_t length;
  tensor<T, dyn, dyn> d_logits;
  __device__ void operator()(index_t t, int lane) const {
    T const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    A const* const load = excess.row(t / length);
    index_t const experts = logits.template extent<1>();
    A sum = 0, weighted = 0;
#pragma unroll 1  // the divisions are calls, beside which unrolled copies would not fit the registers
    for (index_t e = lane; e < experts; e += lanes) {
      A const s = score_sigmoid(static_cast<A>(row[e]));
      sum += s;
      weighted = madd(s, load[e], weighted);
    }
    A const inverse = A(1) / warp_sum(sum), mean = product(warp_sum(weighted), inverse);
#pragma unroll 1
    for (index_t e = lane; e < experts; e += lanes) {
      A const s = score_sigmoid(static_cast<A>(row[e]));
      d_row[e] = T(madd(product(product(s, inverse), A(1) - s), load[e] - mean, static_cast<A>(d_row[e])));
    }
  }
};

}  // namespace moe::inline MOE_ISA::detail
