#pragma once
#include <cuda.h>

#include <moe/core/ptx/common.cuh>

// TMA: one thread moves a box of a tensor. All of sm_90a. The map is a kernel parameter `CUtensorMap const __grid_constant__`, made by
// encode_tensor_map in core/tensor_map.cuh; coordinates count elements, the innermost dimension first, and may lie outside the tensor.
namespace moe::inline MOE_ISA::ptx {

/// Hides the first load's wait for the map.
__device__ inline void prefetch_tensor_map(CUtensorMap const& map) { MOE_PTX_SM90A("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

/// Starts the load of the box at (x, y) to shared memory at a multiple of 128 bytes, zeros for what is outside the tensor. `barrier` receives the
/// bytes of the whole box.
__device__ inline void tma_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y) {
  MOE_PTX_SM90A("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_pointer(to)),
                "l"(&map), "r"(shared_pointer(barrier)), "r"(x), "r"(y)
                : "memory");
}
__device__ inline void tma_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y, int z) {
  MOE_PTX_SM90A(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_pointer(to)),
      "l"(&map), "r"(shared_pointer(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// Starts the store of the box at (x, y), without what is outside the tensor. Before it: fence_proxy_async() by the threads that wrote the box, then
/// a barrier.
__device__ inline void tma_store(CUtensorMap const& map, void const* from, int x, int y) {
  MOE_PTX_SM90A("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(shared_pointer(from)), "r"(x), "r"(y)
                : "memory");
}
__device__ inline void tma_store(CUtensorMap const& map, void const* from, int x, int y, int z) {
  MOE_PTX_SM90A("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map), "r"(shared_pointer(from)), "r"(x),
                "r"(y), "r"(z)
                : "memory");
}
/// Closes a group of this thread's stores.
__device__ inline void bulk_commit() { MOE_PTX_SM90A("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until all but this thread's last Pending groups have read shared memory, which may then be used again. Needed before the thread leaves.
template <int Pending>
__device__ void bulk_wait_read() {
  MOE_PTX_SM90A("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
/// The same until they are complete.
template <int Pending>
__device__ void bulk_wait() {
  MOE_PTX_SM90A("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace moe::inline MOE_ISA::ptx
