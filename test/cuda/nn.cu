// The kernels of moe/nn, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/nn/activation.cuh>
#include <moe/nn/embedding.cuh>
#include <moe/nn/hidden_backward.cuh>

namespace {
using namespace moe;

template <activation_kind K, class T>
void hidden(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, 2> weight) {
  hidden_backward<K, T>(space, x, x, x, x);
  hidden_backward<K, T>(space, tensor<int, dyn>(), weight, x, x, x, x, weight);
}
template <class T>
void all(cuda const& space, tensor<T, dyn, dyn> x, tensor<accumulator<T>, dyn, dyn> g, arena& scratch) {
  silu<T>(space, x, x);
  silu_backward<T>(space, x, x, x);
  gelu<T>(space, x, x);
  gelu_backward<T>(space, x, x, x);
  relu<T>(space, x, x);
  relu_backward<T>(space, x, x, x);
  swiglu<T>(space, x, x, x);
  swiglu_backward<T>(space, x, x, x, x, x);
  hidden<activation_kind::swiglu, T>(space, x, {});
  hidden<activation_kind::gelu, T>(space, x, {});
  hidden<activation_kind::relu, T>(space, x, {});
  embedding<T>(space, tensor<int, dyn>(), x, x);
  embedding_backward<T>(space, tensor<int, dyn>(), x, g, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<float>({}, {}, {}, scratch);
  all<double>({}, {}, {}, scratch);
  all<bf16>({}, {}, {}, scratch);
}
