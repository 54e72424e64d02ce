// The warpgroup kernels of moe/gemm, instantiated for the build check: they must compile without a warning, a spill, or serialised products.
#include <moe/gemm/grouped_gemm.cuh>

namespace {
using namespace moe;
constexpr matrix_unit unit = matrix_unit::wgmma;
}  // namespace

void instantiate(cuda const& space, tensor<bf16, dyn, dyn> x, tensor<bf16, dyn, dyn, dyn> w, tensor<index_t, dyn> offsets, arena& scratch) {
  grouped_gemm<grouped_gemm_config{.unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.accumulate = true, .unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .accumulate = true, .unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.unit = unit}, gemm_tuning{.wgmma = {.columns = 128, .stages = 6}}>(space, x, offsets, w, x, scratch);
}
