#pragma once
// The matrix instructions of a warp: ldmatrix, stmatrix, mma.sync.
#include "test/simt/simt.hpp"

namespace simt {

/// d += a * b, of bf16 factors: the library's madd, in ascending k. Not the order of a tensor core, which is not documented.
inline void multiply_add(float& d, float a, float b) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  d = __builtin_fmaf(a, b, d);
#else
  d = a * b + d;
#endif
}

void load_matrices(std::uint32_t (&r)[4], void const* row, bool transposed, place where);
void store_matrices(void* row, std::uint32_t const (&r)[4], bool transposed, place where);
void multiply_matrices(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1, place where);

}  // namespace simt
