#pragma once
#include <moe/routing/detail/softmax_row.cuh>
#include <moe/routing/topk.hpp>

namespace moe::inline MOE_ISA {

struct topk_tuning {
  int warps = 4;  ///< rows per block, one warp each
};

namespace detail {

template <class A>
struct topk_candidate {
  A value = A(0);
  int expert = -1;  ///< -1: none
};

/// The order of a row's candidates: larger first, NaN above all, then the lower index; none comes last.
template <class A>
__device__ bool ranks_before(topk_candidate<A> a, topk_candidate<A> b) {
  if (a.expert < 0 || b.expert < 0) return b.expert < 0 && a.expert >= 0;
  bool const nan_a = a.value != a.value, nan_b = b.value != b.value;
  if (nan_a != nan_b) return nan_a;
  return nan_a || a.value == b.value ? a.expert < b.expert : a.value > b.value;
}

/// The first candidate of the row behind `last` (none: from the top). All 32 lanes of the warp call it, and all get the answer.
template <class A, class T>
__device__ topk_candidate<A> next_best(T const* row, int experts, topk_candidate<A> last) {
  topk_candidate<A> best;
  for (int e = static_cast<int>(threadIdx.x) % 32; e < experts; e += 32) {
    topk_candidate<A> const c{static_cast<A>(row[e]), e};
    if ((last.expert < 0 || ranks_before(last, c)) && ranks_before(c, best)) best = c;
  }
  for (int step = 16; step > 0; step /= 2) {
    topk_candidate<A> const other{__shfl_xor_sync(0xffffffffu, best.value, step), __shfl_xor_sync(0xffffffffu, best.expert, step)};
    if (ranks_before(other, best)) best = other;
  }
  return best;
}

}  // namespace detail

// nvcc rejects a class-type template argument of a kernel: the config comes as its members.
template <int K, bool Renormalise, int Warps, class T>
__global__ void __launch_bounds__(32 * Warps) topk_kernel(tensor<T const, dyn, dyn> logits, tensor<T, dyn, K> weight, tensor<int, dyn, K> expert) {
  using A = accumulator<T>;
  int const experts = static_cast<int>(logits.template extent<1>()), lane = static_cast<int>(threadIdx.x) % 32;
  // Whole warps leave the loop at once, so shuffles stay legal.
  for (index_t t = index_t{blockIdx.x} * Warps + threadIdx.x / 32; t < logits.template extent<0>(); t += index_t{gridDim.x} * Warps) {
    detail::topk_candidate<A> last;
    A top = 0, sum = 0, mine[(K + 31) / 32] = {};  // lane l keeps the choices l, l + 32, ...
    int chosen[(K + 31) / 32] = {};
    for (int j = 0; j < K; ++j) {
      last = detail::next_best(logits.row(t), experts, last);
      if (j == 0) top = last.value;
      A const e = exp_scalar(last.value - top);
      sum += e;
      if (j % 32 == lane) mine[j / 32] = e, chosen[j / 32] = last.expert;
    }
    if constexpr (!Renormalise) sum = detail::warp_sum_of_exponentials(logits.row(t), experts, top, lane);
    for (int j = lane; j < K; j += 32) {
      weight(t, j) = T(mine[j / 32] / sum);
      expert(t, j) = chosen[j / 32];
    }
  }
}

/// The contract of topk(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Throws  also shape_mismatch for more than 2^31 - 33 experts.
/// Order   renormalised sums run over j ascending: in float and bf16 the bits of the CPU operator where that one has fused multiply-adds. Sums over
///         all experts: one chain per lane of a warp, then a tree of halves.
/// Cost    one warp per row.
template <topk_config C = topk_config{}, topk_tuning P = topk_tuning{}, class T>
void topk(cuda const& space, in<T, dyn, dyn> logits, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
  static_assert(P.warps >= 1 && P.warps <= 32, "moe::topk: topk_tuning::warps must be in [1, 32]");
  detail::check_topk<C>("topk", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  expects(experts <= std::numeric_limits<int>::max() - 32, errc::shape_mismatch, "topk: ", experts, " experts, at most 2^31 - 33");
  launch("topk", topk_kernel<C.k, C.renormalise, P.warps, T>, {.blocks = (tokens + P.warps - 1) / P.warps, .threads = 32 * P.warps}, space, logits,
         weight, expert);
}

namespace detail {
/// One warp per row: first the gradient of an expert that was not chosen, for all of them, then those that were.
template <int K, bool Renormalise, class T>
struct topk_gradient {
  tensor<T const, dyn, dyn> logits;
  tensor<T const, dyn, K> weight;
  tensor<int const, dyn, K> expert;
  tensor<T const, dyn, K> d_weight;
  tensor<T, dyn, dyn> d_logits;
  __device__ void operator()(index_t t, int lane) const {
    using A = accumulator<T>;
    index_t const experts = logits.template extent<1>();
    T const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    A s = 0;
    for (int j = 0; j < K; ++j) s = madd(static_cast<A>(weight(t, j)), static_cast<A>(d_weight(t, j)), s);
    if constexpr (Renormalise) {
      for (index_t e = lane; e < experts; e += lanes) d_row[e] = T(0.0f);
    } else {
      A const top = warp_largest_logit<A>(row, experts, lane), factor = product(-s, A(1) / warp_sum_of_exponentials(row, experts, top, lane));
      for (index_t e = lane; e < experts; e += lanes) d_row[e] = T(product(exp_scalar(static_cast<A>(row[e]) - top), factor));
    }
    __syncwarp();  // another lane may have written the element of a chosen expert
    for (int j = lane; j < K; j += lanes) {
      int const e = expert(t, j);
      if (e >= 0 && e < experts) d_row[e] = T(product(static_cast<A>(weight(t, j)), static_cast<A>(d_weight(t, j)) - s));
    }
  }
};
}  // namespace detail

/// The contract of topk_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   experts are not checked: one outside [0, experts) is skipped, and of one named twice in a row the gradient is that of either choice.
/// Order   one warp per row. s over j ascending: renormalised, the bits of the CPU operator where that one has fused multiply-adds. Sums over all
///         experts: one chain per lane, then a tree of halves.
template <topk_config C = topk_config{}, class T, index_t R, index_t E>
void topk_backward(cuda const& space, in<T, dyn, dyn> logits, in<T, dyn, C.k> weight, in<int, dyn, C.k> expert, in<T, dyn, C.k> d_weight,
                   tensor<T, R, E> const& d_logits) {
  detail::check_topk_backward<C>(logits, weight, expert, d_weight, d_logits);
  for_each_row("topk_backward", space, logits.template extent<0>(),
               detail::topk_gradient<C.k, C.renormalise, T>{logits, weight, expert, d_weight, d_logits});
}

}  // namespace moe::inline MOE_ISA
