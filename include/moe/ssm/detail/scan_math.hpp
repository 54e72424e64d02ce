#pragma once
#include <moe/core/simd.hpp>

// What one step of the scan is made of: for one element, in plain code that kernels of every space can call, and for a machine vector, with the same
// bits in each lane.

namespace moe::inline MOE_ISA::detail {

// 2^r, |r| <= 1/2, is 1 + r (c[0] + r (c[1] + ...)): relative error 9.3e-8 at the ends, none at 0, where decays lie whose error would add up.
inline constexpr float exp2_first = 0.693147004f, exp2_second = 0.240222469f, exp2_third = 0.0555071086f, exp2_fourth = 0.0096712932f,
                       exp2_fifth = 0.00132695667f;
inline constexpr float rounding_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

/// 2^x within 1.6e-7 of it; 0 below -150, infinity from 128 on, NaN stays.
MOE_HD inline float exp2_scalar(float x) {
  if (x != x) return x;
  if (x >= 128.0f) return __builtin_inff();
  if (x < -151.0f) return 0.0f;
  float const n = (x + rounding_magic) - rounding_magic, r = x - n;
  float p = madd(exp2_fifth, r, exp2_fourth);
  p = madd(p, r, exp2_third);
  p = madd(p, r, exp2_second);
  p = madd(p, r, exp2_first);
  p = madd(p, r, 1.0f);
  int const whole = static_cast<int>(n), half = whole >> 1, rest = whole - half;
  return product(product(p, __builtin_bit_cast(float, (half + 127) << 23)), __builtin_bit_cast(float, (rest + 127) << 23));
}

/// A decay rate in the unit that decay_scalar takes: the exponential of float has the base 2.
MOE_HD inline float scan_rate(float a) { return product(a, 1.44269504088896341f); }
MOE_HD inline double scan_rate(double a) { return a; }
/// e^(dt a), rate = scan_rate(a).
MOE_HD inline float decay_scalar(float dt, float rate) { return exp2_scalar(product(dt, rate)); }
MOE_HD inline double decay_scalar(double dt, double rate) { return exp_scalar(product(dt, rate)); }

// atanh(s) = s (1 + w (c[0] + w (c[1] + ...))), w = s^2 <= 1/9: relative error 4.7e-9.
inline constexpr float atanh_first = 0.333332092f, atanh_second = 0.200107187f, atanh_third = 0.14001517f, atanh_fourth = 0.140033484f;

/// ln(1 + t), 0 <= t <= 1: 2 atanh(t / (2 + t)).
MOE_HD inline float log1p_scalar(float t) {
  float const s = t / (2.0f + t), w = product(s, s), twice = s + s;
  float const q = madd(madd(madd(atanh_fourth, w, atanh_third), w, atanh_second), w, atanh_first);
  return madd(twice, product(w, q), twice);
}
MOE_HD inline double log1p_scalar(double t) { return std::log1p(t); }

/// ln(1 + e^x), x itself above 20.
template <class A>
MOE_HD A softplus_scalar(A x) {
  A const l = log1p_scalar(exp_scalar(x > 0 ? -x : x));
  return x > 20 ? x : (x > 0 ? x : A(0)) + l;
}
/// Its derivative: the logistic function, 1 above 20.
template <class A>
MOE_HD A softplus_slope_scalar(A x) {
  A const t = exp_scalar(x > 0 ? -x : x), s = A(1) / (A(1) + t);
  return x > 20 ? A(1) : x > 0 ? s : product(t, s);
}

/// a * b, rounded on its own: g++ would fuse it with a sum in a later statement.
template <class T>
MOE_INLINE simd<T> rounded_product(simd<T> a, simd<T> b) {
  simd<T> r = a * b;
#if defined(MOE_AVX512) && !defined(__CUDACC__)
  asm("" : "+v"(r.v));
#elif defined(MOE_HAS_FMA) && defined(__x86_64__) && !defined(__CUDACC__)
  asm("" : "+x"(r.v));
#endif
  return r;
}

/// exp2_scalar in each lane.
MOE_INLINE simd<float> exp2(simd<float> x) {
  using V = simd<float>;
#if defined(MOE_AVX512) && defined(__clang__)
  V const r = {__builtin_ia32_reduceps512_mask(x.v, 0, x.v, all_floats, 4)}, n = x - r;
#elif defined(MOE_AVX512) && !defined(__CUDACC__)
  V const r = {__builtin_ia32_reduceps512_mask(x.v, 0, x.v, all_floats)}, n = x - r;  // x less the nearest integer; 0 where x is infinite
#else
  V const y = {clamped(x.v, V::all(-151.0f).v, V::all(128.0f).v)}, n = (y + V::all(rounding_magic)) - V::all(rounding_magic), r = y - n;
#endif
  V p = madd(V::all(exp2_fifth), r, V::all(exp2_fourth));
  p = madd(p, r, V::all(exp2_third));
  p = madd(p, r, V::all(exp2_second));
  p = madd(p, r, V::all(exp2_first));
  p = madd(p, r, V::all(1.0f));
#if defined(MOE_AVX512) && !defined(__CUDACC__)
  return {__builtin_ia32_scalefps512_mask(p.v, n.v, p.v, all_floats, 4)};
#else  // in two factors, so that neither overflows
  ints const whole = __builtin_convertvector(n.v, ints), half = whole >> 1;
  return (p * V{__builtin_bit_cast(floats, (half + 127) << 23)}) * V{__builtin_bit_cast(floats, (whole - half + 127) << 23)};
#endif
}

MOE_INLINE simd<float> decay(simd<float> dt, simd<float> rate) { return exp2(rounded_product(dt, rate)); }
MOE_INLINE simd<double> decay(simd<double> dt, simd<double> rate) { return exp(dt * rate); }

MOE_INLINE simd<float> log1p(simd<float> t) {
  using V = simd<float>;
  V const s = t / (V::all(2.0f) + t), w = rounded_product(s, s), twice = s + s;
  V const q = madd(madd(madd(V::all(atanh_fourth), w, V::all(atanh_third)), w, V::all(atanh_second)), w, V::all(atanh_first));
  return madd(twice, w * q, twice);
}
MOE_INLINE simd<double> log1p(simd<double> t) {
  for (int i = 0; i < simd<double>::width; ++i) t.v[i] = std::log1p(t.v[i]);
  return t;
}
/// softplus, and its slope where it is wanted: they share the exponential.
template <class A>
MOE_INLINE simd<A> softplus(simd<A> x, simd<A>* slope = nullptr) {
  using V = simd<A>;
  auto const positive = x.v > A(0), far = x.v > A(20);
  V const t = exp(V{positive ? -x.v : x.v}), sum = V{positive ? x.v : V::zero().v} + log1p(t);
  if (slope != nullptr) {
    V const one = V::all(A(1)), s = one / (one + t), below = t * s;
    slope->v = far ? one.v : positive ? s.v : below.v;
  }
  return {far ? x.v : sum.v};
}

}  // namespace moe::inline MOE_ISA::detail
