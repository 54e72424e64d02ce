#pragma once
// What acts behind the backs of the threads: copies, stores and products that are issued now and complete later, and the barriers that tell of it.
#include <cuda.h>

#include "test/simt/simt.hpp"

namespace simt {

// cp.async: groups of the thread
void copy_async(void* to, void const* from, int bytes, place where);
void copy_commit();
void copy_wait(int pending);
/// Arrives at `barrier` when all copies that this thread has issued are complete.
void copy_arrive(std::uint64_t* barrier, place where);

// mbarrier: its state is the 64 bits in shared memory
void mbarrier_init(std::uint64_t* barrier, std::uint32_t count, place where);
void mbarrier_arrive(std::uint64_t* barrier, std::uint32_t expected_bytes, place where);
bool mbarrier_try_wait(std::uint64_t* barrier, std::uint32_t parity, place where);

// TMA: boxes of a tensor, innermost coordinate first
struct box_corner {
  int rank;
  int at[5];
};
void tensor_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, box_corner corner, place where);
void tensor_store(CUtensorMap const& map, void const* from, box_corner corner, place where);
void store_commit();
void store_wait(int pending, bool only_read, place where);

// Named barriers, 1 to 15
void named_barrier(int id, int threads, bool waits, place where);

// wgmma: d [64, columns] = a b (+ d), bf16 operands in shared memory
struct product {
  int columns;
  std::uint64_t a, b;
  bool accumulate, a_down, b_down;  ///< down: the operand's rows run along k
};
void product_async(product const& p, float* d, place where);
void product_commit();
void product_wait(int pending, place where);

/// The address of element (row, k) of an operand.
std::uint32_t descriptor_address(std::uint64_t descriptor, std::uint32_t row, std::uint32_t k, bool down);

/// What a descriptor says of an address: its offset in the block's shared memory, plus a base that is not 0.
inline constexpr std::uint32_t shared_base = 1024;
std::uint32_t shared_address(void const* p, place where);

}  // namespace simt
