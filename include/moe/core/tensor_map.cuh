#pragma once
#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstdint>

#include <moe/core/space.cuh>
#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA {

/// How the chunks of 16 bytes of a box lie in shared memory: in order, or permuted within 128 bytes, as wgmma reads them (core/ptx/descriptor.hpp).
enum class box_layout { plain, swizzle_128 };

/// A tensor of Rank dimensions and the box of it that one TMA copy moves. The innermost dimension comes first, as in a copy's coordinates.
template <int Rank>
struct box_of_tensor {
  index_t size[Rank];        ///< elements, each in [1, 2^32]
  index_t stride[Rank - 1];  ///< elements from one index of dimension 1, 2, ... to the next; in bytes a multiple of 16 below 2^40
  int box[Rank];             ///< elements, each in [1, 256]; those of dimension 0 a multiple of 16 bytes, at most 128 bytes for swizzle_128
  box_layout layout = box_layout::swizzle_128;
};

namespace detail {

template <class T>
constexpr CUtensorMapDataType tensor_map_type() {
  static_assert(storage<T>, "moe::encode_tensor_map: elements are float, double or bf16");
  if constexpr (std::same_as<T, bf16>) return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  else if constexpr (std::same_as<T, float>) return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  else return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
}

/// The driver's encoder, looked up at run time, so that programs need no -lcuda.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder(char const* op) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found), op);
  expects(found == cudaDriverEntryPointSuccess && function != nullptr, errc::unsupported_machine, op,
          ": the CUDA driver cannot encode tensor maps; it must be one for CUDA 12.0 or later");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace detail

/// Whether TMA can address the tensor: its base and its rows start at multiples of 16 bytes, and it is neither empty nor too large. Kernels take
/// another way for those it cannot.
template <class T, int Rank>
bool fits_tensor_map(T const* data, box_of_tensor<Rank> const& t) {
  index_t const bytes = sizeof(T), most = index_t{1} << 32;
  bool fits = data != nullptr && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  for (index_t const n : t.size) fits = fits && n >= 1 && n <= most;
  for (index_t const s : t.stride) fits = fits && s >= 0 && s < (index_t{1} << 40) / bytes && s * bytes % 16 == 0;
  return fits;
}

/// The tensor map of `data` for ptx::tma_load and ptx::tma_store. It holds the address, so it lives no longer than
/// the data. A kernel takes it as a parameter `CUtensorMap const __grid_constant__`.
///
/// Throws  bad_argument naming operator, argument and requirement if the tensor does not fit (fits_tensor_map) or the box is not one that TMA can
///         move; unsupported_machine where the driver has no encoder (it came with CUDA 12.0), no_device where there is no driver.
template <class T, int Rank>
CUtensorMap encode_tensor_map(char const* op, char const* argument, T const* data, box_of_tensor<Rank> const& t) {
  static_assert(Rank >= 2 && Rank <= 5, "moe::encode_tensor_map: 2 to 5 dimensions");
  constexpr int bytes = sizeof(T);
  auto const address = reinterpret_cast<std::uintptr_t>(data);
  expects(address != 0 && address % 16 == 0, errc::bad_argument, op, ": ", argument, " starts at ", address, ", TMA needs a multiple of 16 bytes");
  cuuint64_t size[Rank], stride[Rank];
  cuuint32_t box[Rank], element_stride[Rank];
  for (int d = 0; d < Rank; ++d) {
    expects(t.size[d] >= 1 && t.size[d] <= index_t{1} << 32, errc::bad_argument, op, ": ", argument, " has ", t.size[d], " elements in dimension ", d,
            ", TMA needs 1 to 2^32");
    expects(t.box[d] >= 1 && t.box[d] <= 256, errc::bad_argument, op, ": a box of ", argument, " has ", t.box[d], " elements in dimension ", d,
            ", TMA needs 1 to 256");
    size[d] = static_cast<cuuint64_t>(t.size[d]), box[d] = static_cast<cuuint32_t>(t.box[d]), element_stride[d] = 1;
    if (d == 0) continue;
    index_t const s = t.stride[d - 1];
    expects(s >= 0 && s < (index_t{1} << 40) / bytes && s * bytes % 16 == 0, errc::bad_argument, op, ": ", argument, " has a stride of ", s,
            " elements in dimension ", d, ", TMA needs a multiple of 16 bytes below 2^40");
    stride[d - 1] = static_cast<cuuint64_t>(s * bytes);
  }
  int const inner = t.box[0] * bytes;
  expects(inner % 16 == 0 && (t.layout == box_layout::plain || inner <= 128), errc::bad_argument, op, ": a box of ", argument, " has rows of ", inner,
          " bytes, TMA needs a multiple of 16", t.layout == box_layout::plain ? "" : ", at most 128 where it swizzles");
  auto const encode = detail::tensor_map_encoder(op);
  CUtensorMap map;
  CUresult const result =
      encode(&map, detail::tensor_map_type<T>(), Rank, const_cast<T*>(data), size, stride, box, element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE,
             t.layout == box_layout::plain ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  expects(result == CUDA_SUCCESS, errc::cuda, op, ": the CUDA driver refuses the tensor map of ", argument, ", error ", static_cast<int>(result));
  return map;
}

}  // namespace moe::inline MOE_ISA
