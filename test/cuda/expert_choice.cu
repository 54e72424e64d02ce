// The kernels of expert choice and of jitter, apart from routing.cu so that neither file is slow to compile.
#include <moe/routing/jitter.cuh>

namespace {
using namespace moe;

template <class T>
void all(cuda const& space, matrix_view<T> x) {
  jitter<T>(space, x, 0.01, random_stream(), x);
}
}  // namespace

void instantiate() {
  all<float>({}, {});
  all<double>({}, {});
  all<bf16>({}, {});
}
