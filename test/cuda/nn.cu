// The kernels of moe/nn, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/nn/activation.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x) {
  silu<T>(space, x, x);
  silu_backward<T>(space, x, x, x);
  gelu<T>(space, x, x);
  gelu_backward<T>(space, x, x, x);
  relu<T>(space, x, x);
  relu_backward<T>(space, x, x, x);
  swiglu<T>(space, x, x, x);
  swiglu_backward<T>(space, x, x, x, x, x);
}
}  // namespace

void instantiate() {
  all<float>({}, {});
  all<double>({}, {});
  all<bf16>({}, {});
}
