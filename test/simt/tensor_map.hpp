#pragma once
// What the stand-in's CUtensorMap holds.
#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simt {

struct tensor_map {
  static constexpr std::uint32_t magic = 0x6d6f6554;
  std::uint32_t mark = 0;
  std::int32_t rank = 0;
  std::byte* base = nullptr;
  std::int64_t size[5] = {};    // elements
  std::int64_t stride[5] = {};  // bytes; that of dimension 0 is the size of an element
  std::uint16_t box[5] = {};
  std::uint8_t element_bytes = 0, swizzle_bits = 0;  // 3: chunks of 16 bytes change places within 128 bytes

  bool valid() const { return mark == magic; }
  std::size_t box_bytes() const {
    std::size_t n = element_bytes;
    for (int d = 0; d < rank; ++d) n *= box[d];
    return n;
  }
  std::uint32_t swizzled(std::uint32_t address) const { return address ^ (address >> 7 & ((1u << swizzle_bits) - 1)) << 4; }

  static tensor_map of(CUtensorMap const& map) {
    tensor_map m;
    std::memcpy(&m, map.opaque, sizeof m);
    return m;
  }
};
static_assert(sizeof(tensor_map) <= sizeof(CUtensorMap));

}  // namespace simt
