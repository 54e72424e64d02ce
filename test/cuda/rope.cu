// The kernels of rope, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/attention/rope.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, rope_table<accumulator<T>> const& table, tensor<index_t, dyn> position) {
  constexpr rope_config rotation{.d_head = 64};
  fill_rope_table<rotation>(space, table);
  rope<rotation>(space, x, table, position);
  rope<rotation>(space, x, table, consecutive{0, 1});
  rope_backward<rotation>(space, x, table, position);
  rope_backward<rotation>(space, x, table, consecutive{0, 1});
}
}  // namespace

void instantiate() {
  all<float>({}, {}, {}, {});
  all<double>({}, {}, {}, {});
  all<bf16>({}, {}, {}, {});
}
