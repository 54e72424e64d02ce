#pragma once
// Stands in for the CUDA runtime's header where test/simt compiles kernels with a C++ compiler: the built-ins and the few runtime calls that the
// library uses.
// There is no __shared__ on purpose: shared memory comes from moe::ptx::dynamic_shared, so that it can be poisoned and checked.
#include <concepts>
#include <cstring>
#include <tuple>
#include <utility>

#include "test/simt/simt.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

// A launch

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100
};
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };

cudaError_t cudaGetLastError();
char const* cudaGetErrorString(cudaError_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t);

namespace simt {
cudaError_t set_shared_limit(void const* kernel, cudaFuncAttribute attribute, int bytes);
cudaError_t check_launch(cudaLaunchConfig_t const& config, void const* kernel);
}  // namespace simt

template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute attribute, int value) {
  return simt::set_shared_limit(reinterpret_cast<void const*>(kernel), attribute, value);
}

/// Runs the whole grid before it returns. A failure of the kernel is thrown from here.
template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(Params...), Args&&... args) {
  cudaError_t const status = simt::check_launch(*config, reinterpret_cast<void const*>(kernel));
  if (status != cudaSuccess) return status;
  std::tuple<Params...> const values(std::forward<Args>(args)...);
  auto const size = [](dim3 d) { return simt::size3{d.x, d.y, d.z}; };
  simt::run_grid(size(config->gridDim), size(config->blockDim), config->dynamicSmemBytes, [&] { std::apply(kernel, values); });
  return cudaSuccess;
}

// Built-ins. The blocking ones end in the place they are called from, for the reports.

inline void __syncthreads(char const* file = __builtin_FILE(), int line = __builtin_LINE()) { simt::block_barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::warp_collective({"__syncwarp", mask, nullptr, nullptr}, {file, line});
}

namespace simt {
inline int lane() { return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32); }
template <class T>
T shuffle(char const* name, unsigned mask, T value, int source, place where) {
  static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>, "a shuffle moves a number of at most 8 bytes");
  struct part {
    T value, result;
    int source;
  } mine{value, value, source};
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    for (; m != 0; m &= m - 1) {
      auto* const p = static_cast<part*>(lanes[__builtin_ctz(m)]);
      p->result = static_cast<part const*>(lanes[p->source])->value;
    }
  };
  warp_collective({name, mask, &mine, finish, source}, where);
  return mine.result;
}
/// The mask of the lanes whose predicate holds.
inline std::uint32_t vote(char const* name, unsigned mask, bool predicate, place where) {
  struct part {
    bool predicate;
    std::uint32_t result;
  } mine{predicate, 0};
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    std::uint32_t votes = 0;
    for (std::uint32_t rest = m; rest != 0; rest &= rest - 1)
      if (int const l = __builtin_ctz(rest); static_cast<part const*>(lanes[l])->predicate) votes |= 1u << l;
    for (std::uint32_t rest = m; rest != 0; rest &= rest - 1) static_cast<part*>(lanes[__builtin_ctz(rest)])->result = votes;
  };
  warp_collective({name, mask, &mine, finish}, where);
  return mine.result;
}
/// The lane itself where the source leaves the segment of `width` lanes.
inline int source_in(int width, int source) { return source / width == lane() / width && source >= 0 ? source : lane(); }
}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_sync", mask, value, simt::lane() / width * width + source % width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_xor_sync", mask, value, simt::source_in(width, simt::lane() ^ lanes), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_up_sync", mask, value, simt::source_in(width, simt::lane() - lanes), {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_down_sync", mask, value, simt::source_in(width, simt::lane() + lanes), {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__all_sync", mask, predicate != 0, {file, line}) == mask;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

/// Integers only: sums of floating-point numbers by atomics have no fixed order.
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  static_assert(std::integral<T>, "moe has no floating-point atomics");
  return std::exchange(*p, static_cast<T>(*p + value));
}
