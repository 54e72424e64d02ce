#pragma once
#include <moe/core/math.hpp>

// What one step of the scan is made of, in plain code that kernels of every space can call.

namespace moe::inline MOE_ISA::detail {

/// 2^x. float: within 1.1 ulp; 0 below -150, infinity from 128 on, NaN stays. The bits of a lane of the vector function.
MOE_HD inline float exp2_scalar(float x) {
  if (x != x) return x;
  if (x >= 128.0f) return __builtin_inff();
  if (x < -151.0f) return 0.0f;
  float const magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  float const n = (x + magic) - magic, r = x - n;
  float p = 0.00133908633f;
  p = madd(p, r, 0.00967010483f);
  p = madd(p, r, 0.0555036552f);
  p = madd(p, r, 0.240222424f);
  p = madd(p, r, 0.693147182f);
  p = madd(p, r, 1.0f);
  int const whole = static_cast<int>(n), half = whole >> 1, rest = whole - half;
  return product(product(p, __builtin_bit_cast(float, (half + 127) << 23)), __builtin_bit_cast(float, (rest + 127) << 23));
}

/// A decay rate in the unit that decay_scalar takes: float has its exponential to the base 2.
MOE_HD inline float scan_rate(float a) { return product(a, 1.44269504088896341f); }
MOE_HD inline double scan_rate(double a) { return a; }
/// e^(dt a), rate = scan_rate(a).
MOE_HD inline float decay_scalar(float dt, float rate) { return exp2_scalar(product(dt, rate)); }
MOE_HD inline double decay_scalar(double dt, double rate) { return exp_scalar(product(dt, rate)); }

/// ln(1 + e^x), x <= 0: 2 atanh(t / (2 + t)), t = e^x.
MOE_HD inline float log1p_of_exp(float x) {
  float const t = exp_scalar(x), s = t / (2.0f + t), w = product(s, s), twice = s + s;
  float q = 0.11f;
  q = madd(q, w, 0.142857143f);
  q = madd(q, w, 0.2f);
  q = madd(q, w, 0.333333333f);
  return madd(twice, product(w, q), twice);
}
MOE_HD inline double log1p_of_exp(double x) { return std::log1p(std::exp(x)); }

/// ln(1 + e^x), x itself above 20.
template <class A>
MOE_HD A softplus_scalar(A x) {
  A const l = log1p_of_exp(x < 0 ? x : -x);
  return x > 20 ? x : (x < 0 ? A(0) : x) + l;
}
/// Its derivative: the logistic function, 1 above 20.
template <class A>
MOE_HD A softplus_slope_scalar(A x) {
  return x > 20 ? A(1) : A(1) / (A(1) + exp_scalar(-x));
}

}  // namespace moe::inline MOE_ISA::detail
