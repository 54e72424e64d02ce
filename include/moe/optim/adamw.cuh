#pragma once
#include <moe/core/vectors.cuh>
#include <moe/optim/adamw.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// The p'th 16 bytes of w, m, v and what else is written. `scale` is nullptr where the host knew the factor of the gradient.
template <class T>
struct adamw_run {
  tensor<T, dyn> w, m, v;
  tensor<T const, dyn> g;
  adamw_step<T> step;
  double const* scale;
  adamw_outputs<T> also;
  __device__ void operator()(index_t, index_t p) const {
    constexpr int N = pack_size<T>;
    index_t const first = p * N, n = w.template extent<0>() - first;
    adamw_step<T> s = step;
    if (scale != nullptr) {
      double const factor = *scale;
      if (!(factor >= 0 && factor < __builtin_inf())) return zero(first, n);
      s.grad_scale = static_cast<T>(factor);
    }
    auto a = load_vector(w.data() + first, n), b = load_vector(m.data() + first, n), c = load_vector(v.data() + first, n);
    auto const d = load_vector(g.data() + first, n);
#pragma unroll
    for (int i = 0; i < N; ++i) s.update_one(a.v[i], b.v[i], c.v[i], d.v[i]);
    store_vector(w.data() + first, a, n);
    store_vector(m.data() + first, b, n);
    store_vector(v.data() + first, c, n);
    zero(first, n);
    if (also.rounded.size() == 0) return;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < n) also.rounded.data()[rounded_index(also.layout, first + i)] = bf16(a.v[i]);
  }
  __device__ void zero(index_t first, index_t n) const {
    if (also.zeroed.size() != 0) store_vector(also.zeroed.data() + first, ptx::vector16<T>{}, n);
  }
};

template <class T>
void launch_adamw(cuda const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, tensor<T const, dyn> g, adamw_step<T> const& step,
                  double const* scale, adamw_outputs<T> const& also) {
  for_each_element("adamw", space, 1, packs<T>(w.size()), adamw_run<T>{w, m, v, g, step, scale, also});
}
}  // namespace detail

/// The contract of adamw(cpu), with all views in device memory; asynchronous on `space.stream`. The bits of the CPU operator where that one has fused
/// multiply-adds. A CUDA graph that captures it keeps lr, weight_decay and step as they were.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cuda const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay, double grad_scale,
           index_t step, adamw_config config = {}, std::type_identity_t<adamw_outputs<T>> const& also = {}) {
  detail::check_adamw_lengths<T>(w, m, v, g);
  detail::check_adamw_outputs<T>("adamw", w.size(), g, also);
  detail::check_adamw(lr, weight_decay, grad_scale, step, config, std::numeric_limits<T>::min());
  detail::launch_adamw<T>(space, w, m, v, g, {lr, weight_decay, grad_scale, step, config}, nullptr, also);
}

/// The same with the factor of the gradient in device memory. Where it is negative or not finite nothing is changed but also.zeroed: no error
/// can come back from there.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cuda const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay,
           in<double, 1> grad_scale, index_t step, adamw_config config = {}, std::type_identity_t<adamw_outputs<T>> const& also = {}) {
  detail::check_adamw_lengths<T>(w, m, v, g);
  detail::check_adamw_outputs<T>("adamw", w.size(), g, also);
  detail::check_adamw(lr, weight_decay, 1, step, config, std::numeric_limits<T>::min());
  detail::launch_adamw<T>(space, w, m, v, g, {lr, weight_decay, 1, step, config}, grad_scale.data(), also);
}

}  // namespace moe::inline MOE_ISA
