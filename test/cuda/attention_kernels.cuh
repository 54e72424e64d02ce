// What attention.cu and attention_double.cu instantiate: two sources, because one took a compiler 15 seconds.
#pragma once
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
