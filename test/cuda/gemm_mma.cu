// The dense tensor-core kernels of moe/gemm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/gemm/gemm.cuh>

namespace {
using namespace moe;
constexpr matrix_unit unit = matrix_unit::mma;
}  // namespace

void instantiate(cuda const& space, tensor<bf16, dyn, dyn> x, tensor<float, dyn, dyn> y, arena& scratch) {
  gemm<gemm_config{.transpose_b = true, .unit = unit}>(space, x, x, x, scratch);
  gemm<gemm_config{.transpose_b = true, .unit = unit}>(space, x, x, y, scratch);
  gemm<gemm_config{.transpose_a = true, .accumulate = true, .unit = unit}>(space, x, x, x, scratch);
  gemm<gemm_config{.transpose_a = true, .transpose_b = true, .unit = unit}>(space, x, x, x, scratch);
  gemm<gemm_config{.accumulate = true, .unit = unit}>(space, x, x, x, scratch);
}
