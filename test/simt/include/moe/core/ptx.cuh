#pragma once
// Replaces include/moe/core/ptx.cuh where test/simt compiles kernels: the same names with the same parameters, checked.
#include <cuda_runtime.h>

#include <moe/core/macros.hpp>
#include <moe/core/ptx/barrier.cuh>
#include <moe/core/ptx/matrix.cuh>
#include <moe/core/ptx/tma.cuh>
#include <moe/core/ptx/wgmma.cuh>

namespace moe::inline MOE_ISA::ptx {

template <class T>
struct alignas(16) vector16 {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T v[size];
};

inline void check_aligned(void const* p, char const* file, int line) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) simt::fail_at({file, line}, "16 bytes at once at an address that is no multiple of 16");
}
template <class T>
vector16<T> load_16(T const* p, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  check_aligned(p, file, line);
  return *reinterpret_cast<vector16<T> const*>(p);
}
template <class T>
void store_16(T* p, vector16<T> const& v, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  check_aligned(p, file, line);
  *reinterpret_cast<vector16<T>*>(p) = v;
}

template <class T, int Rows, int Columns>
struct shared_matrix {
  T element[Rows][Columns];
  T& operator()(int row, int column, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (row < 0 || row >= Rows || column < 0 || column >= Columns)
      simt::fail_at({file, line}, "shared_matrix: element (" + std::to_string(row) + ", " + std::to_string(column) + ") of " + std::to_string(Rows) +
                                      " x " + std::to_string(Columns));
    return element[row][column];
  }
};

template <class Layout>
Layout& dynamic_shared(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(alignof(Layout) <= 1024, "moe::ptx: shared memory is aligned to 1024 bytes");
  return *reinterpret_cast<Layout*>(simt::shared_area(sizeof(Layout), alignof(Layout), {file, line}));
}

inline void cp_async_16(void* to, void const* from, int bytes, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::copy_async(to, from, bytes, {file, line});
}
inline void cp_async_commit() { simt::copy_commit(); }
template <int Pending>
void cp_async_wait() {
  simt::copy_wait(Pending);
}

}  // namespace moe::inline MOE_ISA::ptx
