#pragma once
// Where the bodies of the tests run. The same files are compiled three times: for the CPU; against the stand-in for the CUDA runtime (test/simt), with
// -DMOE_TEST_CUDA and the operator's .cuh included first; and by nvcc for a GPU. They say test::space for the space, test::on() for one to run on, and
// test::for_each_execution for all ways of running that must give the same bits.
#include <cstddef>
#include <vector>

#include <moe/core/space.hpp>

#if defined(MOE_TEST_CUDA)
#include <moe/core/space.cuh>
#if !defined(__CUDACC__)
#include <test/simt/simt.hpp>
#endif
#endif

namespace test {

/// Numbers of threads over which results must not change.
inline constexpr int thread_counts[] = {1, 2, 3, 7};

#if defined(MOE_TEST_CUDA)
inline constexpr bool on_cuda = true;
using space = moe::cuda;
inline space on() { return {}; }
#else
inline constexpr bool on_cuda = false;
using space = moe::cpu;
inline space on() { return {.threads = 2}; }
#endif

/// Calls f(space, i) for each way of running, i = 0, 1, ...: numbers of threads on the CPU, schedules of the fibers in the stand-in, a few repetitions on
/// a GPU. All must give the same bits.
template <class F>
void for_each_execution(F&& f) {
#if !defined(MOE_TEST_CUDA)
  for (int i = 0; int const threads : thread_counts) f(moe::cpu{.threads = threads}, i++);
#elif !defined(__CUDACC__)
  for (int i = 0; simt::schedule const& s : simt::schedules) {
    simt::use(s);
    f(on(), i++);
  }
  simt::use(simt::schedules[0]);
#else
  for (int i = 0; i < 3; ++i) f(on(), i);
#endif
}

#if defined(MOE_TEST_CUDA) && defined(__CUDACC__)
/// Memory of the host that the device reads and writes too, so that a test looks at its arrays as on the CPU. test/main.cpp makes every launch wait for
/// its kernel.
template <class T>
struct allocator {
  using value_type = T;
  allocator() = default;
  template <class U>
  allocator(allocator<U> const&) {}
  T* allocate(std::size_t n) {
    void* p = nullptr;
    moe::cuda_check(cudaHostAlloc(&p, n * sizeof(T), cudaHostAllocMapped), "test::allocator");
    return static_cast<T*>(p);
  }
  void deallocate(T* p, std::size_t) { cudaFreeHost(p); }
  friend bool operator==(allocator const&, allocator const&) { return true; }
};
template <class T>
using memory = std::vector<T, allocator<T>>;
#else
template <class T>
using memory = std::vector<T>;
#endif

}  // namespace test
