#pragma once
// Replaces include/moe/core/ptx/wgmma.cuh where test/simt compiles kernels. The descriptor is the same code; the stand-in decodes what it says.
#include <moe/core/ptx/common.cuh>
#include <moe/core/ptx/descriptor.hpp>

namespace moe::inline MOE_ISA::ptx {

inline std::uint32_t shared_address(void const* p, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shared_address(p, {file, line});
}

inline void wgmma_fence() {}
inline void wgmma_commit() { simt::product_commit(); }
template <int Pending>
void wgmma_wait(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::product_wait(Pending, {file, line});
}
template <int Size>
void wgmma_pin(float (&)[Size]) {}

template <int N, major A = major::k, major B = major::k>
void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(N == 64 || N == 128 || N == 256, "moe::ptx: wgmma is here for 64, 128 and 256 columns");
  simt::product_async({N, a, b, accumulate, A == major::mn, B == major::mn}, d, {file, line});
}

}  // namespace moe::inline MOE_ISA::ptx
