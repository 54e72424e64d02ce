#pragma once
// The program of a preset, on the devices it is compiled for. With MOE_EXAMPLE_CUDA a CUDA compiler reads this, and the model's operators exist in both
// spaces.
#include <array>

#if defined(MOE_EXAMPLE_CUDA)
#include <moe/moe.cuh>

#include <examples/common/device.cuh>
#endif

#include <examples/common/device.hpp>
#include <examples/common/model_engine.hpp>

namespace trainer {

#if defined(MOE_EXAMPLE_CUDA)
template <class Preset>
std::array<device_choice, 4> devices() {
  return {choice<Preset, cpu_device, float>("cpu"), choice<Preset, cpu_device, moe::bf16>("cpu"), choice<Preset, cuda_device, float>("cuda"),
          choice<Preset, cuda_device, moe::bf16>("cuda")};
}
#else
template <class Preset>
std::array<device_choice, 2> devices() {
  return {choice<Preset, cpu_device, float>("cpu"), choice<Preset, cpu_device, moe::bf16>("cpu")};
}
#endif

/// run() for a preset: a plain struct with a `model` and `defaults`. main names no more than that, because nvcc 13 cannot spell a type whose template
/// arguments are structs outside of a template.
template <class Preset>
int run_preset(int argc, char const* const* argv) {
  auto const choices = devices<Preset>();
  return run(argc, argv, choices, Preset::defaults, Preset::model::vocab);
}

}  // namespace trainer
