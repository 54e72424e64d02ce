// cuTensorMapEncodeTiled: refuses what the driver's manual says it refuses, and what the stand-in does not know.
#include "test/simt/tensor_map.hpp"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "test/simt/device.hpp"

namespace simt {
namespace {

unsigned bytes_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
  }
  return 0;
}

CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, cuuint64_t const* size, cuuint64_t const* stride,
                cuuint32_t const* box, cuuint32_t const* element_stride, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) return CUDA_ERROR_NOT_SUPPORTED;
  unsigned const bytes = bytes_of(type);
  auto const base = reinterpret_cast<std::uintptr_t>(address);
  if (map == nullptr || reinterpret_cast<std::uintptr_t>(map) % 64 != 0 || bytes == 0 || rank < 1 || rank > 5 || base == 0 || base % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  tensor_map m;
  m.mark = tensor_map::magic, m.rank = static_cast<std::int32_t>(rank), m.base = static_cast<std::byte*>(address);
  m.element_bytes = static_cast<std::uint8_t>(bytes), m.swizzle_bits = static_cast<std::uint8_t>(swizzle);
  for (cuuint32_t d = 0; d < rank; ++d) {
    if (size[d] == 0 || size[d] > std::uint64_t{1} << 32 || box[d] == 0 || box[d] > 256) return CUDA_ERROR_INVALID_VALUE;
    if (d > 0 && (stride[d - 1] % 16 != 0 || stride[d - 1] >= std::uint64_t{1} << 40)) return CUDA_ERROR_INVALID_VALUE;
    if (d > 0 && element_stride[d] != 1) return element_stride[d] == 0 || element_stride[d] > 8 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
    m.size[d] = static_cast<std::int64_t>(size[d]), m.box[d] = static_cast<std::uint16_t>(box[d]);
    m.stride[d] = d == 0 ? bytes : static_cast<std::int64_t>(stride[d - 1]);
  }
  unsigned const inner = box[0] * bytes;
  if (inner % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && inner > 16u << m.swizzle_bits) return CUDA_ERROR_INVALID_VALUE;
  std::memset(map, 0, sizeof *map);
  std::memcpy(map->opaque, &m, sizeof m);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace simt

cudaError_t cudaGetDriverEntryPointByVersion(char const* symbol, void** function, unsigned version, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  simt::device_state const& d = simt::device();
  if (d.present != cudaSuccess) return d.present;
  bool const found = d.encodes_tensor_maps && std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0 && version >= 12000;
  if (found) *function = reinterpret_cast<void*>(&simt::encode);
  if (result != nullptr) *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
