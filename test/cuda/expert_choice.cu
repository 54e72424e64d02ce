// The kernels of expert choice and of jitter, apart from routing.cu so that neither file is slow to compile.
#include <moe/routing/expert_choice.cuh>
#include <moe/routing/jitter.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, matrix_view<T> x, tensor<T, dyn, 64> weight, tensor<int, dyn, 64> expert, arena& scratch) {
  expert_choice<T, 64>(space, x, {}, 1, weight, expert, scratch);
  expert_choice_backward<T, 64>(space, x, expert, x, x);
  jitter<T>(space, x, 0.01, random_stream(), x);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, {}, scratch);
  all<double>({}, {}, {}, {}, scratch);
  all<bf16>({}, {}, {}, {}, scratch);
}
