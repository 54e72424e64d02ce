// The kernels of moe/gemm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/gemm/grouped_gemm.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn, dyn, dyn> w, tensor<index_t, dyn> offsets, arena& scratch) {
  grouped_gemm(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .accumulate = true}>(space, x, offsets, w, x, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, scratch);
}
