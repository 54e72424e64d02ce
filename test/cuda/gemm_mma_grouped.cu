// The grouped tensor-core kernels of moe/gemm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/gemm/grouped_gemm.cuh>

namespace {
using namespace moe;
constexpr matrix_unit unit = matrix_unit::mma;
}  // namespace

void instantiate(cuda const& space, tensor<bf16, dyn, dyn> x, tensor<bf16, dyn, dyn, dyn> w, tensor<index_t, dyn> offsets, arena& scratch) {
  grouped_gemm<grouped_gemm_config{.unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm_weight_gradient<weight_gradient_config{.accumulate = true, .unit = unit}>(space, x, x, offsets, w, scratch);
  grouped_gemm_weight_gradient<weight_gradient_config{.unit = unit}>(space, x, x, offsets, tensor<float, dyn, dyn, dyn>(), scratch);
}
