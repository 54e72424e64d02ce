#pragma once
#include <cstring>

#include <moe/core/types.hpp>

// Size and element types of machine vectors, and bf16 in memory as vectors of float: exact one way, the bits of bf16(float) the other.
namespace moe::inline MOE_ISA {

#if defined(MOE_AVX512)
inline constexpr int vector_bytes = 64;
#elif defined(MOE_AVX2)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

namespace detail {
/// A mask of the first n < 32 lanes; none for n < 0.
MOE_INLINE unsigned first_lanes(index_t n) { return n > 0 ? (1u << n) - 1u : 0u; }

#if defined(MOE_AVX512)  // a mask that selects every lane, in the integer type that the compiler's built-in takes
#if defined(__clang__)
inline constexpr unsigned short all_floats = 0xffff;
#else
inline constexpr short all_floats = -1;
#endif
#if defined(__clang__) || defined(__CUDACC__)
inline constexpr unsigned char all_doubles = 0xff;
#else
inline constexpr signed char all_doubles = -1;
#endif
#endif

typedef float floats __attribute__((vector_size(vector_bytes)));
typedef std::uint32_t words __attribute__((vector_size(vector_bytes)));
typedef int ints __attribute__((vector_size(vector_bytes)));
typedef std::uint16_t halves __attribute__((vector_size(vector_bytes / 2)));  ///< as many as there are floats in a vector
inline constexpr index_t float_lanes = vector_bytes / 4;

#if defined(MOE_AVX512) && !defined(__CUDACC__)
#define MOE_MASKED_HALVES 1
typedef short masked_halves __attribute__((vector_size(32)));
#if defined(__clang__)
using masked_memory = masked_halves;  // what the built-ins below point to
#else
using masked_memory = short;
#endif
#endif

/// g++ 12 makes a conversion of all lanes two conversions of half of them.
MOE_INLINE words zero_extended(halves h) {
#if defined(__clang__) || defined(__CUDACC__) || !(defined(MOE_AVX512) || defined(MOE_AVX2))
  return __builtin_convertvector(h, words);
#elif defined(MOE_AVX512)
  return __builtin_bit_cast(words, __builtin_ia32_pmovzxwd512_mask(__builtin_bit_cast(masked_halves, h), ints{}, all_floats));
#else
  typedef short signed_halves __attribute__((vector_size(16)));
  return __builtin_bit_cast(words, __builtin_ia32_pmovzxwd256(__builtin_bit_cast(signed_halves, h)));
#endif
}
MOE_INLINE floats widened(halves h) { return __builtin_bit_cast(floats, zero_extended(h) << 16); }
MOE_INLINE floats from_bf16(bf16 const* p) {
  halves h;
  std::memcpy(&h, p, sizeof h);
  return widened(h);
}
MOE_INLINE floats from_bf16(bf16 const* p, index_t n) {
  if (n >= float_lanes) return from_bf16(p);
  halves h{};
#if defined(MOE_MASKED_HALVES)
  auto const mask = static_cast<unsigned short>(first_lanes(n));
  h = __builtin_bit_cast(halves, __builtin_ia32_loaddquhi256_mask(reinterpret_cast<masked_memory const*>(p), masked_halves{}, mask));
#else
  if (n > 0) std::memcpy(&h, p, static_cast<std::size_t>(n) * sizeof *p);
#endif
  return widened(h);
}

/// The bits of the nearest bf16, in the upper half of each word, as in bf16(float). Where VCVTNEPS2BF16 is faster it must not see a denormal number,
/// which it would take for 0.
MOE_INLINE words nearest_bf16(floats f) {
  words const u = __builtin_bit_cast(words, f), nearest = u + (((u >> 16) & 1u) + 0x7fffu);
  return f != f ? u | 0x400000u : nearest;
}
MOE_INLINE halves narrowed(floats f) {
#if defined(MOE_AVX512_BF16) && !defined(__CUDACC__)
  if (__builtin_ia32_fpclassps512_mask(f, 0x20, 0xffff) == 0) [[likely]] {  // 0x20: denormal numbers
#if defined(__clang__)
    return __builtin_bit_cast(halves, __builtin_ia32_cvtneps2bf16_512_mask(f, masked_halves{}, 0xffff));
#else
    return __builtin_bit_cast(halves, __builtin_ia32_cvtneps2bf16_v16sf(f));
#endif
  }
#endif
  return __builtin_convertvector(nearest_bf16(f) >> 16, halves);
}
/// Lane i of a beside lane i of b, for each i.
MOE_INLINE words narrowed_pairs(floats a, floats b) { return nearest_bf16(a) >> 16 | (nearest_bf16(b) & 0xffff0000u); }
MOE_INLINE void to_bf16(floats f, bf16* p) {
  halves const h = narrowed(f);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}
MOE_INLINE void to_bf16(floats f, bf16* p, index_t n) {
  if (n >= float_lanes) return to_bf16(f, p);
  halves const h = narrowed(f);
#if defined(MOE_MASKED_HALVES)
  auto const mask = static_cast<unsigned short>(first_lanes(n));
  __builtin_ia32_storedquhi256_mask(reinterpret_cast<masked_memory*>(p), __builtin_bit_cast(masked_halves, h), mask);
#else
  if (n > 0) std::memcpy(static_cast<void*>(p), &h, static_cast<std::size_t>(n) * sizeof *p);
#endif
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
