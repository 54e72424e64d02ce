#pragma once
#include <cuda_runtime.h>

#include <moe/core/launch.cuh>
#include <moe/core/tensor.hpp>

// The two shapes that most kernels without matrix products have: a thread per element, and a warp per row. What an element or a row does is a functor
// (a struct of views and numbers with a __device__ operator()): nvcc would want a flag for lambdas.
namespace moe::inline MOE_ISA {

namespace detail {

inline constexpr int element_threads = 256, row_warps = 8, lanes = 32;

/// f(row, column) for all elements; neighbouring threads take neighbouring columns. The division is a 32-bit one where that is enough: a 64-bit one costs
/// as much as the rest of an element-wise kernel.
template <class F>
__global__ void __launch_bounds__(element_threads) elements_kernel(index_t rows, index_t columns, F f) {
  index_t const n = rows * columns, step = index_t{gridDim.x} * element_threads, first = index_t{blockIdx.x} * element_threads + threadIdx.x;
  if (n < (index_t{1} << 31)) {
    for (index_t i = first; i < n; i += step) {
      auto const r = static_cast<std::uint32_t>(i) / static_cast<std::uint32_t>(columns);
      f(index_t{r}, i - index_t{r} * columns);
    }
  } else {
    for (index_t i = first; i < n; i += step) f(i / columns, i % columns);
  }
}

/// f(row, lane) for all rows, by whole warps: f may use warp operations of all 32 lanes.
template <class F>
__global__ void __launch_bounds__(lanes* row_warps) rows_kernel(index_t rows, F f) {
  int const lane = static_cast<int>(threadIdx.x) % lanes;
  for (index_t r = index_t{blockIdx.x} * row_warps + threadIdx.x / lanes; r < rows; r += index_t{gridDim.x} * row_warps) f(r, lane);
}

/// Sum over the 32 lanes of a warp, in every lane: a tree of halves, the same for all.
template <class A>
__device__ A warp_sum(A x) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
/// Maximum over the lanes of a warp; NaN in any lane gives NaN.
template <class A>
__device__ A warp_max(A x) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    A const y = __shfl_xor_sync(0xffffffffu, x, step);
    x = x != x || x > y ? x : y;
  }
  return x;
}

}  // namespace detail

/// Runs f(row, column) for every element of [rows, columns] on the device.
template <class F>
void for_each_element(char const* name, cuda const& space, index_t rows, index_t columns, F const& f) {
  index_t const n = rows * columns;
  launch(name, detail::elements_kernel<F>, {.blocks = (n + detail::element_threads - 1) / detail::element_threads, .threads = detail::element_threads},
         space, rows, columns, f);
}

/// Runs f(row, lane) for every row with one warp per row.
template <class F>
void for_each_row(char const* name, cuda const& space, index_t rows, F const& f) {
  launch(name, detail::rows_kernel<F>, {.blocks = (rows + detail::row_warps - 1) / detail::row_warps, .threads = detail::lanes * detail::row_warps},
         space, rows, f);
}

}  // namespace moe::inline MOE_ISA
