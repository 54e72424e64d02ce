// The kernels of rms_norm, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/nn/rms_norm.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn> w, tensor<accumulator<T>, dyn> r, arena& scratch) {
  rms_norm<T>(space, x, w, 0, x, r);
  rms_norm_backward<T>(space, x, x, w, r, x, r, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, scratch);
}
