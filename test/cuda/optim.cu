// The kernels of moe/optim, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/optim/adamw.cuh>
#include <moe/optim/clip.cuh>

namespace {
using namespace moe;

template <class T>
void step(cuda const& space, tensor<T, dyn> x, tensor<double, 1> scale) {
  adamw(space, x, x, x, x, 1e-3, 0.1, 1.0, 1);
  adamw(space, x, x, x, x, 1e-3, 0.1, scale, 1, {}, {.zeroed = x});
}
template <class T>
void norm(cuda const& space, tensor<T, dyn> g, tensor<double, 1> norm, arena& scratch) {
  global_norm(space, g, norm, scratch);
}
}  // namespace

void instantiate(tensor<double, 1> x, arena& scratch) {
  step<float>({}, {}, x);
  step<double>({}, {}, x);
  norm<float>({}, {}, x, scratch);
  norm<double>({}, {}, x, scratch);
  norm<bf16>({}, {}, x, scratch);
  clip_scale(cuda{}, x, 1.0, x);
}
