// The kernels of moe/routing that read logits, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/routing/balance.cuh>
#include <moe/routing/router.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<int, dyn, 2> expert, tensor<T, dyn, 2> weight, vector_view<index_t> counts,
         tensor<double, 3> losses, arena& scratch) {
  topk(space, x, weight, expert);
  topk<topk_config{.k = 8, .renormalise = false}>(space, x, tensor<T, dyn, 8>(), tensor<int, dyn, 8>());
  topk_backward(space, x, weight, expert, weight, x);
  topk_backward<topk_config{.k = 8, .renormalise = false}>(space, x, tensor<T, dyn, 8>(), tensor<int, dyn, 8>(), tensor<T, dyn, 8>(), x);
  balance_losses<T>(space, x, counts, 2, {}, losses, scratch);
  balance_losses_backward<T>(space, x, counts, 2, {}, 1, x, scratch);
  static_assert(router<softmax_topk_router<>, cuda, T>);
}
}  // namespace

void instantiate(tensor<double, 3> losses, arena& scratch) {
  all<float>({}, {}, {}, {}, {}, losses, scratch);
  all<double>({}, {}, {}, {}, {}, losses, scratch);
  all<bf16>({}, {}, {}, {}, {}, losses, scratch);
}
