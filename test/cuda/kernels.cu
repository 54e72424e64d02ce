// Every CUDA kernel of the library, instantiated, for the build check: it must compile without a warning and without a spill.
#include <moe/core/buffer.cuh>
#include <moe/gemm/grouped_gemm.cuh>
#include <moe/routing/topk.cuh>

namespace {

using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn, dyn, dyn> w, tensor<index_t, dyn> offsets, tensor<int, dyn, 2> expert,
         tensor<T, dyn, 2> weight, arena& scratch) {
  grouped_gemm(space, x, offsets, w, x, scratch);
  grouped_gemm<grouped_gemm_config{.transpose_w = false, .accumulate = true}>(space, x, offsets, w, x, scratch);
  topk(space, x, weight, expert);
  topk<topk_config{.k = 8, .renormalise = false}>(space, x, tensor<T, dyn, 8>(), tensor<int, dyn, 8>());
}

static_assert(execution_space<cpu> && execution_space<cuda>);

}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, {}, {}, scratch);
}
