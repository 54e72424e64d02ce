#pragma once
#include <moe/core/elements.cuh>
#include <moe/ssm/decay_rates.hpp>

// The contracts of decay_rates.hpp, with all views in device memory; asynchronous on `space.stream`. A thread takes an element.
//
// Order   by the operations of the CPU's vectors: in float and bf16 the bits of the CPU operator where that one has fused multiply-adds. double uses
//         the device's exponential.

namespace moe::inline MOE_ISA {

namespace detail {
template <class T>
struct decay_rate_element {
  tensor<T const, dyn, dyn> log_rate;
  tensor<accumulator<T>, dyn, dyn> rate;
  __device__ void operator()(index_t r, index_t c) const { rate(r, c) = -exp_scalar(static_cast<accumulator<T>>(log_rate(r, c))); }
};
template <class A>
struct decay_rate_backward_element {
  tensor<A const, dyn, dyn> rate, d_rate;
  tensor<A, dyn, dyn> d_log_rate;
  __device__ void operator()(index_t r, index_t c) const { d_log_rate(r, c) = madd(d_rate(r, c), rate(r, c), d_log_rate(r, c)); }
};
}  // namespace detail

template <class T>
void decay_rates(cuda const& space, in<T, dyn, dyn> log_rate, tensor<accumulator<T>, dyn, dyn> rate) {
  detail::check_matrix("decay_rates", "log_rate", log_rate, rate.template extent<0>(), rate.template extent<1>());
  for_each_element("decay_rates", space, rate.template extent<0>(), rate.template extent<1>(), detail::decay_rate_element<T>{log_rate, rate});
}

template <class A>
void decay_rates_backward(cuda const& space, in<A, dyn, dyn> rate, in<A, dyn, dyn> d_rate, tensor<A, dyn, dyn> d_log_rate) {
  index_t const rows = d_log_rate.template extent<0>(), columns = d_log_rate.template extent<1>();
  detail::check_matrix("decay_rates_backward", "rate", rate, rows, columns);
  detail::check_matrix("decay_rates_backward", "d_rate", d_rate, rows, columns);
  for_each_element("decay_rates_backward", space, rows, columns, detail::decay_rate_backward_element<A>{rate, d_rate, d_log_rate});
}

}  // namespace moe::inline MOE_ISA
