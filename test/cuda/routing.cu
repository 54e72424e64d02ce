// The kernels of moe/routing, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/routing/topk.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<int, dyn, 2> expert, tensor<T, dyn, 2> weight) {
  topk(space, x, weight, expert);
  topk<topk_config{.k = 8, .renormalise = false}>(space, x, tensor<T, dyn, 8>(), tensor<int, dyn, 8>());
}
}  // namespace

void instantiate() {
  all<float>({}, {}, {}, {});
  all<double>({}, {}, {}, {});
  all<bf16>({}, {}, {}, {});
}
