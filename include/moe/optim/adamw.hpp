#pragma once
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

struct adamw_config {
  double beta1 = 0.9, beta2 = 0.95;  ///< decay of the first and of the second moment, in [0, 1)
  double eps = 1e-8;                 ///< added to the root of the second moment
};

namespace detail {
inline void check_adamw(double lr, double weight_decay, double grad_scale, index_t step, adamw_config c, double smallest_eps) {
  auto const not_negative = [](double x) { return x >= 0 && x <= std::numeric_limits<double>::max(); };
  expects(not_negative(lr), errc::bad_argument, "adamw: lr is ", lr, ", needs to be finite and not negative");
  expects(not_negative(weight_decay), errc::bad_argument, "adamw: weight_decay is ", weight_decay, ", needs to be finite and not negative");
  expects(lr * weight_decay <= 1, errc::bad_argument, "adamw: lr * weight_decay is ", lr * weight_decay, ", needs to be at most 1");
  expects(not_negative(grad_scale), errc::bad_argument, "adamw: grad_scale is ", grad_scale,
          ", needs to be finite and not negative (is the norm of the gradient finite?)");
  expects(step >= 1, errc::bad_argument, "adamw: step is ", step, ", needs to be at least 1");
  expects(c.beta1 >= 0 && c.beta1 < 1, errc::bad_argument, "adamw: beta1 is ", c.beta1, ", needs to be in [0, 1)");
  expects(c.beta2 >= 0 && c.beta2 < 1, errc::bad_argument, "adamw: beta2 is ", c.beta2, ", needs to be in [0, 1)");
  expects(c.eps >= smallest_eps && not_negative(c.eps), errc::bad_argument, "adamw: eps is ", c.eps, ", needs to be finite and at least ",
          smallest_eps);
}

/// The constants of one step, formed in double, rounded once.
template <class T>
struct adamw_step {
  T decay, beta1, rest1, beta2, rest2, scale2, rate, eps, grad_scale;
  adamw_step(double lr, double weight_decay, double gradient_scale, index_t step, adamw_config c)
      : decay(T(madd(-lr, weight_decay, 1.0))), beta1(T(c.beta1)), rest1(T(1 - c.beta1)), beta2(T(c.beta2)), rest2(T(1 - c.beta2)),
        scale2(T(1 / (1 - std::pow(c.beta2, static_cast<double>(step))))),
        rate(T(lr / (1 - std::pow(c.beta1, static_cast<double>(step))))), eps(T(c.eps)), grad_scale(T(gradient_scale)) {}

  template <class N>
  MOE_INLINE void update(T* w, T* m, T* v, T const* g, N n) const {
    using V = simd<T>;
    V const gradient = V::load(g, n) * V::all(grad_scale);
    V const first = madd(V::all(beta1), V::load(m, n), V::all(rest1) * gradient);
    V const second = madd(V::all(beta2), V::load(v, n), (V::all(rest2) * gradient) * gradient);
    V const direction = first / (sqrt(second * V::all(scale2)) + V::all(eps));
    first.store(m, n);
    second.store(v, n);
    madd(V::all(-rate), direction, V::load(w, n) * V::all(decay)).store(w, n);
  }
  /// One element: the bits of a lane of the vectors.
  MOE_HD void update_one(T& w, T& m, T& v, T g) const {
    T const gradient = g * grad_scale;
    m = madd(beta1, m, rest1 * gradient);
    v = madd(beta2, v, (rest2 * gradient) * gradient);
    T const direction = m / (std::sqrt(v * scale2) + eps);
    w = madd(-rate, direction, w * decay);
  }
};

template <class T>
void check_adamw_lengths(vector_view<T> w, vector_view<T> m, vector_view<T> v, vector_view<T const> g) {
  index_t const n = w.size();
  expects(m.size() == n, errc::shape_mismatch, "adamw: m has ", m.size(), " elements, needs ", n);
  expects(v.size() == n, errc::shape_mismatch, "adamw: v has ", v.size(), " elements, needs ", n);
  expects(g.size() == n, errc::shape_mismatch, "adamw: g has ", g.size(), " elements, needs ", n);
}
}  // namespace detail

/// One step of Adam with decoupled weight decay, in this order, s = grad_scale * g, t = step:
///   w <- (1 - lr * weight_decay) w
///   m <- beta1 m + (1 - beta1) s,   v <- beta2 v + (1 - beta2) s^2
///   w <- w - lr m' / (sqrt(v') + eps),   m' = m / (1 - beta1^t),   v' = v / (1 - beta2^t)
///
///   w, m, v  [n]  in/out  parameters and moments (0 before step 1); float or double
///   g        [n]  in      gradient; must not overlap the others
///   step          1 for the first
///
/// Edges   n == 0 changes nothing. A NaN in g makes w, m and v NaN there; so does an infinity.
/// Throws  shape_mismatch if the lengths differ; bad_argument for lr, weight_decay or grad_scale negative or not finite, lr * weight_decay > 1,
///         step < 1, a beta outside [0, 1), eps below the smallest normal number of T.
/// Order   an element by itself: bitwise equal for any number of threads, and for a buffer updated whole or in parts.
/// Cost    reads 4 n elements, writes 3 n: bound by memory.
/// Source  Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2; Kingma and Ba 2014, arXiv:1412.6980.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cpu const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay, double grad_scale,
           index_t step, adamw_config config = {}) {
  index_t const n = w.size();
  detail::check_adamw_lengths<T>(w, m, v, g);
  detail::check_adamw(lr, weight_decay, grad_scale, step, config, std::numeric_limits<T>::min());
  detail::adamw_step<T> const s(lr, weight_decay, grad_scale, step, config);
  constexpr index_t W = simd<T>::width;
  parallel_chunks(space, n, 16384, 8.0, [=](index_t, index_t begin, index_t end) {
    T *const pw = w.data(), *const pm = m.data(), *const pv = v.data();
    index_t i = begin;
    for (; i + W <= end; i += W) s.update(pw + i, pm + i, pv + i, g.data() + i, std::integral_constant<index_t, W>());
    if (i < end) s.update(pw + i, pm + i, pv + i, g.data() + i, end - i);
  });
}

/// The same with a factor of the gradient that an earlier operator, such as clip_scale, wrote to the memory of the space: nobody has to wait for it.
///
/// Edges   a factor that is negative or not finite, as that of a gradient without a finite norm: nothing is changed. Where the host can look at the
///         factor (CPU) that is an error; elsewhere (CUDA) the step is left out in silence, and the norm says so to whoever reads it.
/// Throws  as above, for grad_scale only where the host can look at it.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cpu const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay,
           in<double, 1> grad_scale, index_t step, adamw_config config = {}) {
  adamw(space, w, m, v, g, lr, weight_decay, grad_scale(0), step, config);
}

}  // namespace moe::inline MOE_ISA
