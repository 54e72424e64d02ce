#pragma once
// Replaces include/moe/core/detail/cub.cuh where test/simt compiles kernels: the same calls on the stream, as stable sorts and loops. Temporary
// memory is checked for its size and filled with NaN, so that one that overlaps an operand shows.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA::detail::cub_call {

/// Answers the question for the size, or puts the work on the stream.
template <class F>
cudaError_t call(void* temporary, std::size_t& bytes, index_t n, cudaStream_t stream, F const& work) {
  std::size_t const need = 768 + static_cast<std::size_t>(n) / 16;
  if (temporary == nullptr) {
    bytes = need;
    return cudaSuccess;
  }
  if (bytes < need || n <= 0) return cudaErrorInvalidValue;
  return simt::submit(stream, [=] {
    std::memset(temporary, 0xff, need);
    work();
    std::memset(temporary, 0xff, need);
  });
}

template <class K, class V>
cudaError_t sort_pairs(void* temporary, std::size_t& bytes, K const* keys, K* sorted_keys, V const* values, V* sorted_values, index_t n, int bits,
                       cudaStream_t stream) {
  if (bits < 1 || bits > static_cast<int>(8 * sizeof(K))) return cudaErrorInvalidValue;
  return call(temporary, bytes, n, stream, [=] {
    K const mask = static_cast<K>(~K{0}) >> (static_cast<int>(8 * sizeof(K)) - bits);
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return (keys[a] & mask) < (keys[b] & mask); });
    for (K* to = sorted_keys; index_t const i : order) *to++ = keys[i];
    for (V* to = sorted_values; index_t const i : order) *to++ = values[i];
  });
}

template <class F, class P>
cudaError_t select_flagged(void* temporary, std::size_t& bytes, F const* flag, P* position, index_t* count, index_t n, cudaStream_t stream) {
  return call(temporary, bytes, n, stream, [=] {
    *count = 0;
    for (index_t i = 0; i < n; ++i)
      if (flag[i]) position[(*count)++] = static_cast<P>(i);
  });
}

template <class T>
cudaError_t inclusive_sum(void* temporary, std::size_t& bytes, T const* x, index_t* sum, index_t n, cudaStream_t stream) {
  return call(temporary, bytes, n, stream, [=] {
    for (index_t i = 0, total = 0; i < n; ++i) sum[i] = total += static_cast<index_t>(x[i]);
  });
}

}  // namespace moe::inline MOE_ISA::detail::cub_call
