#pragma once
// Replaces include/moe/core/ptx/tma.cuh where test/simt compiles kernels.
#include <cuda.h>

#include <moe/core/ptx/common.cuh>

namespace moe::inline MOE_ISA::ptx {

inline void prefetch_tensor_map(CUtensorMap const&) {}

inline void tma_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y, char const* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  simt::tensor_load(to, map, barrier, {2, {x, y}}, {file, line});
}
inline void tma_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y, int z, char const* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  simt::tensor_load(to, map, barrier, {3, {x, y, z}}, {file, line});
}
inline void tma_store(CUtensorMap const& map, void const* from, int x, int y, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::tensor_store(map, from, {2, {x, y}}, {file, line});
}
inline void tma_store(CUtensorMap const& map, void const* from, int x, int y, int z, char const* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  simt::tensor_store(map, from, {3, {x, y, z}}, {file, line});
}
inline void bulk_commit() { simt::store_commit(); }
template <int Pending>
void bulk_wait_read(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::store_wait(Pending, true, {file, line});
}
template <int Pending>
void bulk_wait(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::store_wait(Pending, false, {file, line});
}

}  // namespace moe::inline MOE_ISA::ptx
