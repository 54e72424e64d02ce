#pragma once
// Replaces include/moe/core/ptx/common.cuh where test/simt compiles kernels.
#include <cuda_runtime.h>

#include <cstdint>

#include <moe/core/macros.hpp>

#include "test/simt/device.hpp"
#include "test/simt/engines.hpp"

namespace moe::inline MOE_ISA::ptx {

constexpr bool sm90a = true;
inline bool runs_sm90a_code() {
  simt::device_state const& d = simt::device();
  return d.present == cudaSuccess && d.lost == cudaSuccess && d.image == cudaSuccess && d.major == 9 && d.hopper_code;
}

}  // namespace moe::inline MOE_ISA::ptx
