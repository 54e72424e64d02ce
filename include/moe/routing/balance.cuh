#pragma once
#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>
#include <moe/routing/balance.hpp>
#include <moe/routing/detail/softmax_row.cuh>

namespace moe::inline MOE_ISA {

namespace detail {

inline constexpr int balance_chunk = 64, balance_threads = 256, balance_ranges = 16;

template <class A>
struct cuda_balance_scratch {
  matrix_view<A> probability;  ///< [chunks, experts]  sums of softmax(logits) over balance_chunk tokens
  vector_view<double> z;       ///< [chunks]           sums of lse^2
  vector_view<double> total;   ///< [experts]          sums of softmax(logits) over all tokens
  cuda_balance_scratch(arena& memory, index_t tokens, index_t experts)
      : probability(memory.mat<A>(chunks(tokens), experts)), z(memory.vec<double>(chunks(tokens))), total(memory.vec<double>(experts)) {}
  static index_t chunks(index_t tokens) { return (tokens + balance_chunk - 1) / balance_chunk; }
};

template <class A>
struct balance_layout {
  ptx::shared_matrix<A, 2, balance_chunk> softmax;   ///< of each row: its largest logit, and 1 / the sum of its exponentials
  ptx::shared_matrix<double, 1, balance_chunk> lse;  ///< of each row
};

/// A block per chunk of tokens. First a warp per row finds what the row's softmax needs, then a thread per expert adds its column, tokens ascending.
template <class A, class T>
__global__ void __launch_bounds__(balance_threads)
    balance_kernel(tensor<T const, dyn, dyn> logits, tensor<A, dyn, dyn> probability, tensor<double, dyn> z) {
  balance_layout<A>& shared = ptx::dynamic_shared<balance_layout<A>>();
  int const lane = static_cast<int>(threadIdx.x) % lanes, warp = static_cast<int>(threadIdx.x) / lanes;
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  for (index_t c = blockIdx.x; c < probability.template extent<0>(); c += gridDim.x) {
    index_t const first = c * balance_chunk;
    int const rows = static_cast<int>(tokens - first < balance_chunk ? tokens - first : balance_chunk);
    for (int t = warp; t < rows; t += balance_threads / lanes) {
      T const* const row = logits.row(first + t);
      A const top = warp_largest_logit<A>(row, experts, lane), sum = warp_sum_of_exponentials(row, experts, top, lane);
      if (lane != 0) continue;
      shared.softmax(0, t) = top;
      shared.softmax(1, t) = A(1) / sum;
      shared.lse(0, t) = static_cast<double>(top) + log_scalar(static_cast<double>(sum));
    }
    __syncthreads();
    for (index_t e = threadIdx.x; e < experts; e += balance_threads) {
      A p = 0;
      for (int t = 0; t < rows; ++t) p = madd(exp_scalar(static_cast<A>(logits.row(first + t)[e]) - shared.softmax(0, t)), shared.softmax(1, t), p);
      probability(c, e) = p;
    }
    if (threadIdx.x == 0) {
      double sum = 0;
      for (int t = 0; t < rows; ++t) sum = madd(shared.lse(0, t), shared.lse(0, t), sum);
      z(c) = sum;
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

/// losses(0) = balance * sum_e counts(e) total(e), losses(1) = z * sum_c z_of_chunk(c), by one warp.
struct weigh_losses {
  tensor<index_t const, dyn> counts;
  tensor<double const, dyn> total, z_of_chunk;
  double balance, z;
  tensor<double, 2> losses;
  __device__ void operator()(index_t, int lane) const {
    double load = 0, squares = 0;
    index_t const chunks = z_of_chunk.template extent<0>(),
                  experts = chunks > 0 ? counts.template extent<0>() : 0;  // no tokens: nobody wrote `total`
    for (index_t e = lane; e < experts; e += lanes) load = madd(static_cast<double>(counts(e)), total(e), load);
    for (index_t c = lane; c < chunks; c += lanes) squares += z_of_chunk(c);
    load = warp_sum(load);
    squares = warp_sum(squares);
    if (lane != 0) return;
    losses(0) = balance * load;
    losses(1) = z * squares;
  }
};

template <class A>
struct excess_of_expert {
  tensor<index_t const, dyn> counts;
  tensor<A, dyn> excess;
  double factor;
  index_t tokens;
  int k;
  __device__ void operator()(index_t, index_t e) const {
    excess(e) = static_cast<A>(scaled_excess(factor, tokens, counts.template extent<0>(), k, counts(e)));
  }
};

/// d_row[e] += p_e (excess[e] - sum_i p_i excess[i] + z lse), p the softmax of the row.
template <class A, class T>
struct balance_gradient {
  tensor<T const, dyn, dyn> logits;
  tensor<A const, dyn> excess;
  tensor<T, dyn, dyn> d_logits;
  A z;
  __device__ void operator()(index_t t, int lane) const {
    T const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    index_t const experts = logits.template extent<1>();
    A const top = warp_largest_logit<A>(row, experts, lane);
    A sum = 0, weighted = 0;
    for (index_t e = lane; e < experts; e += lanes) {
      A const x = exp_scalar(static_cast<A>(row[e]) - top);
      sum += x;
      weighted = madd(x, excess(e), weighted);
    }
    sum = warp_sum(sum);
    A const inverse = A(1) / sum, shift = madd(z, top + static_cast<A>(log_scalar(static_cast<double>(sum))), -(warp_sum(weighted) / sum));
    for (index_t e = lane; e < experts; e += lanes) {
      A const p = exp_scalar(static_cast<A>(row[e]) - top) * inverse;
      d_row[e] = T(madd(p, excess(e) + shift, static_cast<A>(d_row[e])));
    }
  }
};
}  // namespace detail

/// Bytes of scratch for balance_losses.
template <class T>
std::size_t balance_losses_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t experts) {
  arena measure;
  detail::cuda_balance_scratch<accumulator<T>>(measure, tokens, experts);
  return measure.peak();
}

/// Bytes of scratch for balance_losses_backward.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cuda const& /*space*/, index_t experts) {
  arena measure;
  measure.vec<accumulator<T>>(experts);
  return measure.peak();
}

/// The contract of balance_losses(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   the counts are not checked: the balance loss is the formula's for whatever they are.
/// Order   sums over the experts of a row: one chain per lane of a warp, then a tree of halves. p is summed in accumulator<T> over chunks of 64
///         tokens, t ascending; then in double over 16 ranges of chunks, then over the ranges; then experts, and likewise the chunks of z, in one
///         chain per lane and a tree of halves.
/// Cost    three kernels, two exponentials per logit.
template <class T>
void balance_losses(cuda const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config, tensor<double, 2> losses,
                    arena& scratch) {
  using A = accumulator<T>;
  using namespace detail;
  char const* const name = "balance_losses";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  check_balance(name, experts, counts, k);
  check_scratch(name, scratch, balance_losses_scratch_bytes<T>(space, tokens, experts));
  arena::scope const scope(scratch);
  cuda_balance_scratch<A> const s(scratch, tokens, experts);
  balance_factors const factor(tokens, experts, k, config, 1);
  launch(name, balance_kernel<A, T>, {.blocks = s.chunks(tokens), .threads = balance_threads, .shared_bytes = sizeof(balance_layout<A>)}, space,
         logits, s.probability, s.z);
  if (tokens > 0)
    launch(name, balance_total_kernel<A>,
           {.blocks = (experts + lanes - 1) / lanes, .threads = lanes * balance_ranges, .shared_bytes = sizeof(balance_total_layout)}, space,
           s.probability, s.total);
  for_each_row(name, space, 1, weigh_losses{counts, s.total, s.z, factor.balance, factor.z, losses});
}

/// The contract of balance_losses_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   the counts are not checked, as in balance_losses.
/// Order   one warp per row: one chain per lane, then a tree of halves.
template <class T, index_t R, index_t E>
void balance_losses_backward(cuda const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config,
                             std::type_identity_t<accumulator<T>> scale, tensor<T, R, E> const& d_logits, arena& scratch) {
  using A = accumulator<T>;
  char const* const name = "balance_losses_backward";
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance(name, experts, counts, k);
  detail::check_balance_gradient(tokens, experts, d_logits);
  if (tokens == 0) return;
  detail::check_scratch(name, scratch, balance_losses_backward_scratch_bytes<T>(space, experts));
  arena::scope const scope(scratch);
  auto const excess = scratch.vec<A>(experts);
  detail::balance_factors const factor(tokens, experts, k, config, static_cast<double>(scale));
  for_each_element(name, space, 1, experts, detail::excess_of_expert<A>{counts, excess, factor.excess, tokens, k});
  for_each_row(name, space, tokens, detail::balance_gradient<A, T>{logits, excess, d_logits, static_cast<A>(factor.shift)});
}

}  // namespace moe::inline MOE_ISA
