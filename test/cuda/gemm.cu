// The kernels of moe/gemm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/gemm/grouped_gemm.cuh>

namespace {
using namespace moe;

constexpr matrix_unit unit = matrix_unit::fma;  // tensor cores: gemm_mma.cu

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn, dyn, dyn> w, tensor<index_t, dyn> offsets, arena& scratch) {
  gemm<gemm_config{.transpose_b = true, .unit = unit}>(space, x, x, x, scratch);
  gemm<gemm_config{.transpose_a = true, .accumulate = true, .unit = unit}>(space, x, x, x, scratch);
  gemm<gemm_config{.unit = unit}>(space, x, x, x, scratch);
  grouped_gemm<grouped_gemm_config{.unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .unit = unit}>(space, x, offsets, w, x, scratch);
  grouped_gemm_weight_gradient<weight_gradient_config{.accumulate = true, .unit = unit}>(space, x, x, offsets, w, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, scratch);
  tensor<float, dyn, dyn> const f;
  tensor<bf16, dyn, dyn> const b;
  gemm<gemm_config{.transpose_b = true, .unit = unit}>(cuda{}, b, b, f, scratch);  // logits, and their two gradients
  gemm(cuda{}, f, b, b, scratch);
  gemm<gemm_config{.transpose_a = true, .accumulate = true}>(cuda{}, f, b, f, scratch);
  gemm<gemm_config{}, gemm_tuning{.fma = {.rows = 8, .columns = 8}}>(cuda{}, f, f, f, scratch);
}
