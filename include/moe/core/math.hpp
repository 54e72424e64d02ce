#pragma once
#include <cmath>

#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA {

/// a * b + c as one operation whose rounding no compiler option changes: fused where the instruction set has it; where it has not, a product and a sum,
/// which no compiler can then fuse. Every sum whose bits matter says madd, never a contractible `a * b + c`.
MOE_HD inline float madd(float a, float b, float c) {
#if defined(MOE_HAS_FMA) || defined(__CUDA_ARCH__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
MOE_HD inline double madd(double a, double b, double c) {
#if defined(MOE_HAS_FMA) || defined(__CUDA_ARCH__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace moe::inline MOE_ISA
