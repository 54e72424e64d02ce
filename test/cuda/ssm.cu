// The kernels of moe/ssm/causal_conv1d, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/ssm/causal_conv1d.cuh>

namespace {
using namespace moe;

template <causal_conv1d_config C, class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, dyn> g, arena& scratch) {
  tensor<T, dyn, dyn, dyn> const state;
  causal_conv1d<C, T>(space, x, x, {}, {}, state, x, state);
  causal_conv1d_backward<C, T>(space, x, x, {}, {}, state, x, state, x, g, {}, state, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<causal_conv1d_config{}, float>({}, {}, {}, scratch);
  all<causal_conv1d_config{}, double>({}, {}, {}, scratch);
  all<causal_conv1d_config{}, bf16>({}, {}, {}, scratch);
  all<causal_conv1d_config{.width = 3, .silu = false}, bf16>({}, {}, {}, scratch);
  all<causal_conv1d_config{.width = 8}, float>({}, {}, {}, scratch);
  all<causal_conv1d_config{.width = 12}, float>({}, {}, {}, scratch);
}
