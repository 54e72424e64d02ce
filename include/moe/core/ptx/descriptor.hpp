#pragma once
#include <cstdint>

#include <moe/core/macros.hpp>

// What wgmma is told of a tile in shared memory. Plain code, which test/simt does not replace.
//
// A tile has rows of 128 bytes (64 bf16) whose 16-byte chunks are permuted as TMA does for CU_TENSOR_MAP_SWIZZLE_128B: byte a of the tile, which
// starts at a multiple of 1024, stands at a ^ (a >> 7 & 7) << 4. Rows of A and columns of B are `mn` here.
//   major::k   row mn of the tile holds 64 elements of k; element (mn, k) is byte mn * 128 + 2 * k
//   major::mn  row k of a slab holds 64 elements of mn; element (mn, k) is byte mn / 64 * slab + k * 128 + mn % 64 * 2
namespace moe::inline MOE_ISA::ptx {

enum class major { k, mn };

/// Of the tile at `address`, which shared_address() gives; for major::mn, `slab` is the distance in bytes between 64 elements of mn and the next 64,
/// a multiple of 16.
template <major M>
MOE_HD constexpr std::uint64_t wgmma_descriptor(std::uint32_t address, std::uint32_t slab = 0) {
  std::uint64_t const eight_rows = 1024, leading = M == major::mn ? slab : 16, swizzle_128 = 1;
  return std::uint64_t{(address & 0x3ffff) >> 4} | (leading & 0x3ffff) >> 4 << 16 | eight_rows >> 4 << 32 | swizzle_128 << 62;
}
/// What to add to a descriptor for the next 16 of k.
template <major M>
inline constexpr std::uint64_t wgmma_step = M == major::k ? 2 : 128;

}  // namespace moe::inline MOE_ISA::ptx
