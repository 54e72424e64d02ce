// The kernels of routing by score and selection bias, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/routing/biased_topk_router.cuh>
#include <moe/routing/selection_bias.cuh>
#include <moe/routing/switch_router.cuh>

namespace {
using namespace moe;

template <biased_topk_config C, class T>
void both(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn> bias) {
  biased_topk<C>(space, x, bias, tensor<T, dyn, C.k>(), tensor<int, dyn, C.k>());
  biased_topk_backward<C>(space, x, tensor<T, dyn, C.k>(), tensor<int, dyn, C.k>(), tensor<T, dyn, C.k>(), x);
}

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn> bias, vector_view<index_t> load) {
  both<biased_topk_config{.k = 8, .scale = 2.5, .groups = 8, .kept_groups = 4}>(space, x, bias);
  both<biased_topk_config{.k = 2, .score = score_function::softmax, .renormalise = false}>(space, x, bias);
  update_selection_bias(space, load, 0.001, bias);
  static_assert(router<switch_router<>, cuda, T> && router<biased_topk_router<>, cuda, T>);
}
}  // namespace

void instantiate() {
  all<float>({}, {}, {}, {});
  all<double>({}, {}, {}, {});
  all<bf16>({}, {}, {}, {});
}
