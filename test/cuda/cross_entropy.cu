// cross_entropy, instantiated for the build check apart from the rest of moe/nn: its three products are most of the time.
#include <moe/nn/cross_entropy.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, dyn> g, tensor<int, dyn> target, tensor<double, 2> loss, arena& scratch) {
  cross_entropy<cross_entropy_config{.mean = true}>(space, x, x, target, 1.0f, loss, x, g, scratch);
  cross_entropy(space, x, x, target, 1.0f, loss, x, g, scratch);
  cross_entropy_loss(space, x, x, target, loss, scratch);
}
}  // namespace

void instantiate(tensor<double, 2> loss, arena& scratch) {
  all<float>({}, {}, {}, {}, loss, scratch);
  all<double>({}, {}, {}, {}, loss, scratch);
  all<bf16>({}, {}, {}, {}, loss, scratch);
}
