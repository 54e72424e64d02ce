#pragma once
#include <moe/core/elements.cuh>
#include <moe/core/math.hpp>

// Softmax of a row by a warp: all 32 lanes call these, and all get the answer.
namespace moe::inline MOE_ISA::detail {

/// The largest of n logits; NaN if one of them is NaN, -infinity if n is 0.
template <class A, class T>
__device__ A warp_largest_logit(T const* row, index_t n, int lane) {
  A top = -static_cast<A>(__builtin_inff());
  for (index_t e = lane; e < n; e += lanes) {
    A const x = static_cast<A>(row[e]);
    top = top != top || top > x ? top : x;
  }
  return warp_max(top);
}

/// sum_e exp(row[e] - top): one chain per lane, then a tree of halves. NaN if top is NaN or infinite.
template <class A, class T>
__device__ A warp_sum_of_exponentials(T const* row, index_t n, A top, int lane) {
  A sum = 0;
  for (index_t e = lane; e < n; e += lanes) sum += exp_scalar(static_cast<A>(row[e]) - top);
  return warp_sum(sum);
}

}  // namespace moe::inline MOE_ISA::detail
