// The kernels of layer_norm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/nn/layer_norm.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn> w, tensor<accumulator<T>, dyn> r, arena& scratch) {
  layer_norm<T>(space, x, w, w, 0, x, r, r);
  layer_norm_backward<T>(space, x, x, w, r, r, x, r, r, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, scratch);
}
