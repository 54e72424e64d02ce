#pragma once
// Replaces include/moe/core/ptx/matrix.cuh where test/simt compiles kernels.
#include <cuda_runtime.h>

#include <cstdint>

#include <moe/core/ptx/common.cuh>

#include "test/simt/matrix.hpp"

namespace moe::inline MOE_ISA::ptx {

template <bool Transposed = false>
void ldmatrix_x4(std::uint32_t (&r)[4], void const* row, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::load_matrices(r, row, Transposed, {file, line});
}
template <bool Transposed = false>
void stmatrix_x4(void* row, std::uint32_t const (&r)[4], char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::store_matrices(row, r, Transposed, {file, line});
}
inline void mma_m16n8k16(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1, char const* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  simt::multiply_matrices(d, a, b0, b1, {file, line});
}

}  // namespace moe::inline MOE_ISA::ptx
