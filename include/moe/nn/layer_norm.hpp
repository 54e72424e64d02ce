#pragma once
#include <moe/core/buffer.hpp>
#include <moe/nn/detail/vectors.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <class A>
struct row_moments {
  A mean, rstd;
};

/// Where a sum overflows A.
template <class A, class T>
row_moments<A> moments_of_large(T const* x, index_t d, A eps) {
  using W = wider<A>;
  W const n = static_cast<W>(d);
  W sum = 0, squares = 0;
  for (index_t c = 0; c < d; ++c) sum += W(A(x[c]));
  for (index_t c = 0; c < d; ++c) squares = std::fma(W(A(x[c])) - sum / n, W(A(x[c])) - sum / n, squares);
  return {static_cast<A>(sum / n), static_cast<A>(W(1) / std::sqrt(squares / n + W(eps)))};
}

template <class A, class T>
row_moments<A> moments_of(T const* x, index_t d, A eps) {
  using V = simd<A>;
  A const n = static_cast<A>(std::max<index_t>(d, 1));
  A const mean = row_sum<A>(d, [&](V s, index_t c, auto count) { return s + V::load(x + c, count); }) / n;
  A const squares = row_sum<A>(d, [&](V s, index_t c, auto count) {
    V const v = V::load(x + c, count) - first_lanes(mean, count);
    return madd(v, v, s);
  });
  if (!(squares <= std::numeric_limits<A>::max())) return moments_of_large(x, d, eps);  // also where the mean overflowed; NaN stays
  return {mean, A(1) / std::sqrt(squares / n + eps)};
}

/// One row of layer_norm_backward; adds d_y * unit to partial[0 .. d) and d_y to partial[d .. 2d).
template <class A, class T>
void layer_norm_backward_row(T const* d_y, T const* x, T const* w, row_moments<A> m, T* d_x, A* partial, index_t d) {
  using V = simd<A>;
  V const r = V::all(m.rstd), mean = V::all(m.mean);
  auto const gradient = [&](index_t c, auto n) { return V::load(d_y + c, n) * V::load(w + c, n); };
  A const total = row_sum<A>(d, [&](V s, index_t c, auto n) { return madd(V::load(d_y + c, n), V::load(w + c, n), s); });
  A const dot = row_sum<A>(d, [&](V s, index_t c, auto n) { return madd(gradient(c, n), (V::load(x + c, n) - mean) * r, s); });
  V const mean_gradient = V::all(total / static_cast<A>(d)), mean_dot = V::all(dot / static_cast<A>(d));
  row_vectors<A>(d, [&](index_t c, auto n) {
    V const dy = V::load(d_y + c, n), unit = (V::load(x + c, n) - mean) * r, g = madd(dy, V::load(w + c, n), -mean_gradient);
    madd(dy, unit, V::load(partial + c, n)).store(partial + c, n);
    (V::load(partial + d + c, n) + dy).store(partial + d + c, n);
    (r * madd(-mean_dot, unit, g)).store(d_x + c, n);
  });
}

template <class A>
void check_layer_norm(auto const& x, auto const& weight, auto const& bias, A eps, auto const& y, auto const& mean, auto const& rstd) {
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  check_vector("layer_norm", "weight", weight, d);
  check_vector("layer_norm", "bias", bias, d);
  check_matrix("layer_norm", "y", y, tokens, d);
  check_vector("layer_norm", "mean", mean, tokens);
  check_vector("layer_norm", "rstd", rstd, tokens);
  expects(eps >= 0 && eps <= std::numeric_limits<A>::max(), errc::bad_argument, "layer_norm: eps is ", eps, ", needs to be finite and not negative");
}
void check_layer_norm_backward(auto const& d_y, auto const& x, auto const& weight, auto const& mean, auto const& rstd, auto const& d_x,
                               auto const& d_weight, auto const& d_bias) {
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  check_matrix("layer_norm_backward", "d_y", d_y, tokens, d);
  check_vector("layer_norm_backward", "weight", weight, d);
  check_vector("layer_norm_backward", "mean", mean, tokens);
  check_vector("layer_norm_backward", "rstd", rstd, tokens);
  check_matrix("layer_norm_backward", "d_x", d_x, tokens, d);
  check_vector("layer_norm_backward", "d_weight", d_weight, d);
  check_vector("layer_norm_backward", "d_bias", d_bias, d);
}
}  // namespace detail

/// Layer norm of each row:  y[t, c] = (x[t, c] - mean[t]) rstd[t] weight[c] + bias[c],  rstd[t] = 1 / sqrt(mean_c (x[t, c] - mean[t])^2 + eps)
///
///   x             [tokens, d]   in
///   weight, bias  [d]           in
///   y             [tokens, d]   out  may be the very same view as x
///   mean, rstd    [tokens]      out  for the backward
///
/// Edges   tokens == 0 writes nothing. A row of finite numbers whose sum or squares overflow is summed in the next wider type. A constant row
///         gives the bias if eps > 0 (exactly where its mean is exact). A NaN or an infinity makes its row NaN.
/// Throws  shape_mismatch if the shapes differ; bad_argument unless eps is finite and not negative.
/// Order   one worker per row; the mean first, then the squares, in accumulator<T> by lanes and a fixed tree that depends on d alone.
/// Cost    reads 3 tokens * d elements (all but the first time from cache), writes tokens * d.
/// Source  Ba, Kiros and Hinton 2016, arXiv:1607.06450.
template <class T>
void layer_norm(cpu const& space, in<T, dyn, dyn> x, in<T, dyn> weight, in<T, dyn> bias, accumulator<T> eps, tensor<T, dyn, dyn> y,
                tensor<accumulator<T>, dyn> mean, tensor<accumulator<T>, dyn> rstd) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  detail::check_layer_norm(x, weight, bias, eps, y, mean, rstd);
  parallel_for(space, tokens, 4.0 * static_cast<double>(d), [&](index_t t) {
    T const *from = x.row(t), *w = weight.data(), *b = bias.data();
    T* to = y.row(t);
    auto const m = detail::moments_of(from, d, eps);
    mean.data()[t] = m.mean, rstd.data()[t] = m.rstd;
    detail::row_vectors<A>(d, [&](index_t c, auto n) {
      madd((V::load(from + c, n) - V::all(m.mean)) * V::all(m.rstd), V::load(w + c, n), V::load(b + c, n)).store(to + c, n);
    });
  });
}

/// Bytes of scratch of layer_norm_backward.
template <class T>
std::size_t layer_norm_backward_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t d) {
  arena measure;
  measure.mat<accumulator<T>>(detail::chunks(tokens, detail::norm_chunk), detail::elements(2, d));
  return measure.peak();
}

/// Gradients of layer_norm, with u[t, c] = (x[t, c] - mean[t]) rstd[t] and g[t, c] = weight[c] d_y[t, c]:
///   d_x[t, c]    = rstd[t] (g[t, c] - mean_i g[t, i] - u[t, c] mean_i(g[t, i] u[t, i]))
///   d_weight[c] += sum_t d_y[t, c] u[t, c]
///   d_bias[c]   += sum_t d_y[t, c]
///
///   d_y, x      [tokens, d]   in
///   weight      [d]           in
///   mean, rstd  [tokens]      in   of the forward
///   d_x         [tokens, d]   out  overwritten; may be the very same view as d_y
///   d_weight, d_bias [d]      in/out  added to; of type accumulator<T>: float where T is bf16
///
/// Edges   tokens == 0 changes nothing.
/// Throws  shape_mismatch if the shapes differ; out_of_memory if scratch holds less than layer_norm_backward_scratch_bytes.
/// Order   d_x: a row by itself. d_weight, d_bias: chunks of 64 tokens, tokens ascending within a chunk, chunks ascending.
/// Cost    reads 7 tokens * d elements, all but two from cache; writes tokens * d.
template <class T>
void layer_norm_backward(cpu const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> x, in<T, dyn> weight, in<accumulator<T>, dyn> mean,
                         in<accumulator<T>, dyn> rstd, tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn> d_weight,
                         tensor<accumulator<T>, dyn> d_bias, arena& scratch) {
  using A = accumulator<T>;
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  detail::check_layer_norm_backward(d_y, x, weight, mean, rstd, d_x, d_weight, d_bias);
  if (tokens == 0 || d == 0) return;
  detail::check_scratch("layer_norm_backward", scratch, layer_norm_backward_scratch_bytes<T>(space, tokens, d));
  arena::scope const scope(scratch);
  auto const partials = scratch.mat<A>(detail::chunks(tokens, detail::norm_chunk), 2 * d);
  parallel_chunks(space, tokens, detail::norm_chunk, 12.0 * static_cast<double>(d), [&](index_t chunk, index_t begin, index_t end) {
    std::fill_n(partials.row(chunk), 2 * d, A(0));
    for (index_t t = begin; t < end; ++t)
      detail::layer_norm_backward_row<A, T>(d_y.row(t), x.row(t), weight.data(), {mean.data()[t], rstd.data()[t]}, d_x.row(t), partials.row(chunk),
                                            d);
  });
  detail::add_row_sums(space, columns_of(partials, 0, d), d_weight);
  detail::add_row_sums(space, columns_of(partials, d, 2 * d), d_bias);
}

}  // namespace moe::inline MOE_ISA
