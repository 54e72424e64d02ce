#pragma once
// Replaces include/moe/core/ptx/barrier.cuh where test/simt compiles kernels. Fences order nothing here, and registers are not counted.
#include <moe/core/ptx/common.cuh>

namespace moe::inline MOE_ISA::ptx {

inline void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::mbarrier_init(barrier, arrivals, {file, line});
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive(std::uint64_t* barrier, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::mbarrier_arrive(barrier, 0, {file, line});
}
inline void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::mbarrier_arrive(barrier, bytes, {file, line});
}
inline bool mbarrier_try_wait(std::uint64_t* barrier, unsigned parity, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::mbarrier_try_wait(barrier, parity, {file, line});
}
inline void mbarrier_wait(std::uint64_t* barrier, unsigned parity, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  while (!mbarrier_try_wait(barrier, parity, file, line)) {
  }
}
inline void cp_async_arrive(std::uint64_t* barrier, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::copy_arrive(barrier, {file, line});
}

template <int Id, int Threads>
void bar_sync(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(Id >= 1 && Id <= 15 && Threads > 0 && Threads % 32 == 0, "moe::ptx: named barriers are 1 to 15, for whole warps");
  simt::named_barrier(Id, Threads, true, {file, line});
}
template <int Id, int Threads>
void bar_arrive(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(Id >= 1 && Id <= 15 && Threads > 0 && Threads % 32 == 0, "moe::ptx: named barriers are 1 to 15, for whole warps");
  simt::named_barrier(Id, Threads, false, {file, line});
}

inline void fence_proxy_async() {}

template <int Registers>
void setmaxnreg_inc() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "moe::ptx: setmaxnreg takes multiples of 8 in [24, 256]");
}
template <int Registers>
void setmaxnreg_dec() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "moe::ptx: setmaxnreg takes multiples of 8 in [24, 256]");
}

}  // namespace moe::inline MOE_ISA::ptx
