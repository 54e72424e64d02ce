#pragma once
#include <moe/nn/detail/vectors.hpp>

// The decay rates of a state, which are learned as logarithms so that they stay negative:  rate = -e^log_rate.
//
// Shapes  every argument is [channels, d_state], its rows strided or not.
// Edges   no rows or columns: nothing is written. NaN stays NaN; a log_rate beyond the exponential's range gives -infinity or -0.
// Throws  shape_mismatch if the shapes differ.
// Order   an element by itself: bitwise equal for any number of threads and any strides.
// Cost    each argument is read or written once; an exponential per element of the forward. Small beside the tokens that use them.
// Source  Gu and Dao 2023, arXiv:2312.00752, section 3.6 (A = -exp(A_log)).

namespace moe::inline MOE_ISA {

/// rate[c, n] = -exp(log_rate[c, n]), in accumulator<T>, which the scan reads. Say T: decay_rates<bf16>(space, logs, rates).
template <class T>
void decay_rates(cpu const& space, in<T, dyn, dyn> log_rate, tensor<accumulator<T>, dyn, dyn> rate) {
  using V = simd<accumulator<T>>;
  index_t const rows = rate.template extent<0>(), columns = rate.template extent<1>();
  detail::check_matrix("decay_rates", "log_rate", log_rate, rows, columns);
  detail::matrix_vectors<accumulator<T>>(space, rows, columns, 12,
                                         [=](index_t i, index_t c, auto n) { (-exp(V::load(log_rate.row(i) + c, n))).store(rate.row(i) + c, n); });
}

/// d_log_rate[c, n] += d_rate[c, n] rate[c, n], one fused operation: the derivative of -e^x is itself.
template <class A>
void decay_rates_backward(cpu const& space, in<A, dyn, dyn> rate, in<A, dyn, dyn> d_rate, tensor<A, dyn, dyn> d_log_rate) {
  using V = simd<A>;
  index_t const rows = d_log_rate.template extent<0>(), columns = d_log_rate.template extent<1>();
  detail::check_matrix("decay_rates_backward", "rate", rate, rows, columns);
  detail::check_matrix("decay_rates_backward", "d_rate", d_rate, rows, columns);
  detail::matrix_vectors<A>(space, rows, columns, 3, [=](index_t i, index_t c, auto n) {
    madd(V::load(d_rate.row(i) + c, n), V::load(rate.row(i) + c, n), V::load(d_log_rate.row(i) + c, n)).store(d_log_rate.row(i) + c, n);
  });
}

}  // namespace moe::inline MOE_ISA
