#pragma once
#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>

// Reductions over a block of threads, for kernels in which a block works on one row.
namespace moe::inline MOE_ISA::detail {

/// One number per warp of a block of Threads threads, in shared memory.
template <class A, int Threads>
using warp_partials = ptx::shared_matrix<A, 1, Threads / lanes>;

/// Sum over the threads of a block, in every thread: a tree of halves within a warp, then the warps in ascending order. One barrier; `partials` may be
/// used again after the next one.
template <int Threads, class A>
__device__ A block_sum(A x, warp_partials<A, Threads>& partials) {
  A const mine = warp_sum(x);
  int const thread = static_cast<int>(threadIdx.x);
  if (thread % lanes == 0) partials(0, thread / lanes) = mine;
  __syncthreads();
  A total = partials(0, 0);
  for (int w = 1; w < Threads / lanes; ++w) total += partials(0, w);
  return total;
}
/// Maximum over the threads of a block; NaN in any thread gives NaN.
template <int Threads, class A>
__device__ A block_max(A x, warp_partials<A, Threads>& partials) {
  A const mine = warp_max(x);
  int const thread = static_cast<int>(threadIdx.x);
  if (thread % lanes == 0) partials(0, thread / lanes) = mine;
  __syncthreads();
  A largest = partials(0, 0);
  for (int w = 1; w < Threads / lanes; ++w) {
    A const y = partials(0, w);
    largest = largest != largest || largest > y ? largest : y;
  }
  return largest;
}

}  // namespace moe::inline MOE_ISA::detail
