// The kernels of moe/ssm/decay_rates, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/ssm/decay_rates.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, dyn> a) {
  decay_rates<T>(space, x, a);
  decay_rates_backward<accumulator<T>>(space, a, a, a);
}
}  // namespace

void instantiate() {
  all<float>({}, {}, {});
  all<double>({}, {}, {});
  all<bf16>({}, {}, {});
}
