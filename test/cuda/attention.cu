// The kernels of attention, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/attention/attention.cuh>

namespace {
using namespace moe;

template <class T, int Depth>
void attend(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, dyn> lse, arena& scratch) {
  constexpr attention_shape c{.heads = 4, .kv_heads = 2, .d_head = Depth};
  attention<c>(space, x, x, x, 1, x, lse, scratch);
  attention_cached<c>(space, x, x, x, 0, x, scratch);
  attention_backward<c>(space, x, x, x, x, lse, x, 1, x, x, x, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  attend<float, 128>({}, {}, {}, scratch);
  attend<double, 64>({}, {}, {}, scratch);
  attend<bf16, 64>({}, {}, {}, scratch);
}
