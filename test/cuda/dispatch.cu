// The kernels of moe/routing that move rows, apart from routing.cu so that neither file is slow to compile.
#include <moe/routing/dispatch.cuh>
#include <moe/routing/weigh_rows.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, 2> weight, dispatch_plan const& plan) {
  dispatch<T>(space, x, plan, x);
  dispatch_backward<T>(space, x, plan, 2, x);
  combine<T>(space, x, weight, plan, x);
  combine_backward<T>(space, x, x, weight, plan, x, weight);
  weigh_rows<T>(space, plan.slot, weight, x, x, weight);
}
}  // namespace

void instantiate(dispatch_plan const& plan, arena& scratch) {
  make_dispatch(cuda{}, tensor<int, dyn, 2>(), 0, plan, scratch);
  all<float>({}, {}, {}, plan);
  all<double>({}, {}, {}, plan);
  all<bf16>({}, {}, {}, plan);
}
