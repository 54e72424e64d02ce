#pragma once
#include <cuda_runtime.h>

#include <moe/core/macros.hpp>
#include <moe/core/ptx/barrier.cuh>
#include <moe/core/ptx/matrix.cuh>
#include <moe/core/ptx/tma.cuh>
#include <moe/core/ptx/wgmma.cuh>

// All inline PTX, and all access to shared memory, as small functions, here and in core/ptx/. test/simt replaces these files by versions for the CPU,
// so kernels include <moe/core/ptx.cuh>, with angle brackets, and use no asm and no __shared__ of their own.
namespace moe::inline MOE_ISA::ptx {

/// 16 bytes, moved as one.
template <class T>
struct alignas(16) vector16 {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T v[size];
};

/// Moves 16 bytes at once; the address is a multiple of 16, and the stand-in reports one that is not.
template <class T>
__device__ vector16<T> load_16(T const* p) {
  return *reinterpret_cast<vector16<T> const*>(p);
}
template <class T>
__device__ void store_16(T* p, vector16<T> const& v) {
  *reinterpret_cast<vector16<T>*>(p) = v;
}

/// A matrix inside a layout of shared memory. test/simt checks the indices.
template <class T, int Rows, int Columns>
struct shared_matrix {
  T element[Rows][Columns];
  __device__ T& operator()(int row, int column) { return element[row][column]; }
};

/// The dynamic shared memory of the block as a Layout; the launch gives sizeof(Layout) bytes. Alignment up to 1024.
template <class Layout>
__device__ Layout& dynamic_shared() {
  static_assert(alignof(Layout) <= 1024, "moe::ptx: shared memory is aligned to 1024 bytes");
  extern __shared__ __align__(1024) unsigned char moe_dynamic_shared[];
  return *reinterpret_cast<Layout*>(moe_dynamic_shared);
}

/// Starts the copy of `bytes` <= 16 bytes to 16 bytes of shared memory, zeros behind them. Both addresses are multiples of 16, also where bytes is 0.
__device__ inline void cp_async_16(void* to, void const* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_pointer(to)), "l"(from), "r"(bytes) : "memory");
}
/// Closes a group of this thread's copies; it may be empty.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most Pending of this thread's last groups are still under way. Other threads see the data after a barrier.
template <int Pending>
__device__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace moe::inline MOE_ISA::ptx
