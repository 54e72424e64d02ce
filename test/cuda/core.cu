// The kernels of moe/core, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/core/buffer.cuh>
#include <moe/core/elementwise.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x) {
  fill(space, x, T(0.0f));
  copy<T>(space, x, x);
  add<T>(space, x, x);
  if constexpr (std::is_same_v<T, bf16>) convert<float>(space, {}, x), convert<T>(space, x, matrix_view<float>());
}

static_assert(execution_space<cpu> && execution_space<cuda>);
}  // namespace

void instantiate() {
  all<float>({}, {});
  all<double>({}, {});
  all<bf16>({}, {});
  all<int>({}, {});
}
