// The algorithms that stand on CUB, instantiated for the build check, which also times what including them costs a translation unit.
#include <moe/core/algorithms.cuh>

namespace {
using namespace moe;  // but for moe::cuda: <cub/...> declares a namespace ::cuda

template <class T>
void sorts(moe::cuda const& space, tensor<T, dyn, dyn> x, tensor<T, dyn> y, arena& scratch) {
  argsort(space, x, tensor<int, dyn, dyn>(), sort_direction::descending, scratch);
  sort_pairs<T, int>(space, y, tensor<int, dyn>(), y, tensor<int, dyn>(), sort_direction::ascending, scratch);
}
}  // namespace

void instantiate(moe::cuda const& space, tensor<index_t, 1> count, arena& scratch) {
  sorts<float>(space, {}, {}, scratch);
  sorts<double>(space, {}, {}, scratch);
  sorts<bf16>(space, {}, {}, scratch);
  sorts<int>(space, {}, {}, scratch);
  select_flagged(space, tensor<int, dyn>(), tensor<int, dyn>(), count, scratch);
  exclusive_sum(space, tensor<int, dyn>(), tensor<index_t, dyn>(), scratch);
}
