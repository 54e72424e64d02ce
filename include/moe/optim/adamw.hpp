#pragma once
#include <moe/core/detail/streaming.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

struct adamw_config {
  double beta1 = 0.9, beta2 = 0.95;  ///< decay of the first and of the second moment, in [0, 1)
  double eps = 1e-8;                 ///< added to the root of the second moment
};

/// Where element i of a vector stands in a rounded copy of it.
enum class bf16_layout {
  plain,      ///< at i
  row_pairs,  ///< rows of 32 elements in pairs, the vector beginning with one: element j of both rows side by side, [rows / 2][32][2]. So float panels
              ///< of packed weights become bf16 panels
};
/// The index of element i in that layout. The number of elements must be a multiple of rounded_block.
inline constexpr index_t rounded_block(bf16_layout layout) { return layout == bf16_layout::plain ? 1 : 64; }
MOE_HD constexpr index_t rounded_index(bf16_layout layout, index_t i) {
  return layout == bf16_layout::plain ? i : i / 64 * 64 + i % 32 * 2 + i / 32 % 2;
}

/// What a step writes besides w, m and v, in the same pass over memory. An empty view: not written.
template <class T>
struct adamw_outputs {
  vector_view<T> zeroed{};                  ///< [n], the very memory of g: the gradient is 0 after the step, ready for the next sum
  vector_view<bf16> rounded{};              ///< [n], the new w rounded to nearest, for products of bf16; must not overlap the others
  bf16_layout layout = bf16_layout::plain;  ///< of `rounded`
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

  /// Returns the new w.
  template <class N>
  MOE_INLINE simd<T> update(T* w, T* m, T* v, T const* g, N n) const {
    using V = simd<T>;
    V const gradient = V::load(g, n) * V::all(grad_scale);
    V const first = madd(V::all(beta1), V::load(m, n), V::all(rest1) * gradient);
    V const second = madd(V::all(beta2), V::load(v, n), (V::all(rest2) * gradient) * gradient);
    V const direction = first / (sqrt(second * V::all(scale2)) + V::all(eps));
    first.store(m, n);
    second.store(v, n);
    V const next = madd(V::all(-rate), direction, V::load(w, n) * V::all(decay));
    next.store(w, n);
    return next;
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
template <class T>
void check_adamw_outputs(char const* op, index_t n, vector_view<T const> g, adamw_outputs<T> const& also) {
  expects(also.zeroed.size() == 0 || (also.zeroed.data() == g.data() && also.zeroed.size() == n), errc::bad_argument, op,
          ": zeroed is not g, the very same view");
  index_t const size = also.rounded.size(), block = rounded_block(also.layout);
  expects(size == 0 || size == n, errc::shape_mismatch, op, ": rounded has ", size, " elements, needs ", n);
  expects(size == 0 || n % block == 0, errc::shape_mismatch, op, ": w has ", n, " elements, needs a multiple of ", block,
          " for pairs of rows of 32");
}

/// Writes `bits` to p, past the caches if Past.
template <bool Past, class V>
MOE_INLINE void put(V const& bits, bf16* p) {
  if constexpr (Past) stream(bits, p);
  else std::memcpy(static_cast<void*>(p), &bits, sizeof bits);
}

/// update(i, n) steps n elements and returns the new ones, which go to rounded[i...). If there is much of it, it is gone from the caches before the next
/// forward pass reads it: then Past. Elements beyond the last whole vector are left.
template <bool Past, class F>
index_t round_updated(bf16_layout layout, bf16* rounded, index_t begin, index_t end, F const& update) {
  constexpr index_t W = simd<float>::width;
  std::integral_constant<index_t, W> const full;
  index_t i = begin;
  if (layout == bf16_layout::row_pairs) {
    for (; i < end; i += 64)
      for (index_t j = 0; j < 32; j += W) {
        auto const even = update(i + j, full);
        put<Past>(narrowed_pairs(even.v, update(i + 32 + j, full).v), rounded + i + 2 * j);
      }
  } else {
    constexpr bool past = Past && sizeof(halves) >= 16;
    for (; i + W <= end; i += W) put<past>(narrowed(update(i, full).v), rounded + i);
  }
  if constexpr (Past) fence_streams();
  return i;
}

/// The step for elements [begin, end): what else is to be written while they are in registers.
template <class T>
void adamw_range(adamw_step<T> const& s, T* w, T* m, T* v, T const* g, adamw_outputs<T> const& also, index_t begin, index_t end) {
  using V = simd<T>;
  constexpr index_t W = V::width;
  T* const zeroed = also.zeroed.size() == 0 ? nullptr : also.zeroed.data();  // a view of nothing may still point somewhere
  bf16* const rounded = also.rounded.size() == 0 ? nullptr : also.rounded.data();
  auto const update = [&](index_t i, auto n) {
    V const next = s.update(w + i, m + i, v + i, g + i, n);
    if (zeroed != nullptr) V::zero().store(zeroed + i, n);
    return next;
  };
  index_t i = begin, not_rounded = begin;
  if constexpr (std::same_as<T, float>)
    if (rounded != nullptr) {
      bool const past = streams(rounded, also.rounded.size() * index_t{sizeof(bf16)});
      i = past ? round_updated<true>(also.layout, rounded, begin, end, update) : round_updated<false>(also.layout, rounded, begin, end, update);
      not_rounded = i;
    }
  for (; i + W <= end; i += W) update(i, std::integral_constant<index_t, W>());
  if (i < end) update(i, end - i);
  if (rounded != nullptr)
    for (i = not_rounded; i < end; ++i) rounded[rounded_index(also.layout, i)] = bf16(w[i]);
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
///   also          what else is written in the same pass, nothing unless given: zeroed, which is g, becomes 0; rounded becomes the new w as bf16
///
/// Edges   n == 0 changes nothing. A NaN in g makes w, m and v NaN there; so does an infinity.
/// Throws  shape_mismatch if the lengths differ, or for pairs of rows where n is no multiple of 64; bad_argument if also.zeroed is other memory than g,
///         for lr, weight_decay or grad_scale negative or not finite, lr * weight_decay > 1, step < 1, a beta outside [0, 1), eps below the smallest
///         normal number of T.
/// Order   an element by itself: bitwise equal for any number of threads, and for a buffer updated whole or in parts.
/// Cost    reads 4 n elements, writes 3 n: bound by memory. Zeroing writes n more, without the read that a fill would cost; rounding n / 2.
/// Source  Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2; Kingma and Ba 2014, arXiv:1412.6980.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cpu const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay, double grad_scale,
           index_t step, adamw_config config = {}, std::type_identity_t<adamw_outputs<T>> const& also = {}) {
  detail::check_adamw_lengths<T>(w, m, v, g);
  detail::check_adamw_outputs<T>("adamw", w.size(), g, also);
  detail::check_adamw(lr, weight_decay, grad_scale, step, config, std::numeric_limits<T>::min());
  detail::adamw_step<T> const s(lr, weight_decay, grad_scale, step, config);
  parallel_chunks(space, w.size(), 16384, 8.0, [=](index_t, index_t begin, index_t end) {
    detail::adamw_range(s, w.data(), m.data(), v.data(), g.data(), also, begin, end);
  });
}

/// The same with a factor of the gradient that an earlier operator, such as clip_scale, wrote to the memory of the space: nobody has to wait for it.
///
/// Edges   a factor that is negative or not finite, as that of a gradient without a finite norm: nothing is changed. Where the host can look at the
///         factor (CPU) that is an error; elsewhere (CUDA) the step is left out in silence, and the norm says so to whoever reads it. also.zeroed
///         becomes 0 even then: the next step's gradient must not start from this one.
/// Throws  as above, for grad_scale only where the host can look at it.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double>
void adamw(cpu const& space, tensor<T, dyn> w, tensor<T, dyn> m, tensor<T, dyn> v, in<T, dyn> g, double lr, double weight_decay,
           in<double, 1> grad_scale, index_t step, adamw_config config = {}, std::type_identity_t<adamw_outputs<T>> const& also = {}) {
  adamw(space, w, m, v, g, lr, weight_decay, grad_scale(0), step, config, also);
}

}  // namespace moe::inline MOE_ISA
