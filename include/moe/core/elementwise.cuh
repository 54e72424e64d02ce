#pragma once
#include <moe/core/buffer.cuh>
#include <moe/core/elements.cuh>
#include <moe/core/elementwise.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <class T>
struct fill_element {
  tensor<T, dyn, dyn> to;
  T value;
  __device__ void operator()(index_t r, index_t c) const { to(r, c) = value; }
};
template <class T>
struct multiple_element {
  tensor<T, dyn> to;
  T step;
  __device__ void operator()(index_t, index_t i) const { to(i) = static_cast<T>(i) * step; }
};
template <class T>
struct copy_element {
  tensor<T const, dyn, dyn> from;
  tensor<T, dyn, dyn> to;
  __device__ void operator()(index_t r, index_t c) const { to(r, c) = from(r, c); }
};
template <class From, class To>
struct convert_element {
  tensor<From const, dyn, dyn> from;
  tensor<To, dyn, dyn> to;
  __device__ void operator()(index_t r, index_t c) const { to(r, c) = To(static_cast<accumulator<From>>(from(r, c))); }
};
template <class T>
struct add_element {
  tensor<T const, dyn, dyn> x;
  tensor<T, dyn, dyn> to;
  __device__ void operator()(index_t r, index_t c) const {
    if constexpr (std::is_integral_v<T>) {
      to(r, c) += x(r, c);
    } else {
      using A = accumulator<T>;
      to(r, c) = T(static_cast<A>(to(r, c)) + static_cast<A>(x(r, c)));
    }
  }
};
}  // namespace detail

/// The contract of fill(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class T, index_t R, index_t C>
void fill(cuda const& space, tensor<T, R, C> const& to, std::type_identity_t<T> value) {
  for_each_element("fill", space, to.rows(), to.template extent<1>(), detail::fill_element<T>{to, value});
}

/// The contract of fill_multiples(cpu), with the view in device memory; asynchronous on `space.stream`.
template <class T>
void fill_multiples(cuda const& space, tensor<T, dyn> const& to, std::type_identity_t<T> step) {
  for_each_element("fill_multiples", space, 1, to.size(), detail::multiple_element<T>{to, step});
}

/// The contract of copy(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class T, index_t R, index_t C>
void copy(cuda const& space, in<T, dyn, dyn> from, tensor<T, R, C> const& to) {
  detail::check_matrix("copy", "from", from, to.rows(), to.template extent<1>());
  for_each_element("copy", space, to.rows(), to.template extent<1>(), detail::copy_element<T>{from, to});
}

/// The contract of convert(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class From, class To, index_t R, index_t C>
void convert(cuda const& space, in<From, dyn, dyn> from, tensor<To, R, C> const& to) {
  static_assert(std::is_same_v<accumulator<From>, accumulator<To>>, "moe::convert: from and to differ in more than how they are stored");
  detail::check_matrix("convert", "from", from, to.rows(), to.template extent<1>());
  for_each_element("convert", space, to.rows(), to.template extent<1>(), detail::convert_element<From, To>{from, to});
}

/// The contract of add(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class T, index_t R, index_t C>
void add(cuda const& space, in<T, dyn, dyn> x, tensor<T, R, C> const& to) {
  detail::check_matrix("add", "x", x, to.rows(), to.template extent<1>());
  for_each_element("add", space, to.rows(), to.template extent<1>(), detail::add_element<T>{x, to});
}

}  // namespace moe::inline MOE_ISA
