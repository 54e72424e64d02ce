#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include <moe/core/detail/bf16_lanes.hpp>
#include <moe/core/math.hpp>

namespace moe::inline MOE_ISA {

/// A machine vector of `width` floats or doubles. Element-wise, so that a lane's result never depends on the other lanes.
/// Sums across lanes have one fixed tree. `*` and `+` of two vectors are never written in one expression: madd says it.
template <class T>
struct simd {
  static constexpr int width = vector_bytes / static_cast<int>(sizeof(T));
  typedef T native __attribute__((vector_size(vector_bytes)));
  native v;

  static MOE_INLINE simd zero() { return {native{}}; }
  static MOE_INLINE simd all(T x) { return {x - native{}}; }
  static MOE_INLINE simd load(T const* p) {
    simd r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  /// The first n lanes from memory, the others 0; reads nothing beyond.
  static MOE_INLINE simd load(T const* p, index_t n) {
    if (n >= width) return load(p);
#if defined(MOE_AVX512) && !defined(__CUDACC__)
    if constexpr (std::same_as<T, float>) return {__builtin_ia32_loadups512_mask(p, zero().v, static_cast<unsigned short>(detail::first_lanes(n)))};
    else return {__builtin_ia32_loadupd512_mask(p, zero().v, static_cast<unsigned char>(detail::first_lanes(n)))};
#else
    simd r = zero();
    if (n > 0) std::memcpy(&r.v, p, static_cast<std::size_t>(n) * sizeof(T));
    return r;
#endif
  }
  static MOE_INLINE simd load(bf16 const* p)
    requires std::same_as<T, float>
  {
    return {detail::from_bf16(p)};
  }
  static MOE_INLINE simd load(bf16 const* p, index_t n)
    requires std::same_as<T, float>
  {
    return {detail::from_bf16(p, n)};
  }
  MOE_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof v); }
  MOE_INLINE void store(T* p, index_t n) const {
    if (n >= width) return store(p);
#if defined(MOE_AVX512) && !defined(__CUDACC__)  // a masked store; a memcpy of unknown length would also keep v in memory
    if constexpr (std::same_as<T, float>) __builtin_ia32_storeups512_mask(p, v, static_cast<unsigned short>(detail::first_lanes(n)));
    else __builtin_ia32_storeupd512_mask(p, v, static_cast<unsigned char>(detail::first_lanes(n)));
#else
    if (n > 0) std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T));
#endif
  }
  /// To the nearest, ties to even, a NaN stays one: the bits of bf16(float).
  MOE_INLINE void store(bf16* p) const
    requires std::same_as<T, float>
  {
    detail::to_bf16(v, p);
  }
  MOE_INLINE void store(bf16* p, index_t n) const
    requires std::same_as<T, float>
  {
    detail::to_bf16(v, p, n);
  }

  MOE_INLINE T operator[](int i) const { return v[i]; }
  friend MOE_INLINE simd operator+(simd a, simd b) { return {a.v + b.v}; }
  friend MOE_INLINE simd operator-(simd a, simd b) { return {a.v - b.v}; }
  friend MOE_INLINE simd operator*(simd a, simd b) { return {a.v * b.v}; }
  friend MOE_INLINE simd operator/(simd a, simd b) { return {a.v / b.v}; }
  friend MOE_INLINE simd operator-(simd a) { return {-a.v}; }
};

/// Built-ins rather than <immintrin.h>, which costs every includer 0.8 s; g++ and clang spell these the same.
template <class T>
MOE_INLINE simd<T> madd(simd<T> a, simd<T> b, simd<T> c) {
#if defined(MOE_AVX512)
  if constexpr (std::same_as<T, float>) return {__builtin_ia32_vfmaddps512_mask(a.v, b.v, c.v, detail::all_floats, 4)};  // 4: the current rounding mode
  else return {__builtin_ia32_vfmaddpd512_mask(a.v, b.v, c.v, detail::all_doubles, 4)};
#elif defined(MOE_AVX2)
  if constexpr (std::same_as<T, float>) return {__builtin_ia32_vfmaddps256(a.v, b.v, c.v)};
  else return {__builtin_ia32_vfmaddpd256(a.v, b.v, c.v)};
#else
  simd<T> r;
  for (int i = 0; i < simd<T>::width; ++i) r.v[i] = madd(a.v[i], b.v[i], c.v[i]);
  return r;
#endif
}

#if defined(MOE_AVX512_BF16)
/// 16 pairs of bf16, one in each lane of 32 bits: the earlier of two neighbours in memory is the lower half.
struct bf16_pairs {
  typedef short native __attribute__((vector_size(64)));
  static constexpr int width = 16;
  native v;

  explicit MOE_INLINE bf16_pairs(native x) : v(x) {}
  /// Lanes that hold pairs as bits, as packed panels do.
  MOE_INLINE bf16_pairs(simd<float> x) { std::memcpy(&v, &x.v, sizeof v); }
  /// 32 neighbours.
  static MOE_INLINE bf16_pairs load(bf16 const* p) {
    native x;
    std::memcpy(&x, p, sizeof x);
    return bf16_pairs(x);
  }
  /// The first n elements (not pairs) from memory, the others 0; reads nothing beyond.
  static MOE_INLINE bf16_pairs load(bf16 const* p, index_t n) {
    if (n >= 2 * width) return load(p);
    native x{};
#if defined(__CUDACC__)
    if (n > 0) std::memcpy(&x, p, static_cast<std::size_t>(n) * sizeof *p);
#elif defined(__clang__)
    x = __builtin_ia32_loaddquhi512_mask(reinterpret_cast<native const*>(p), x, detail::first_lanes(n));
#else
    x = __builtin_ia32_loaddquhi512_mask(reinterpret_cast<short const*>(p), x, detail::first_lanes(n));
#endif
    return bf16_pairs(x);
  }
  /// The two elements at p in every lane.
  static MOE_INLINE bf16_pairs all(bf16 const* p) {
    int pair;
    std::memcpy(&pair, p, sizeof pair);
    return bf16_pairs(__builtin_bit_cast(native, pair - detail::ints{}));
  }
};

/// Lane i: c + a[2i] b[2i] + a[2i + 1] b[2i + 1], the odd product first, as the instruction adds them: each addition rounds once, to nearest whatever
/// the rounding mode; denormal factors and denormal results count as 0. A chain of its own: not the bits of two madd. NaN stays.
MOE_INLINE simd<float> madd_pairs(bf16_pairs a, bf16_pairs b, simd<float> c) {
#if defined(__clang__)
  typedef int operand __attribute__((vector_size(64)));
  return {__builtin_ia32_dpbf16ps_512(c.v, __builtin_bit_cast(operand, a.v), __builtin_bit_cast(operand, b.v))};
#else
  return {__builtin_ia32_dpbf16ps_v16sf(c.v, a.v, b.v)};
#endif
}
#endif

/// The larger of each pair; NaN if either is NaN.
template <class T>
MOE_INLINE simd<T> max(simd<T> a, simd<T> b) {
  auto const nan = a.v != a.v;
  auto const greater = a.v > b.v;
  return {(nan | greater) ? a.v : b.v};
}

/// Correctly rounded; NaN below 0. A loop over std::sqrt would test each lane for errno.
template <class T>
MOE_INLINE simd<T> sqrt(simd<T> a) {
#if defined(__clang__) || defined(__CUDACC__) || !(defined(MOE_AVX512) || defined(MOE_AVX2))
  simd<T> r;
  for (int i = 0; i < simd<T>::width; ++i) r.v[i] = std::sqrt(a.v[i]);
  return r;
#elif defined(MOE_AVX512)
  if constexpr (std::same_as<T, float>) return {__builtin_ia32_sqrtps512_mask(a.v, a.v, detail::all_floats, 4)};
  else return {__builtin_ia32_sqrtpd512_mask(a.v, a.v, detail::all_doubles, 4)};
#else
  if constexpr (std::same_as<T, float>) return {__builtin_ia32_sqrtps256(a.v)};
  else return {__builtin_ia32_sqrtpd256(a.v)};
#endif
}

namespace detail {
/// Lane i of the result is lane Lane[i] of a followed by b. V is a machine vector.
template <int... Lane, class V>
MOE_INLINE V shuffled(V a, V b) {
#if defined(__CUDACC__)  // nvcc's front end loses the dots of a pack inside the built-in
  constexpr int width = sizeof...(Lane);
  V r{};
  int i = 0;
  ((r[i++] = Lane < width ? a[Lane % width] : b[Lane % width]), ...);
  return r;
#else
  return __builtin_shufflevector(a, b, Lane...);
#endif
}
/// Lane i of the result is lane (i + By) % width of a.
template <int By, class T, int... I>
MOE_INLINE simd<T> rotate(simd<T> a, std::integer_sequence<int, I...>) {
  return {shuffled<((I + By) % simd<T>::width)...>(a.v, a.v)};
}
/// Lane 0 of the tree of halves: f(f(0, 8), f(4, 12)), ...
template <int Half, class T, class F>
MOE_INLINE T fold(simd<T> a, F const& f) {
  if constexpr (Half == 0) return a.v[0];
  else return fold<Half / 2>(f(a, rotate<Half>(a, std::make_integer_sequence<int, simd<T>::width>{})), f);
}
}  // namespace detail

namespace detail {
/// Exchanges lane bit `Bit` of two vectors: a keeps its lanes where the bit is clear and takes b's there into the others; b the reverse.
template <int Bit, class V, int... L>
MOE_INLINE void exchange(V& a, V& b, std::integer_sequence<int, L...>) {
  constexpr int width = sizeof...(L);
  V const low = shuffled<((L & Bit) != 0 ? width + L - Bit : L)...>(a, b), high = shuffled<((L & Bit) != 0 ? width + L : L + Bit)...>(a, b);
  a = low, b = high;
}
template <int Bit, class T>
MOE_INLINE void transpose_by(simd<T> (&row)[simd<T>::width]) {
  if constexpr (Bit < simd<T>::width) {
    MOE_UNROLL(16)
    for (int i = 0; i < simd<T>::width; ++i)
      if ((i & Bit) == 0) exchange<Bit>(row[i].v, row[i + Bit].v, std::make_integer_sequence<int, simd<T>::width>{});
    transpose_by<2 * Bit>(row);
  }
}
}  // namespace detail

/// Lane j of row i becomes lane i of row j.
template <class T>
MOE_INLINE void transpose(simd<T> (&row)[simd<T>::width]) {
  detail::transpose_by<1>(row);
}

/// Sum and maximum of the lanes, by halves: ((0+8)+(4+12))+... A fixed tree.
template <class T>
MOE_INLINE T sum(simd<T> a) {
  return detail::fold<simd<T>::width / 2>(a, [](simd<T> x, simd<T> y) { return x + y; });
}
template <class T>
MOE_INLINE T max(simd<T> a) {
  return detail::fold<simd<T>::width / 2>(a, [](simd<T> x, simd<T> y) { return max(x, y); });
}

namespace detail {
/// x within [least, most]; a NaN stays. g++ 12 would compare and blend, which takes twice as long.
MOE_INLINE floats clamped(floats x, floats least, floats most) {
#if defined(MOE_AVX512) && defined(__clang__)
  return __builtin_ia32_maxps512(least, __builtin_ia32_minps512(most, x, 4), 4);  // the second operand where one is a NaN
#elif defined(MOE_AVX512) && !defined(__CUDACC__)
  return __builtin_ia32_maxps512_mask(least, __builtin_ia32_minps512_mask(most, x, x, all_floats, 4), x, all_floats, 4);
#else
  floats const y = most < x ? most : x;
  return least > y ? least : y;
#endif
}

/// p 2^n, rounded once, where p 2^n is about e^x: p in [0.7, 1.42), n an integer in [-152, 128]. Infinity from x = 88.7228394 on; a NaN in x stays.
MOE_INLINE floats times_power_of_2(floats p, floats n, [[maybe_unused]] floats x) {
#if defined(MOE_AVX512)
  return __builtin_ia32_scalefps512_mask(p, n, p, all_floats, 4);
#else  // on the bits, since a product that is denormal takes three times as long
  words const bits = __builtin_bit_cast(words, p) + (__builtin_bit_cast(words, __builtin_convertvector(n, ints)) << 23);
  floats const units = __builtin_bit_cast(floats, bits + (149u << 23));               // of 2^-149, below 2^23 where the result is denormal
  words const denormal = __builtin_bit_cast(words, units + 0x1p23f) - (150u << 23);   // the sum rounds to an integer
  words const result = __builtin_bit_cast(ints, bits) < (1 << 23) ? denormal : bits;  // as a signed number also where the exponent fell below 0
  return x < 88.7228394f ? __builtin_bit_cast(floats, result) : x + std::numeric_limits<float>::infinity();
#endif
}
}  // namespace detail

/// e^x. float: within 1.2 ulp by a degree-6 minimax polynomial (1 + r + ..., relative error 4e-9) on |r| <= ln2/2;
/// 0 below -104, +inf above 88.73, NaN stays. double: the C library's, lane by lane.
template <class T>
MOE_INLINE simd<T> exp(simd<T> x) {
  if constexpr (std::same_as<T, double>) {
    for (int i = 0; i < simd<T>::width; ++i) x.v[i] = std::exp(x.v[i]);
    return x;
  } else {
    using V = simd<float>;
    V const y = {detail::clamped(x.v, V::all(-105.0f).v, V::all(89.0f).v)};                   // beyond, e^x is rounded to what it is there
    V const magic = V::all(12582912.0f);                                       // 1.5 * 2^23: adding it rounds to an integer
    V const n = madd(y, V::all(1.44269504088896341f), magic) - magic;
    V r = madd(n, V::all(-0.693145751953125f), y);                             // ln 2 in two parts
    r = madd(n, V::all(-1.42860682030941723e-6f), r);
    V p = V::all(0.00138143206f);
    p = madd(p, r, V::all(0.00836885069f));
    p = madd(p, r, V::all(0.0416684002f));
    p = madd(p, r, V::all(0.166665196f));
    p = madd(p, r, V::all(0.49999994f));
    p = madd(p, r, V::all(1.0f));
    p = madd(p, r, V::all(1.0f));
    return {detail::times_power_of_2(p.v, n.v, x.v)};
  }
}

/// One element: the same bits as a lane of the vector function.
template <class T>
MOE_INLINE T exp_one(T x) {
  return exp(simd<T>::all(x))[0];
}

/// 1 / (1 + e^-x), without overflow.
template <class T>
MOE_INLINE simd<T> sigmoid(simd<T> x) {
  simd<T> const one = simd<T>::all(T(1));
  return one / (one + exp(-x));
}

}  // namespace moe::inline MOE_ISA
