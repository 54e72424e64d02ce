#pragma once
#include <moe/core/vectors.cuh>
#include <moe/nn/activation.hpp>

// The contracts of activation.hpp, with all views in device memory; asynchronous on `space.stream`. A thread takes 16 bytes of a row.
//
// Order   an element by itself, by the operations of the CPU's vectors: in float and bf16 the bits of the CPU operator where that one has fused
//         multiply-adds. double uses the device's exponential.

namespace moe::inline MOE_ISA {

namespace detail {

/// 1 / (1 + e^-x): the bits of a lane of sigmoid(simd<A>).
template <class A>
__device__ A sigmoid_scalar(A x) {
  return A(1) / (A(1) + exp_scalar(-x));
}

// One element of silu_function, gelu_function and relu_function: what is explained there.
template <class A>
struct silu_scalar {
  static __device__ A value(A x) { return x * sigmoid_scalar(x); }
  static __device__ A derivative(A x) {
    A const s = sigmoid_scalar(x);
    return s * madd(x, A(1) - s, A(1));
  }
};
template <class A>
struct gelu_scalar {
  static __device__ A gate(A x) {
    constexpr A linear = gelu_function<A>::linear, cubic = gelu_function<A>::cubic;
    return sigmoid_scalar(x * madd(cubic * x, x, linear));
  }
  static __device__ A value(A x) { return x * gate(x); }
  static __device__ A derivative(A x) { return derivative(x, gate(x)); }
  static __device__ A derivative(A x, A s) {
    constexpr A linear = gelu_function<A>::linear, cubic = A(3) * gelu_function<A>::cubic, far = gelu_function<A>::far;
    A const y = x > far ? far : x < -far ? -far : x, slope = madd(cubic * y, y, linear);
    return madd(y * s, (A(1) - s) * slope, s);
  }
};
template <class A>
struct relu_scalar {
  static __device__ A value(A x) { return x < A(0) ? A(0) : x; }
};

// What one thread does: element operations on the pack'th 16 bytes of row r.
template <class F, class T>
struct map_pack {
  tensor<T const, dyn, dyn> x;
  tensor<T, dyn, dyn> y;
  __device__ void operator()(index_t r, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = y.template extent<1>() - c;
    auto v = load_pack<N>(x.row(r) + c, n);
#pragma unroll
    for (auto& e : v.v) e = F::value(e);
    store_pack(y.row(r) + c, v, n);
  }
};
template <class F, class T>
struct map_backward_pack {
  tensor<T const, dyn, dyn> x, d_y;
  tensor<T, dyn, dyn> d_x;
  __device__ void operator()(index_t r, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = d_x.template extent<1>() - c;
    auto const v = load_pack<N>(x.row(r) + c, n);
    auto g = load_pack<N>(d_y.row(r) + c, n);
#pragma unroll
    for (int i = 0; i < N; ++i) g.v[i] = F::gradient(v.v[i], g.v[i]);
    store_pack(d_x.row(r) + c, g, n);
  }
};
template <class T>
struct swiglu_pack {
  tensor<T const, dyn, dyn> gate, up;
  tensor<T, dyn, dyn> h;
  __device__ void operator()(index_t r, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = h.template extent<1>() - c;
    auto v = load_pack<N>(gate.row(r) + c, n);
    auto const u = load_pack<N>(up.row(r) + c, n);
#pragma unroll
    for (int i = 0; i < N; ++i) v.v[i] = silu_scalar<accumulator<T>>::value(v.v[i]) * u.v[i];
    store_pack(h.row(r) + c, v, n);
  }
};
template <class T>
struct swiglu_backward_pack {
  tensor<T const, dyn, dyn> gate, up, d_h;
  tensor<T, dyn, dyn> d_gate, d_up;
  __device__ void operator()(index_t r, index_t p) const {
    using A = accumulator<T>;
    constexpr int N = pack_size<T>;
    index_t const c = p * N, n = d_gate.template extent<1>() - c;
    auto g = load_pack<N>(gate.row(r) + c, n), u = load_pack<N>(up.row(r) + c, n);
    auto const dh = load_pack<N>(d_h.row(r) + c, n);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      A const x = g.v[i], s = sigmoid_scalar(x);
      g.v[i] = (dh.v[i] * u.v[i]) * (s * madd(x, A(1) - s, A(1)));
      u.v[i] = dh.v[i] * (x * s);
    }
    store_pack(d_gate.row(r) + c, g, n);
    store_pack(d_up.row(r) + c, u, n);
  }
};

/// d_y times the derivative of F.
template <class F, class A>
struct chain_rule {
  static __device__ A gradient(A x, A d_y) { return d_y * F::derivative(x); }
};
template <class A>
struct relu_chain_rule {
  static __device__ A gradient(A x, A d_y) { return x > A(0) || d_y != d_y ? d_y : x != x ? x : A(0); }
};

template <class F, class T>
void map(char const* op, cuda const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  check_matrix(op, "x", x, y.template extent<0>(), y.template extent<1>());
  for_each_element(op, space, y.template extent<0>(), packs<T>(y.template extent<1>()), map_pack<F, T>{x, y});
}
template <class F, class T>
void map_backward(char const* op, cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  index_t const rows = d_x.template extent<0>(), columns = d_x.template extent<1>();
  check_matrix(op, "x", x, rows, columns);
  check_matrix(op, "d_y", d_y, rows, columns);
  for_each_element(op, space, rows, packs<T>(columns), map_backward_pack<F, T>{x, d_y, d_x});
}
}  // namespace detail

template <class T>
void silu(cuda const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::silu_scalar<accumulator<T>>, T>("silu", space, x, y);
}
template <class T>
void silu_backward(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  using A = accumulator<T>;
  detail::map_backward<detail::chain_rule<detail::silu_scalar<A>, A>, T>("silu_backward", space, x, d_y, d_x);
}

template <class T>
void gelu(cuda const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::gelu_scalar<accumulator<T>>, T>("gelu", space, x, y);
}
template <class T>
void gelu_backward(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  using A = accumulator<T>;
  detail::map_backward<detail::chain_rule<detail::gelu_scalar<A>, A>, T>("gelu_backward", space, x, d_y, d_x);
}

template <class T>
void relu(cuda const& space, in<T, dyn, dyn> x, tensor<T, dyn, dyn> y) {
  detail::map<detail::relu_scalar<accumulator<T>>, T>("relu", space, x, y);
}
template <class T>
void relu_backward(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> d_y, tensor<T, dyn, dyn> d_x) {
  detail::map_backward<detail::relu_chain_rule<accumulator<T>>, T>("relu_backward", space, x, d_y, d_x);
}

template <class T>
void swiglu(cuda const& space, in<T, dyn, dyn> gate, in<T, dyn, dyn> up, tensor<T, dyn, dyn> h) {
  detail::check_swiglu("swiglu", gate, up, h);
  for_each_element("swiglu", space, h.template extent<0>(), detail::packs<T>(h.template extent<1>()), detail::swiglu_pack<T>{gate, up, h});
}
template <class T>
void swiglu_backward(cuda const& space, in<T, dyn, dyn> gate, in<T, dyn, dyn> up, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> d_gate,
                     tensor<T, dyn, dyn> d_up) {
  detail::check_swiglu("swiglu_backward", gate, up, d_gate);
  detail::check_matrix("swiglu_backward", "d_h", d_h, d_gate.template extent<0>(), d_gate.template extent<1>());
  detail::check_matrix("swiglu_backward", "d_up", d_up, d_gate.template extent<0>(), d_gate.template extent<1>());
  for_each_element("swiglu_backward", space, d_gate.template extent<0>(), detail::packs<T>(d_gate.template extent<1>()),
                   detail::swiglu_backward_pack<T>{gate, up, d_h, d_gate, d_up});
}

}  // namespace moe::inline MOE_ISA
