#pragma once
#include <cstdint>

#include <moe/core/simd.hpp>

// Stores past the caches (non-temporal): a cache line that is written whole need not be read first, which saves a third of a copy's traffic. Only for
// outputs that are larger than the caches and that nobody reads at once.
namespace moe::inline MOE_ISA::detail {

/// Outputs of fewer bytes stay in a cache until they are read: there a store past it would cost, not save.
inline constexpr index_t streaming_bytes = index_t{8} << 20;

/// Whether that many bytes from p on are better written past the caches: all vectors of whole cache lines.
inline bool streams(void const* p, index_t bytes) {
#if defined(__x86_64__) && !defined(__CUDACC__)
  return bytes >= streaming_bytes && reinterpret_cast<std::uintptr_t>(p) % 64 == 0;
#else
  return static_cast<void>(p), static_cast<void>(bytes), false;
#endif
}

/// Writes a machine vector of 16, 32 or 64 bytes to memory that is aligned to as many. Another thread sees it after fence_streams of this one.
template <class V>
MOE_INLINE void stream(V const& v, void* p) {
#if !defined(__x86_64__) || defined(__CUDACC__)
  std::memcpy(p, &v, sizeof v);
#elif defined(__clang__)
  __builtin_nontemporal_store(v, static_cast<V*>(p));
#else
  typedef long long two __attribute__((vector_size(16)));
  if constexpr (sizeof(V) == 16) __builtin_ia32_movntdq(static_cast<two*>(p), __builtin_bit_cast(two, v));
#if defined(__AVX__)
  typedef long long four __attribute__((vector_size(32)));
  if constexpr (sizeof(V) == 32) __builtin_ia32_movntdq256(static_cast<four*>(p), __builtin_bit_cast(four, v));
#endif
#if defined(MOE_AVX512)
  typedef long long eight __attribute__((vector_size(64)));
  if constexpr (sizeof(V) == 64) __builtin_ia32_movntdq512(static_cast<eight*>(p), __builtin_bit_cast(eight, v));
#endif
#endif
}
inline void fence_streams() {
#if defined(__x86_64__) && !defined(__CUDACC__)
  __builtin_ia32_sfence();
#endif
}

}  // namespace moe::inline MOE_ISA::detail
