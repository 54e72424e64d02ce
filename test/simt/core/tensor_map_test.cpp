#include <moe/core/tensor_map.cuh>

#include "test/simt/device.hpp"
#include "test/simt/support.hpp"

namespace {

using moe::bf16;
using moe::box_layout;
using moe::box_of_tensor;

template <class T, int Rank>
std::string refusal(T const* p, box_of_tensor<Rank> const& t) {
  return test::error_of([&] { moe::encode_tensor_map("op", "x", p, t); });
}

}  // namespace

TEST_CASE("encode_tensor_map: refuses what TMA cannot move, naming operator, argument and requirement") {
  alignas(16) static bf16 x[1024];
  box_of_tensor<2> const good{{64, 8}, {64}, {64, 8}};
  auto const with = [&](auto&& change) {
    box_of_tensor<2> t = good;
    change(t);
    return refusal(static_cast<bf16 const*>(x), t);
  };
  CHECK(with([](auto&) {}).empty());
  CHECK(moe::fits_tensor_map(static_cast<bf16 const*>(x), good));
  std::string const odd = refusal(static_cast<bf16 const*>(x + 1), good);
  CHECK(odd == "op: x starts at " + std::to_string(reinterpret_cast<std::uintptr_t>(x + 1)) + ", TMA needs a multiple of 16 bytes");
  CHECK_FALSE(moe::fits_tensor_map(static_cast<bf16 const*>(x + 1), good));
  CHECK(refusal(static_cast<bf16 const*>(nullptr), good) == "op: x starts at 0, TMA needs a multiple of 16 bytes");
  CHECK(with([](auto& t) { t.size[1] = 0; }) == "op: x has 0 elements in dimension 1, TMA needs 1 to 2^32");
  CHECK(with([](auto& t) { t.size[0] = (moe::index_t{1} << 32) + 1; }) == "op: x has 4294967297 elements in dimension 0, TMA needs 1 to 2^32");
  CHECK(with([](auto& t) { t.stride[0] = 65; }) == "op: x has a stride of 65 elements in dimension 1, TMA needs a multiple of 16 bytes below 2^40");
  CHECK(with([](auto& t) { t.stride[0] = moe::index_t{1} << 39; }) ==
        "op: x has a stride of 549755813888 elements in dimension 1, TMA needs a multiple of 16 bytes below 2^40");
  CHECK(with([](auto& t) { t.stride[0] = -8; }) == "op: x has a stride of -8 elements in dimension 1, TMA needs a multiple of 16 bytes below 2^40");
  CHECK(with([](auto& t) { t.box[1] = 257; }) == "op: a box of x has 257 elements in dimension 1, TMA needs 1 to 256");
  CHECK(with([](auto& t) { t.box[1] = 0; }) == "op: a box of x has 0 elements in dimension 1, TMA needs 1 to 256");
  CHECK(with([](auto& t) { t.box[0] = 12; }) == "op: a box of x has rows of 24 bytes, TMA needs a multiple of 16, at most 128 where it swizzles");
  CHECK(with([](auto& t) { t.box[0] = 72; }) == "op: a box of x has rows of 144 bytes, TMA needs a multiple of 16, at most 128 where it swizzles");
  CHECK(with([](auto& t) { t.box[0] = 72, t.layout = box_layout::plain; }).empty());
  for (auto const& t : {box_of_tensor<2>{{64, 0}, {64}, {64, 8}}, {{64, 8}, {60}, {64, 8}}, {{64, 8}, {-8}, {64, 8}}})
    CHECK_FALSE(moe::fits_tensor_map(static_cast<bf16 const*>(x), t));

  CHECK(refusal(static_cast<float const*>(nullptr), box_of_tensor<3>{{4, 4, 4}, {4, 16}, {4, 1, 1}}) != "");
  simt::device().encodes_tensor_maps = false;
  CHECK(refusal(static_cast<bf16 const*>(x), good) == "op: the CUDA driver cannot encode tensor maps; it must be one for CUDA 12.0 or later");
  simt::device() = {};
}

TEST_CASE("simt: the encoder refuses what the driver's manual says it refuses") {
  void* function = nullptr;
  REQUIRE(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault) == cudaSuccess);
  auto const encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  alignas(16) static float x[64];
  struct arguments {
    cuuint32_t rank = 2;
    float* base = x;
    cuuint64_t size[5] = {8, 8, 1, 1, 1}, stride[4] = {32, 256, 256, 256};
    cuuint32_t box[5] = {8, 2, 1, 1, 1}, step[5] = {1, 1, 1, 1, 1};
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  };
  auto const call = [&](auto&& change) {
    arguments a;
    change(a);
    CUtensorMap map;
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, a.rank, a.base, a.size, a.stride, a.box, a.step, CU_TENSOR_MAP_INTERLEAVE_NONE, a.swizzle,
                  CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CHECK(call([](auto&) {}) == CUDA_SUCCESS);
  CHECK(call([](auto& a) { a.rank = 5; }) == CUDA_SUCCESS);
  CHECK(call([](auto& a) { a.rank = 0; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.rank = 6; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.base = x + 1; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.size[1] = 0; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.stride[0] = 36; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.stride[0] = cuuint64_t{1} << 40; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.box[1] = 257; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.box[0] = 6; }) == CUDA_ERROR_INVALID_VALUE);  // 24 bytes
  CHECK(call([](auto& a) { a.box[0] = 36, a.swizzle = CU_TENSOR_MAP_SWIZZLE_128B; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.box[0] = 32, a.swizzle = CU_TENSOR_MAP_SWIZZLE_128B; }) == CUDA_SUCCESS);
  CHECK(call([](auto& a) { a.box[0] = 32, a.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.step[1] = 9; }) == CUDA_ERROR_INVALID_VALUE);
  CHECK(call([](auto& a) { a.step[1] = 2; }) == CUDA_ERROR_NOT_SUPPORTED);  // the driver takes it, the stand-in does not
}
