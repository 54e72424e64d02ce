#pragma once
#include <moe/core/elements.cuh>
#include <moe/routing/jitter.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <class T>
struct jitter_element {
  tensor<T const, dyn, dyn> x;
  tensor<T, dyn, dyn> out;
  double epsilon;
  random_stream random;
  __device__ void operator()(index_t t, index_t c) const {
    using A = accumulator<T>;
    auto const bits = random.integer(static_cast<std::uint64_t>(t * x.template extent<1>() + c));
    out(t, c) = T(product(static_cast<A>(x(t, c)), jitter_factor<A>(epsilon, bits)));
  }
};
}  // namespace detail

/// The contract of jitter(cpu), and its bits, with both views in device memory; asynchronous on `space.stream`. The stream is taken when the call is
/// made: a graph that captured it repeats its factors.
template <class T, index_t R, index_t C>
void jitter(cuda const& space, in<T, dyn, dyn> x, double epsilon, random_stream const& random, tensor<T, R, C> const& out) {
  detail::check_jitter(x, epsilon, out);
  for_each_element("jitter", space, x.template extent<0>(), x.template extent<1>(), detail::jitter_element<T>{x, out, epsilon, random});
}

}  // namespace moe::inline MOE_ISA
