#pragma once
// A GPU as a device of the trainer.
#include <string>

#include <moe/core/buffer.cuh>
#include <moe/core/space.cuh>

namespace trainer {

struct cuda_device {
  using space = moe::cuda;
  using buffer = moe::device_buffer;
  static constexpr bool is_host = false;
  static void use_threads(space&, int) {}
  static std::string describe(space const&) {
    int device = 0;
    cudaDeviceProp properties{};
    moe::cuda_check(cudaGetDevice(&device), "--device cuda");
    moe::cuda_check(cudaGetDeviceProperties(&properties, device), "--device cuda");
    return std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor);
  }
};

}  // namespace trainer
