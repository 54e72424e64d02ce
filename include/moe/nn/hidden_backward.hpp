#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/nn/activation.hpp>
#include <moe/routing/detail/expert_ids.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// x as T keeps it.
template <class T, class A>
MOE_INLINE simd<A> rounded(simd<A> x) {
  if constexpr (std::is_same_v<T, A>) return x;
  else return {widened(narrowed(x.v))};
}

/// A vector of hidden units: `value` has the bits of the activation, `gradient` writes those of its backward. What both need is computed once.
template <activation_kind K, class A>
struct hidden_vector;

template <class A>
struct hidden_vector<activation_kind::swiglu, A> {
  using V = simd<A>;
  V gate, up, s;
  template <class T>
  MOE_INLINE hidden_vector(T const* pre, index_t width, auto n) : gate(V::load(pre, n)), up(V::load(pre + width, n)), s(sigmoid(gate)) {}
  MOE_INLINE V value() const { return (gate * s) * up; }
  template <class T>
  MOE_INLINE void gradient(V d_h, T* d_pre, index_t width, auto n) const {
    V const one = V::all(A(1));
    ((d_h * up) * (s * madd(gate, one - s, one))).store(d_pre, n);
    (d_h * (gate * s)).store(d_pre + width, n);
  }
};
template <class A>
struct hidden_vector<activation_kind::gelu, A> {
  using V = simd<A>;
  V x, s;
  template <class T>
  MOE_INLINE hidden_vector(T const* pre, index_t, auto n) : x(V::load(pre, n)), s(gelu_function<A>::gate(x)) {}
  MOE_INLINE V value() const { return x * s; }
  template <class T>
  MOE_INLINE void gradient(V d_h, T* d_pre, index_t, auto n) const {
    (d_h * gelu_function<A>::derivative(x, s)).store(d_pre, n);
  }
};
template <class A>
struct hidden_vector<activation_kind::relu, A> {
  using V = simd<A>;
  V x;
  template <class T>
  MOE_INLINE hidden_vector(T const* pre, index_t, auto n) : x(V::load(pre, n)) {}
  MOE_INLINE V value() const { return relu_function<A>::value(x); }
  template <class T>
  MOE_INLINE void gradient(V d_h, T* d_pre, index_t, auto n) const {
    relu_gradient(x, d_h).store(d_pre, n);
  }
};

/// The extents that both spaces check: h [rows, width], pre and d_pre [rows, matrices * width].
template <activation_kind K>
void check_hidden(auto const& pre, auto const& d_h, auto const& h, auto const& d_pre) {
  index_t const rows = h.template extent<0>(), width = h.template extent<1>();
  check_matrix("hidden_backward", "pre", pre, rows, input_matrices(K) * width);
  check_matrix("hidden_backward", "d_h", d_h, rows, width);
  check_matrix("hidden_backward", "d_pre", d_pre, rows, input_matrices(K) * width);
}
inline void check_hidden_slots(in<int, dyn> slot, auto const& weight, index_t rows, auto const& d_weight) {
  check_matrix("hidden_backward", "d_weight", d_weight, weight.template extent<0>(), weight.template extent<1>());
  expects(slot.extent<0>() >= rows, errc::shape_mismatch, "hidden_backward: slot has ", slot.extent<0>(), " elements, h has ", rows, " rows");
}
}  // namespace detail

/// The hidden units of a feed-forward layer once more, and the gradient of what they are computed from, in one pass over the rows:
///   h = act(pre),  d_pre = d_h act'(pre);   act: swiglu of the columns [0, width) (gate) and [width, 2 width) (up) of pre, or gelu, or relu, of pre
///
///   pre         [rows, input_matrices(K) width]  in
///   d_h         [rows, width]                    in
///   h           [rows, width]                    out
///   d_pre       as pre                           out
///
/// Alias   h may be the very same view as d_h; d_pre the very same as pre, or d_h be columns [0, width) of d_pre. Other overlaps give nonsense.
/// Edges   0 rows or columns write nothing; NaN and infinities as in activation.hpp.
/// Throws  shape_mismatch if extents disagree.
/// Order   an element by itself: the bits of the activation and of its backward, one after the other, for any number of threads and any strides.
/// Cost    each argument is read or written once; one exponential per element of h, except for relu.
template <activation_kind K, class T>
void hidden_backward(cpu const& space, in<T, dyn, dyn> pre, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> h, tensor<T, dyn, dyn> d_pre) {
  using A = accumulator<T>;
  using V = simd<A>;
  detail::check_hidden<K>(pre, d_h, h, d_pre);
  index_t const width = h.template extent<1>();
  detail::matrix_vectors<A>(space, h.rows(), width, 30, [=](index_t r, index_t c, auto n) {
    detail::hidden_vector<K, A> const unit(pre.row(r) + c, width, n);
    V const d = V::load(d_h.row(r) + c, n);
    unit.value().store(h.row(r) + c, n);
    unit.gradient(d, d_pre.row(r) + c, width, n);
  });
}

/// The same for experts whose outputs are summed with weights and were not kept. d_h is the gradient of h as if every weight were 1; row r belongs to
/// choice slot[r] = t k + j, the output is linear in h, and so h says what the gradient of its weight is:
///   d_weight[t, j] = sum_c d_h[r, c] act(pre)[r, c],  exactly 0 for a choice without a row
///   h[r] = weight[t, j] act(pre[r]),  d_pre[r] = (weight[t, j] d_h[r]) act'(pre[r])
/// h is what the gradient of the output matrix needs. The activation, `weigh_rows` and the activation's backward give the same bits in three passes.
///
///   slot      [>= rows]    in   slot of a dispatch plan: distinct, in [0, tokens k), or -1 for a row that is skipped: nothing of it is read or written
///   weight    [tokens, k]  in   of a type of its own: float beside rows of bf16
///   d_weight  [tokens, k]  out  of the type of weight
///   others    as above
///
/// Edges   no rows, or none that has a slot: d_weight is 0. A weight of 0 does not hide a NaN.
/// Throws  shape_mismatch if extents disagree; bad_argument for a slot outside [-1, tokens k).
/// Order   d_weight: one chain of madd per vector lane over ascending columns, then a fixed tree. act(pre) and weight d_h are rounded to T before they
///         are used, as if they had been stored.
/// Source  Guo et al. 2025, SonicMoE, arXiv:2512.14080: dS = <dA', A>.
template <activation_kind K, class T, class TW, index_t W, index_t C>
void hidden_backward(cpu const& space, in<int, dyn> slot, in<TW, dyn, dyn> weight, in<T, dyn, dyn> pre, in<T, dyn, dyn> d_h, tensor<T, dyn, dyn> h,
                     tensor<T, dyn, dyn> d_pre, tensor<TW, W, C> const& d_weight) {
  using A = accumulator<T>;
  using V = simd<A>;
  detail::check_hidden<K>(pre, d_h, h, d_pre);
  detail::check_hidden_slots(slot, weight, h.rows(), d_weight);
  index_t const width = h.template extent<1>(), k = weight.template extent<1>(), slots = weight.size();
  if (index_t const r = detail::first_outside(slot.data(), h.rows(), -1, slots); r >= 0) [[unlikely]]
    fail(errc::bad_argument, "hidden_backward: slot[", r, "] = ", slot(r), ", needs to be in [-1, ", slots, ")");
  fill(space, d_weight, TW(0.0f));
  parallel_for(space, h.rows(), 34.0 * static_cast<double>(width), [&](index_t r) {
    if (slot(r) < 0) return;
    index_t const t = slot(r) / k, j = slot(r) % k;
    V const w = V::all(static_cast<A>(weight(t, j)));
    T const *from = pre.row(r), *gradient = d_h.row(r);
    T *to = h.row(r), *d_from = d_pre.row(r);
    V dot = V::zero();
    detail::row_vectors<A>(width, [&](index_t c, auto n) {
      detail::hidden_vector<K, A> const unit(from + c, width, n);
      V const x = detail::rounded<T>(unit.value()), y = V::load(gradient + c, n);
      dot = madd(x, y, dot);
      (x * w).store(to + c, n);
      unit.gradient(detail::rounded<T>(y * w), d_from + c, width, n);
    });
    d_weight(t, j) = TW(sum(dot));
  });
}

}  // namespace moe::inline MOE_ISA
