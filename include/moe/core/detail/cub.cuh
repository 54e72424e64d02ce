#pragma once
#include <thrust/iterator/counting_iterator.h>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>
#include <cuda/std/functional>

#include <moe/core/types.hpp>

// All that the library asks of CUB. test/simt replaces this file by a version for the CPU. No type of CUB leaves it: CUB's namespace is named after
// the architectures of the translation unit. As in CUB, a call without temporary memory writes to `bytes` how much it needs and does nothing else;
// no call waits. Counts are 64-bit, and positive.
namespace moe::inline MOE_ISA::detail::cub_call {

/// Stable, ascending by the lowest `bits` bits of unsigned keys.
template <class K, class V>
cudaError_t sort_pairs(void* temporary, std::size_t& bytes, K const* keys, K* sorted_keys, V const* values, V* sorted_values, index_t n, int bits,
                       cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(temporary, bytes, keys, sorted_keys, values, sorted_values, n, 0, bits, stream);
}

/// position[j]: the j-th i with flag[i] != 0; *count: how many.
template <class F, class P>
cudaError_t select_flagged(void* temporary, std::size_t& bytes, F const* flag, P* position, index_t* count, index_t n, cudaStream_t stream) {
  return cub::DeviceSelect::Flagged(temporary, bytes, thrust::counting_iterator<P>(0), flag, position, count, n, stream);
}

/// sum[i] = x[0] + ... + x[i], in 64 bits.
template <class T>
cudaError_t inclusive_sum(void* temporary, std::size_t& bytes, T const* x, index_t* sum, index_t n, cudaStream_t stream) {
  return cub::DeviceScan::InclusiveScanInit(temporary, bytes, x, sum, ::cuda::std::plus<>{}, index_t{0}, n, stream);
}

}  // namespace moe::inline MOE_ISA::detail::cub_call
