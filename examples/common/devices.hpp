#pragma once
// The devices a program of a preset is compiled for. With MOE_EXAMPLE_CUDA a CUDA compiler reads this, and the model's operators exist in both spaces.
#include <array>

#if defined(MOE_EXAMPLE_CUDA)
#include <moe/moe.cuh>

#include <examples/common/device.cuh>
#endif

#include <examples/common/device.hpp>
#include <examples/common/model_engine.hpp>

namespace trainer {

#if defined(MOE_EXAMPLE_CUDA)
template <class Model>
std::array<device_choice, 2> devices() {
  return {choice<Model, cpu_device>("cpu"), choice<Model, cuda_device>("cuda")};
}
#else
template <class Model>
std::array<device_choice, 1> devices() {
  return {choice<Model, cpu_device>("cpu")};
}
#endif

}  // namespace trainer
