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

/// Starts kernel(args...) on space.stream; no blocks, no launch. The only place that starts kernels, so that test/simt runs the same sources on a
/// CPU.
/// Throws errc::cuda naming the kernel if the runtime refuses the launch.
template <class... Params, class... Args>
void launch(char const* name, void (*kernel)(Params...), launch_shape shape, cuda const& space, Args&&... args) {
  if (shape.blocks <= 0) return;  // an empty grid is a launch error
  // On every launch, not once: a static flag would be shared by translation units that each own a copy of the kernel, and by devices.
  if (shape.shared_bytes > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)), name);
  index_t const most = std::numeric_limits<int>::max();
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(shape.blocks < most ? shape.blocks : most);
  config.blockDim = static_cast<unsigned>(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = space.stream;
  cuda_check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
}

}  // namespace moe::inline MOE_ISA
