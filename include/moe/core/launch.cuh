#pragma once
#include <limits>
#include <utility>

#include <moe/core/space.cuh>

namespace moe::inline MOE_ISA {

/// A one-dimensional launch. `blocks` may exceed what a grid holds: the grid is cut there, and kernels stride over their work by gridDim.x.
struct launch_shape {
  index_t blocks;
  int threads;
  std::size_t shared_bytes = 0;  ///< dynamic shared memory, sizeof the layout that the kernel asks ptx::dynamic_shared for
};

namespace detail {

/// Throws: the error is of somebody's earlier work, `name` has not been started.
[[noreturn]] inline void fail_pending(char const* name, cudaError_t e) {
  cudaGetLastError();  // reported once
  fail(code_of(e), name, ": not started: an error of earlier work is pending: ", cudaGetErrorString(e), remedy(e));
}

/// Refuses before anything is started what the device cannot run, with the numbers.
inline void check_launch(char const* name, launch_shape const& s) {
  cudaError_t const pending = cudaPeekAtLastError();
  bool const failed = pending != cudaSuccess && pending != cudaErrorNotReady;  // which cudaEventQuery and cudaStreamQuery leave behind as an answer
  if (failed && code_of(pending) == errc::no_device) cuda_check(pending, name);
  if (failed) fail_pending(name, pending);
  expects(s.threads >= 1 && s.threads <= 1024, errc::bad_argument, name, ": ", s.threads, " threads per block, a block has 1 to 1024");
  if (s.shared_bytes <= 48 * 1024) return;
  int device = 0, most = 0;
  cuda_check(cudaGetDevice(&device), name);
  cuda_check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), name);
  expects(s.shared_bytes <= static_cast<std::size_t>(most), errc::unsupported_machine, name, ": ", s.shared_bytes,
          " bytes of shared memory per block, the device has ", most);
}

}  // namespace detail

/// Starts kernel(args...) on space.stream; no blocks, no launch. The only place that starts kernels, so that test/simt runs the same sources on a
/// CPU.
/// Throws an error that names the kernel: bad_argument or unsupported_machine, before anything is started, for threads and shared memory beyond the
/// device; unsupported_machine if it has no code for this device; no_device; cuda for what else the runtime refuses. An error that earlier work left
/// behind is reported as such, and the kernel is not started.
template <class... Params, class... Args>
void launch(char const* name, void (*kernel)(Params...), launch_shape shape, cuda const& space, Args&&... args) {
  if (shape.blocks <= 0) return;  // an empty grid is a launch error
  detail::check_launch(name, shape);
  // On every launch, not once: a static flag would be shared by translation units that each own a copy of the kernel, and by devices.
  if (shape.shared_bytes > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)), name);
  index_t const most = std::numeric_limits<int>::max();
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(shape.blocks < most ? shape.blocks : most);
  config.blockDim = static_cast<unsigned>(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = space.stream;
  cudaError_t const status = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (detail::context_lost(status)) detail::fail_pending(name, status);  // a launch returns at once: it cannot have been this kernel
  cuda_check(status, name, " (", shape.blocks, " blocks of ", shape.threads, " threads, ", shape.shared_bytes, " bytes of shared memory)");
}

}  // namespace moe::inline MOE_ISA
