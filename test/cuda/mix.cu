// The kernels of moe/mix, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/mix/token_mixing.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, matrix_view<T> x, matrix_view<accumulator<T>> weight, token_groups const& groups) {
  mix_tokens<T>(space, x, weight, groups, x);
  redistribute_tokens<T>(space, x, weight, groups, x);
  mixing_weight_gradient(space, x, x, groups, weight);
  mixing_weight_gradient<mixing_weight_gradient_config{.accumulate = true}>(space, x, x, groups, weight);
}
}  // namespace

void instantiate(token_groups const& groups) {
  group_softmax<float>(cuda{}, {}, groups, 1, matrix_view<float>());
  group_softmax<double>(cuda{}, {}, groups, 1, matrix_view<double>());
  group_softmax_backward<float>(cuda{}, {}, {}, groups, 1, matrix_view<float>());
  group_softmax_backward<double>(cuda{}, {}, {}, groups, 1, matrix_view<double>());
  all<float>({}, {}, {}, groups);
  all<double>({}, {}, {}, groups);
  all<bf16>({}, {}, {}, groups);
}
