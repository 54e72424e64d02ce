#pragma once
#include <moe/core/elements.cuh>
#include <moe/mix/group_softmax.hpp>

// The CUDA overloads of group_softmax.hpp, with all views in device memory; asynchronous on `space.stream`. A thread per group and expert, neighbours
// at neighbouring experts, walks through the members: no sum has more than one order.
namespace moe::inline MOE_ISA {

namespace detail {
template <class A>
struct group_softmax_column {
  tensor<A const, dyn, dyn> logits;
  tensor<A, dyn, dyn> weight;
  token_groups groups;
  A temperature;
  __device__ void operator()(index_t g, index_t e) const {
    auto const x = members_of(logits, groups, g);
    auto const w = members_of(weight, groups, g);
    A top = -static_cast<A>(__builtin_inff()), sum = 0;
    for (index_t i = 0; i < groups.size; ++i) {
      A const z = x.row(i)[e] / temperature;
      top = top != top || top > z ? top : z;
    }
    for (index_t i = 0; i < groups.size; ++i) {
      A const p = exp_scalar(x.row(i)[e] / temperature - top);
      sum += p;
      w.row(i)[e] = p;
    }
    for (index_t i = 0; i < groups.size; ++i) w.row(i)[e] /= sum;
  }
};

template <class A>
struct group_softmax_gradient_column {
  tensor<A const, dyn, dyn> weight, d_weight;
  tensor<A, dyn, dyn> d_logits;
  token_groups groups;
  A temperature;
  __device__ void operator()(index_t g, index_t e) const {
    auto const w = members_of(weight, groups, g), d = members_of(d_weight, groups, g);
    auto const to = members_of(d_logits, groups, g);
    A sum = 0;
    for (index_t i = 0; i < groups.size; ++i) sum = madd(w.row(i)[e], d.row(i)[e], sum);
    for (index_t i = 0; i < groups.size; ++i) to.row(i)[e] = product(w.row(i)[e], d.row(i)[e] - sum) / temperature;
  }
};
}  // namespace detail

/// The contract of group_softmax(cpu), and for float its bits where the CPU has fused multiply-adds.
template <class A, index_t R, index_t C>
void group_softmax(cuda const& space, in<A, dyn, dyn> logits, token_groups const& groups, double temperature, tensor<A, R, C> const& weight) {
  matrix_view<A> const to = weight;
  detail::check_group_softmax("group_softmax", groups, temperature, logits, to);
  for_each_element("group_softmax", space, groups.count(), to.template extent<1>(),
                   detail::group_softmax_column<A>{logits, to, groups, static_cast<A>(temperature)});
}

/// The contract of group_softmax_backward(cpu), and its bits where the CPU has fused multiply-adds.
template <class A, index_t R, index_t C>
void group_softmax_backward(cuda const& space, in<A, dyn, dyn> weight, in<A, dyn, dyn> d_weight, token_groups const& groups, double temperature,
                            tensor<A, R, C> const& d_logits) {
  matrix_view<A> const to = d_logits;
  detail::check_group_softmax("group_softmax_backward", groups, temperature, weight, to);
  detail::check_matrix("group_softmax_backward", "d_weight", d_weight, groups.tokens(), to.template extent<1>());
  for_each_element("group_softmax_backward", space, groups.count(), to.template extent<1>(),
                   detail::group_softmax_gradient_column<A>{weight, d_weight, to, groups, static_cast<A>(temperature)});
}

}  // namespace moe::inline MOE_ISA
