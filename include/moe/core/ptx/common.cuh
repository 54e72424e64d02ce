#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include <moe/core/macros.hpp>

/// An instruction of sm_90a, as the arguments of asm. Code for any other architecture traps there: kernels that use one do so under `ptx::sm90a`, or
/// are started only where `ptx::runs_sm90a_code()`.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MOE_PTX_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define MOE_PTX_SM90A(...) __trap()
#endif

namespace moe::inline MOE_ISA::ptx {

/// Whether the device code being compiled is for sm_90a; plain sm_90 is not. For `if constexpr` inside device functions, nowhere else.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool sm90a = true;
#else
constexpr bool sm90a = false;
#endif

__device__ inline unsigned shared_pointer(void const* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

namespace detail {
/// Its shared memory tells which version the device loads: the host cannot see the difference between sm_90 and sm_90a.
template <int = 0>
__global__ void version_probe_kernel() {
  __shared__ unsigned char volatile bytes[sm90a ? 4096 : 512];
  bytes[threadIdx.x] = 0;
}
}  // namespace detail

/// Whether the current device runs this translation unit's kernels as compiled for sm_90a. False where there is no device. Static, as nvcc makes the
/// kernels: the linker must not answer for those of another unit, which may be compiled for other architectures.
static inline bool runs_sm90a_code() {
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, detail::version_probe_kernel<>) == cudaSuccess) return attributes.sharedSizeBytes >= 4096;
  cudaGetLastError();  // clear it: no device is an answer here
  return false;
}

}  // namespace moe::inline MOE_ISA::ptx
