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

/// a * b, rounded on its own: no compiler fuses it with a sum that follows. For code that several spaces share; nvcc contracts across statements.
MOE_HD inline float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#elif defined(MOE_HAS_FMA) && defined(__x86_64__)
  float x = a * b;
  asm("" : "+x"(x));
  return x;
#else
  return a * b;
#endif
}
MOE_HD inline double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#elif defined(MOE_HAS_FMA) && defined(__x86_64__)
  double x = a * b;
  asm("" : "+x"(x));
  return x;
#else
  return a * b;
#endif
}

/// e^x: the bits of a lane of exp(simd<T>), in plain code that kernels of every space can call. The constants are explained there.
MOE_HD inline float exp_scalar(float x) {
  if (x != x) return x;
  if (x > 88.7228394f) return __builtin_inff();
  if (x < -104.0f) return 0.0f;
  float const magic = 12582912.0f;
  float const n = madd(x, 1.44269504088896341f, magic) - magic;
  float const r = madd(n, -1.42860682030941723e-6f, madd(n, -0.693145751953125f, x));
  float p = madd(0.00138143206f, r, 0.00836885069f);
  p = madd(p, r, 0.0416684002f);
  p = madd(p, r, 0.166665196f);
  p = madd(p, r, 0.49999994f);
  p = madd(p, r, 1.0f);
  p = madd(p, r, 1.0f);
  int const whole = static_cast<int>(n), half = whole >> 1, rest = whole - half;
  return p * __builtin_bit_cast(float, (half + 127) << 23) * __builtin_bit_cast(float, (rest + 127) << 23);
}
MOE_HD inline double exp_scalar(double x) { return std::exp(x); }

}  // namespace moe::inline MOE_ISA
