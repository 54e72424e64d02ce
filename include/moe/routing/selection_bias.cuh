#pragma once
#include <moe/core/elements.cuh>
#include <moe/routing/selection_bias.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <class T>
struct selection_update {
  tensor<index_t, dyn> load;
  tensor<T, dyn> bias;
  accumulator<T> rate;
  __device__ void operator()(index_t, int lane) const {
    using A = accumulator<T>;
    index_t const experts = bias.template extent<0>();
    index_t total = 0;
    for (index_t e = lane; e < experts; e += lanes) total += load(e);
    total = warp_sum(total);
    for (index_t e = lane; e < experts; e += lanes) {
      int const sign = load_sign(total, experts, load(e));
      if (sign != 0) bias(e) = T(static_cast<A>(bias(e)) + (sign > 0 ? rate : -rate));
      load(e) = 0;
    }
  }
};
}  // namespace detail

/// The contract of update_selection_bias(cpu), with views in device memory; asynchronous on `space.stream`.
///
/// Edges   loads are not checked: negative ones, or a sum beyond 64 bits, give biases that are off by `rate`, and nothing else.
/// Order   the bits of the CPU operator.
/// Cost    one warp.
template <class T>
void update_selection_bias(cuda const& space, vector_view<index_t> load, double rate, vector_view<T> bias) {
  index_t const experts = bias.template extent<0>();
  detail::check_selection_update(load, rate, experts);
  if (experts == 0) return;
  for_each_row("update_selection_bias", space, 1, detail::selection_update<T>{load, bias, static_cast<accumulator<T>>(rate)});
}

}  // namespace moe::inline MOE_ISA
