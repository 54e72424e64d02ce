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
  return product(product(p, __builtin_bit_cast(float, (half + 127) << 23)), __builtin_bit_cast(float, (rest + 127) << 23));
}
MOE_HD inline double exp_scalar(double x) { return product(std::exp(x), 1.0); }  // else a sum that follows may be fused with its last product

/// Natural logarithm, within 1 ulp: the same bits wherever madd has them, which the C libraries of host and device do not promise.
///   x = 2^k (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1), s = f / (2 + f):  log(1 + f) = f - (f^2/2 - s (f^2/2 + sum_j 2/(2j + 1) s^2j))
MOE_HD inline double log_scalar(double x) {
  auto bits = __builtin_bit_cast(std::uint64_t, x);
  std::uint64_t const infinity = 0x7ff0000000000000u;
  if (bits - 1 >= infinity - 1) return bits << 1 == 0 ? -__builtin_inf() : bits == infinity ? x : __builtin_nan("");  // not positive and finite
  int const denormal = bits >> 52 == 0 ? 54 : 0;
  if (denormal != 0) bits = __builtin_bit_cast(std::uint64_t, x * 0x1p54);
  std::uint64_t const root_half = 0x3fe6a09e667f3bcdu;  // the bits of sqrt(1/2)
  auto const power = static_cast<std::int64_t>(bits - root_half) >> 52;
  double const k = static_cast<double>(power - denormal), f = __builtin_bit_cast(double, bits - (static_cast<std::uint64_t>(power) << 52)) - 1.0;
  double const s = f / (2.0 + f), z = product(s, s), half = product(0.5 * f, f);
  double r = 2.0 / 21;
  r = madd(r, z, 2.0 / 19);
  r = madd(r, z, 2.0 / 17);
  r = madd(r, z, 2.0 / 15);
  r = madd(r, z, 2.0 / 13);
  r = madd(r, z, 2.0 / 11);
  r = madd(r, z, 2.0 / 9);
  r = madd(r, z, 2.0 / 7);
  r = madd(r, z, 2.0 / 5);
  r = madd(r, z, 2.0 / 3);
  double const rest = madd(s, madd(r, z, half), product(k, 1.90821492927058770002e-10));  // ln 2 in two parts, k times the first is exact
  return madd(k, 6.93147180369123816490e-01, f - (half - rest));
}

}  // namespace moe::inline MOE_ISA
