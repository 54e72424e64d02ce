#pragma once
#include <moe/nn/detail/vectors.hpp>

// Element-wise non-linearities, forward and backward. What all of them share:
//
// Shapes  every argument is [rows, columns], its rows strided or not.
// Alias   an output may be the very same view as an input; views that overlap in another way give nonsense.
// Edges   0 rows or columns write nothing. NaN in an input stays NaN. Finite inputs of any size give what the formula gives (no inf - inf);
//         -infinity gives NaN in silu, swiglu and gelu (the formula is -inf * 0).
// Throws  shape_mismatch if the shapes differ.
// Order   an element by itself: bitwise equal for any number of threads and any strides.
// Cost    each argument is read or written once; float uses the vector exponential (2.1 ulp).

namespace moe::inline MOE_ISA {

/// The non-linearity of a feed-forward layer: swiglu has two input matrices (gate and up), relu and gelu have one.
enum class activation_kind { swiglu, relu, gelu };

namespace detail {
/// Rows of the input weight per hidden unit.
constexpr index_t input_matrices(activation_kind k) { return k == activation_kind::swiglu ? 2 : 1; }

/// silu(x) = x s(x) and its derivative s (1 + x (1 - s)), s the logistic function.
template <class A>
struct silu_function {
  using V = simd<A>;
  static MOE_INLINE V value(V x) { return x * sigmoid(x); }
  static MOE_INLINE V derivative(V x) {
    V const one = V::all(A(1)), s = sigmoid(x);
    return s * madd(x, one - s, one);
  }
};

/// gelu(x) = x s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), because (1 + tanh u) / 2 = s(2 u).
template <class A>
struct gelu_function {
  using V = simd<A>;
  static constexpr A linear = A(1.5957691216057308), cubic = A(1.5957691216057308 * 0.044715);  // 2 sqrt(2 / pi)
  static constexpr A far = A(10000);  // the derivative is exactly 0 or 1 from here on, and x^2 must not overflow
  static MOE_INLINE V gate(V x) { return sigmoid(x * madd(V::all(cubic) * x, x, V::all(linear))); }
  static MOE_INLINE V value(V x) { return x * gate(x); }
  static MOE_INLINE V derivative(V x) { return derivative(x, gate(x)); }
  static MOE_INLINE V derivative(V x, V s) {  // s = gate(x)
    V const y = {x.v > far ? V::all(far).v : x.v < -far ? V::all(-far).v : x.v};
    V const slope = madd(V::all(A(3) * cubic) * y, y, V::all(linear));
    return madd(y * s, (V::all(A(1)) - s) * slope, s);
  }
};

template <class A>
struct relu_function {
  using V = simd<A>;
  static MOE_INLINE V value(V x) { return {x.v < A(0) ? V::zero().v : x.v}; }
};
/// d_y where x > 0; its NaN and that of x stay.
template <class A>
MOE_INLINE simd<A> relu_gradient(simd<A> x, simd<A> d_y) {
  auto const pass = (x.v > A(0)) | (d_y.v != d_y.v);
  simd<A> const stopped = {x.v != x.v ? x.v : simd<A>::zero().v};
  return {pass ? d_y.v : stopped.v};
}

template <class F, class T>
void map(char const* op, cpu const& space, double work, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  using A = accumulator<T>;
  index_t const rows = y.template extent<0>(), columns = y.template extent<1>();
  check_matrix(op, "x", x, rows, columns);
  matrix_vectors<A>(space, rows, columns, work,
                    [=](index_t i, index_t c, auto n) { F::value(simd<A>::load(x.row(i) + c, n)).store(y.row(i) + c, n); });
}
template <class F, class T>
void map_backward(char const* op, cpu const& space, double work, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  using A = accumulator<T>;
  index_t const rows = d_x.template extent<0>(), columns = d_x.template extent<1>();
  check_matrix(op, "x", x, rows, columns);
  check_matrix(op, "d_y", d_y, rows, columns);
  matrix_vectors<A>(space, rows, columns, work, [=](index_t i, index_t c, auto n) {
    (simd<A>::load(d_y.row(i) + c, n) * F::derivative(simd<A>::load(x.row(i) + c, n))).store(d_x.row(i) + c, n);
  });
}

void check_swiglu(char const* op, auto const& gate, auto const& up, auto const& h) {
  check_matrix(op, "gate", gate, h.template extent<0>(), h.template extent<1>());
  check_matrix(op, "up", up, h.template extent<0>(), h.template extent<1>());
}
}  // namespace detail

/// y = silu(x) = x / (1 + e^-x).
/// Source  Elfwing, Uchibe and Doya 2017, arXiv:1702.03118.
template <class T>
void silu(cpu const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::silu_function<accumulator<T>>, T>("silu", space, 15, x, y);
}
/// d_x = d_y s(x) (1 + x (1 - s(x))), s(x) = 1 / (1 + e^-x).
template <class T>
void silu_backward(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  detail::map_backward<detail::silu_function<accumulator<T>>, T>("silu_backward", space, 20, x, d_y, d_x);
}

/// y = gelu(x) in its tanh approximation: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2; within 5e-4 of x Phi(x), Phi the normal distribution.
/// Source  Hendrycks and Gimpel 2016, arXiv:1606.08415.
template <class T>
void gelu(cpu const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::gelu_function<accumulator<T>>, T>("gelu", space, 20, x, y);
}
/// d_x = d_y gelu'(x), the derivative of the tanh form.
template <class T>
void gelu_backward(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  detail::map_backward<detail::gelu_function<accumulator<T>>, T>("gelu_backward", space, 25, x, d_y, d_x);
}

/// y = max(x, 0).
template <class T>
void relu(cpu const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::relu_function<accumulator<T>>, T>("relu", space, 1, x, y);
}
/// d_x = d_y where x > 0, exactly 0 elsewhere (also at x = 0); NaN where x or d_y is.
template <class T>
void relu_backward(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const rows = d_x.template extent<0>(), columns = d_x.template extent<1>();
  detail::check_matrix("relu_backward", "x", x, rows, columns);
  detail::check_matrix("relu_backward", "d_y", d_y, rows, columns);
  detail::matrix_vectors<A>(space, rows, columns, 2, [=](index_t i, index_t c, auto n) {
    detail::relu_gradient(V::load(x.row(i) + c, n), V::load(d_y.row(i) + c, n)).store(d_x.row(i) + c, n);
  });
}

/// h = silu(gate) * up. gate and up may be the two halves of the columns of one matrix.
/// Source  Shazeer 2020, arXiv:2002.05202.
template <class T>
void swiglu(cpu const& space, in<T, dyn, dyn> gate, in<T, dyn, dyn> up, tensor<T, dyn, dyn> h) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const rows = h.template extent<0>(), columns = h.template extent<1>();
  detail::check_swiglu("swiglu", gate, up, h);
  detail::matrix_vectors<A>(space, rows, columns, 16, [=](index_t i, index_t c, auto n) {
    (detail::silu_function<A>::value(V::load(gate.row(i) + c, n)) * V::load(up.row(i) + c, n)).store(h.row(i) + c, n);
  });
}
/// d_gate = d_h up silu'(gate), d_up = d_h silu(gate). Each of the two may be the very same view as gate, up or d_h, but not as the other.
template <class T>
void swiglu_backward(cpu const& space, in<T, dyn, dyn> gate, in<T, dyn, dyn> up, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> d_gate,
                     tensor<T, dyn, dyn> d_up) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const rows = d_gate.template extent<0>(), columns = d_gate.template extent<1>();
  detail::check_swiglu("swiglu_backward", gate, up, d_gate);
  detail::check_matrix("swiglu_backward", "d_h", d_h, rows, columns);
  detail::check_matrix("swiglu_backward", "d_up", d_up, rows, columns);
  detail::matrix_vectors<A>(space, rows, columns, 25, [=](index_t i, index_t c, auto n) {
    V const g = V::load(gate.row(i) + c, n), u = V::load(up.row(i) + c, n), dh = V::load(d_h.row(i) + c, n);
    V const one = V::all(A(1)), s = sigmoid(g);
    ((dh * u) * (s * madd(g, one - s, one))).store(d_gate.row(i) + c, n);
    (dh * (g * s)).store(d_up.row(i) + c, n);
  });
}

}  // namespace moe::inline MOE_ISA
