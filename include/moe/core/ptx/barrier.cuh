#pragma once
#include <moe/core/ptx/common.cuh>

// Barriers beyond __syncthreads, and fences. All of sm_90a but the named barriers.
namespace moe::inline MOE_ISA::ptx {

// mbarrier: 8 bytes of shared memory. A phase ends when `arrivals` threads have arrived and all bytes that were announced have come; then the next
// begins. Phases count from 0; a wait names the parity of the phase it waits for. So consumers start with parity 0, and whoever waits for "free
// again" before anything was used starts with parity 1, which is over from the beginning.

/// By one thread; then fence_mbarrier_init() and a barrier of all threads that will use it.
__device__ inline void mbarrier_init(std::uint64_t* barrier, unsigned arrivals) {
  MOE_PTX_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_pointer(barrier)), "r"(arrivals) : "memory");
}
/// Shows new barriers to the engines that copy.
__device__ inline void fence_mbarrier_init() { MOE_PTX_SM90A("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void mbarrier_arrive(std::uint64_t* barrier) {
  MOE_PTX_SM90A("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_pointer(barrier)) : "memory");
}
/// Arrives, and announces `bytes` more for this phase.
__device__ inline void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes) {
  MOE_PTX_SM90A("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_pointer(barrier)), "r"(bytes) : "memory");
}
/// Whether the phase of that parity is over. It may give up while the phase lasts: loop, or call mbarrier_wait.
__device__ inline bool mbarrier_try_wait(std::uint64_t* barrier, unsigned parity) {
  unsigned over = 0;
  MOE_PTX_SM90A("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                : "=r"(over)
                : "r"(shared_pointer(barrier)), "r"(parity)
                : "memory");
  return over != 0;
}
__device__ inline void mbarrier_wait(std::uint64_t* barrier, unsigned parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}
/// Arrives once all cp.async of this thread so far are complete. It counts as one of the barrier's arrivals.
__device__ inline void cp_async_arrive(std::uint64_t* barrier) {
  MOE_PTX_SM90A("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_pointer(barrier)) : "memory");
}

// Named barriers 1 to 15, for whole warps; 0 is __syncthreads. Constants: for a number in a register ptxas would reserve all sixteen.

/// Waits until Threads threads have come.
template <int Id, int Threads>
__device__ void bar_sync() {
  static_assert(Id >= 1 && Id <= 15 && Threads > 0 && Threads % 32 == 0, "moe::ptx: named barriers are 1 to 15, for whole warps");
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
}
/// Counts as come, and goes on.
template <int Id, int Threads>
__device__ void bar_arrive() {
  static_assert(Id >= 1 && Id <= 15 && Threads > 0 && Threads % 32 == 0, "moe::ptx: named barriers are 1 to 15, for whole warps");
  asm volatile("bar.arrive %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
}

/// Between this thread's ordinary accesses to shared memory (also stmatrix and cp.async) and those of TMA and wgmma to the same bytes.
__device__ inline void fence_proxy_async() { MOE_PTX_SM90A("fence.proxy.async.shared::cta;" ::: "memory"); }

/// The registers of each thread from here on, a multiple of 8 in [24, 256]; all warps of a warpgroup call it. Ignored unless the kernel has
/// __launch_bounds__(threads, 1). With three warpgroups: 24/240/240, 40/232/232, 56/224/224, 72/216/216.
template <int Registers>
__device__ void setmaxnreg_inc() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "moe::ptx: setmaxnreg takes multiples of 8 in [24, 256]");
  MOE_PTX_SM90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ void setmaxnreg_dec() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "moe::ptx: setmaxnreg takes multiples of 8 in [24, 256]");
  MOE_PTX_SM90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

}  // namespace moe::inline MOE_ISA::ptx
