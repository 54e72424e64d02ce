#pragma once
#include <cuda_runtime.h>

#include <moe/core/space.hpp>

namespace moe::inline MOE_ISA {

/// Throws moe::error naming `call` unless the CUDA runtime reports success. An earlier asynchronous failure surfaces here too.
inline void cuda_check(cudaError_t status, char const* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear it: the next call reports its own
  errc const code = status == cudaErrorMemoryAllocation                                    ? errc::out_of_memory
                    : status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ? errc::no_device
                                                                                           : errc::cuda;
  fail(code, call, ": ", cudaGetErrorString(status));
}

/// Work on a GPU, ordered on `stream`: operators return at once, their views are device memory, and `wait` returns when all work is done.
struct cuda {
  cudaStream_t stream = nullptr;  ///< the caller owns it; nullptr is the default stream
  void wait() const { cuda_check(cudaStreamSynchronize(stream), "cuda::wait"); }
};

}  // namespace moe::inline MOE_ISA
