#pragma once
#include <moe/core/elementwise.cuh>
#include <moe/nn/activation.cuh>
#include <moe/nn/hidden_backward.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

/// hidden_vector on a device: N hidden units of one thread.
template <activation_kind K, class T>
struct hidden_pack;

template <class T>
struct hidden_pack<activation_kind::swiglu, T> {
  using A = accumulator<T>;
  static constexpr int N = pack_size<T>;
  pack<A, N> gate, up;
  __device__ hidden_pack(T const* pre, index_t width, index_t n) : gate(load_pack<N>(pre, n)), up(load_pack<N>(pre + width, n)) {}
  /// Element i from now on; what it keeps of the pre-activation is replaced by gradients.
  struct unit {
    A &gate, &up, s;
    __device__ A value() const { return gate * s * up; }
    __device__ void gradient(A d_h) const {
      A const x = gate;
      gate = (d_h * up) * (s * madd(x, A(1) - s, A(1)));
      up = d_h * (x * s);
    }
  };
  __device__ unit at(int i) { return {gate.v[i], up.v[i], sigmoid_scalar(gate.v[i])}; }
  __device__ void store(T* d_pre, index_t width, index_t n) const {
    store_pack(d_pre, gate, n);
    store_pack(d_pre + width, up, n);
  }
};

/// The activations of one argument.
template <class T, class Unit>
struct hidden_pack_of_one {
  static constexpr int N = pack_size<T>;
  pack<accumulator<T>, N> x;
  __device__ hidden_pack_of_one(T const* pre, index_t, index_t n) : x(load_pack<N>(pre, n)) {}
  __device__ Unit at(int i) { return Unit(x.v[i]); }
  __device__ void store(T* d_pre, index_t, index_t n) const { store_pack(d_pre, x, n); }
};
template <class A>
struct hidden_gelu {
  A &x, s;
  __device__ explicit hidden_gelu(A& of) : x(of), s(gelu_scalar<A>::gate(of)) {}
  __device__ A value() const { return x * s; }
  __device__ void gradient(A d_h) const { x = d_h * gelu_scalar<A>::derivative(x, s); }
};
template <class A>
struct hidden_relu {
  A& x;
  __device__ explicit hidden_relu(A& of) : x(of) {}
  __device__ A value() const { return relu_scalar<A>::value(x); }
  __device__ void gradient(A d_h) const { x = relu_chain_rule<A>::gradient(x, d_h); }
};
template <class T>
struct hidden_pack<activation_kind::gelu, T> : hidden_pack_of_one<T, hidden_gelu<accumulator<T>>> {
  using hidden_pack_of_one<T, hidden_gelu<accumulator<T>>>::hidden_pack_of_one;
};
template <class T>
struct hidden_pack<activation_kind::relu, T> : hidden_pack_of_one<T, hidden_relu<accumulator<T>>> {
  using hidden_pack_of_one<T, hidden_relu<accumulator<T>>>::hidden_pack_of_one;
};

template <activation_kind K, class T>
struct hidden_backward_pack {
  tensor<T const, dyn, dyn> pre, d_h;
  tensor<T, dyn, dyn> h, d_pre;
  __device__ void operator()(index_t r, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const width = h.template extent<1>(), c = p * N, n = width - c;
    hidden_pack<K, T> units(pre.row(r) + c, width, n);
    auto v = load_pack<N>(d_h.row(r) + c, n);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      auto const unit = units.at(i);
      auto const d = v.v[i];
      v.v[i] = unit.value();
      unit.gradient(d);
    }
    store_pack(h.row(r) + c, v, n);
    units.store(d_pre.row(r) + c, width, n);
  }
};

template <activation_kind K, class T, class TW>
struct hidden_backward_row {
  tensor<int const, dyn> slot;
  tensor<TW const, dyn, dyn> weight;
  tensor<T const, dyn, dyn> pre, d_h;
  tensor<T, dyn, dyn> h, d_pre;
  tensor<TW, dyn, dyn> d_weight;
  __device__ void operator()(index_t r, int lane) const {
    using A = accumulator<T>;
    constexpr int N = pack_size<T>;
    int const at = slot(r);
    if (at < 0 || at >= weight.size()) return;
    index_t const width = h.template extent<1>(), t = at / weight.template extent<1>(), j = at % weight.template extent<1>();
    A const w = static_cast<A>(weight(t, j));
    A dot = 0;
    for (index_t c = lane * N; c < width; c += lanes * N) {
      index_t const n = width - c;
      hidden_pack<K, T> units(pre.row(r) + c, width, n);
      auto v = load_pack<N>(d_h.row(r) + c, n);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        auto const unit = units.at(i);
        A const x = static_cast<A>(T(unit.value())), d = v.v[i];
        dot = madd(x, d, dot);
        v.v[i] = product(x, w);
        unit.gradient(static_cast<A>(T(product(d, w))));
      }
      store_pack(h.row(r) + c, v, n);
      units.store(d_pre.row(r) + c, width, n);
    }
    dot = warp_sum(dot);
    if (lane == 0) d_weight(t, j) = TW(dot);
  }
};
}  // namespace detail

/// The contract of hidden_backward(cpu), with all views in device memory; asynchronous on `space.stream`. A thread takes 16 bytes of a row.
template <activation_kind K, class T>
void hidden_backward(cuda const& space, in<T, dyn, dyn> pre, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> h, tensor<T, dyn, dyn> d_pre) {
  detail::check_hidden<K>(pre, d_h, h, d_pre);
  for_each_element("hidden_backward", space, h.rows(), detail::packs<T>(h.template extent<1>()),
                   detail::hidden_backward_pack<K, T>{pre, d_h, h, d_pre});
}

/// The contract of hidden_backward(cpu) with weights, with all views in device memory; asynchronous on `space.stream`. A warp takes a row.
///
/// Edges   slots are not checked: a row whose slot is outside [0, tokens k) is skipped, and of rows with the same slot one gives d_weight.
/// Order   d_weight: as weigh_rows(cuda): a lane of the warp takes 16 bytes of every 512, one chain of madd over ascending columns, then a tree of halves.
template <activation_kind K, class T, class TW, index_t W, index_t C>
void hidden_backward(cuda const& space, in<int, dyn> slot, in<TW, dyn, dyn> weight, in<T, dyn, dyn> pre, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> h,
                     tensor<T, dyn, dyn> d_pre, tensor<TW, W, C> const& d_weight) {
  detail::check_hidden<K>(pre, d_h, h, d_pre);
  detail::check_hidden_slots(slot, weight, h.rows(), d_weight);
  fill(space, d_weight, TW(0.0f));
  for_each_row("hidden_backward", space, h.rows(), detail::hidden_backward_row<K, T, TW>{slot, weight, pre, d_h, h, d_pre, d_weight});
}

}  // namespace moe::inline MOE_ISA
