#pragma once
#include <moe/core/buffer.hpp>
#include <moe/nn/detail/vectors.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// 1 / sqrt(mean x^2 + eps) where the squares overflow A.
template <class A, class T>
A rstd_of_large(T const* x, index_t d, A eps) {
  using W = wider<A>;
  W sum = 0;
  for (index_t c = 0; c < d; ++c) sum = std::fma(W(A(x[c])), W(A(x[c])), sum);
  return static_cast<A>(W(1) / std::sqrt(sum / static_cast<W>(d) + W(eps)));
}

template <class A, class T>
A row_rstd(T const* x, index_t d, A eps) {
  using V = simd<A>;
  A const sum = row_sum<A>(d, [&](V s, index_t c, auto n) {
    V const v = V::load(x + c, n);
    return madd(v, v, s);
  });
  if (sum > std::numeric_limits<A>::max()) return rstd_of_large(x, d, eps);
  return A(1) / std::sqrt(sum / static_cast<A>(std::max<index_t>(d, 1)) + eps);
}

/// One row of rms_norm_backward; adds d_y * x * rstd to `partial`.
template <class A, class T>
void rms_norm_backward_row(T const* d_y, T const* x, T const* w, A rstd, T* d_x, A* partial, index_t d) {
  using V = simd<A>;
  V const r = V::all(rstd);
  A const dot = row_sum<A>(d, [&](V s, index_t c, auto n) { return madd(V::load(d_y + c, n) * V::load(w + c, n), V::load(x + c, n) * r, s); });
  V const mean = V::all(dot / static_cast<A>(d));
  row_vectors<A>(d, [&](index_t c, auto n) {
    V const dy = V::load(d_y + c, n), unit = V::load(x + c, n) * r;
    madd(dy, unit, V::load(partial + c, n)).store(partial + c, n);
    (r * madd(-mean, unit, dy * V::load(w + c, n))).store(d_x + c, n);
  });
}

template <class A>
void check_rms_norm(auto const& x, auto const& weight, A eps, auto const& y, auto const& rstd) {
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  check_vector("rms_norm", "weight", weight, d);
  check_matrix("rms_norm", "y", y, tokens, d);
  check_vector("rms_norm", "rstd", rstd, tokens);
  expects(eps >= 0 && eps <= std::numeric_limits<A>::max(), errc::bad_argument, "rms_norm: eps is ", eps, ", needs to be finite and not negative");
}
void check_rms_norm_backward(auto const& d_y, auto const& x, auto const& weight, auto const& rstd, auto const& d_x, auto const& d_weight) {
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  check_matrix("rms_norm_backward", "d_y", d_y, tokens, d);
  check_vector("rms_norm_backward", "weight", weight, d);
  check_vector("rms_norm_backward", "rstd", rstd, tokens);
  check_matrix("rms_norm_backward", "d_x", d_x, tokens, d);
  check_vector("rms_norm_backward", "d_weight", d_weight, d);
}
}  // namespace detail

/// Root-mean-square norm of each row:  y[t, c] = x[t, c] rstd[t] weight[c],  rstd[t] = 1 / sqrt(mean_c x[t, c]^2 + eps)
///
///   x       [tokens, d]   in
///   weight  [d]           in
///   y       [tokens, d]   out  may be the very same view as x
///   rstd    [tokens]      out  for the backward
///
/// Edges   tokens == 0 writes nothing. A row of finite numbers whose squares overflow is summed in the next wider type. A row of zeros gives zeros
///         if eps > 0. A NaN or an infinity makes its row NaN or leaves a NaN in it.
/// Throws  shape_mismatch if the shapes differ; bad_argument unless eps is finite and not negative.
/// Order   one worker per row; sums over d in accumulator<T> by lanes and a fixed tree that depends on d alone.
/// Cost    reads 2 tokens * d elements (the second time from cache), writes tokens * d.
/// Source  Zhang and Sennrich 2019, arXiv:1910.07467.
template <class T>
void rms_norm(cpu const& space, in<T, dyn, dyn> x, in<T, dyn> weight, accumulator<T> eps, tensor<T, dyn, dyn> y, tensor<accumulator<T>, dyn> rstd) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  detail::check_rms_norm(x, weight, eps, y, rstd);
  parallel_for(space, tokens, 2.0 * static_cast<double>(d), [&](index_t t) {
    T const *from = x.row(t), *w = weight.data();
    T* to = y.row(t);
    A const r = detail::row_rstd(from, d, eps);
    rstd.data()[t] = r;
    detail::row_vectors<A>(d, [&](index_t c, auto n) { ((V::load(from + c, n) * V::all(r)) * V::load(w + c, n)).store(to + c, n); });
  });
}

/// Bytes of scratch of rms_norm_backward.
template <class T>
std::size_t rms_norm_backward_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t d) {
  arena measure;
  measure.mat<accumulator<T>>(detail::chunks(tokens, detail::norm_chunk), d);
  return measure.peak();
}

/// Gradients of rms_norm, with u[t, c] = x[t, c] rstd[t]:
///   d_x[t, c]    = rstd[t] (weight[c] d_y[t, c] - u[t, c] mean_i(weight[i] d_y[t, i] u[t, i]))
///   d_weight[c] += sum_t d_y[t, c] u[t, c]
///
///   d_y, x  [tokens, d]   in
///   weight  [d]           in
///   rstd    [tokens]      in   of the forward
///   d_x     [tokens, d]   out  overwritten; may be the very same view as d_y
///   d_weight [d]          in/out  added to; of type accumulator<T>: float where T is bf16
///
/// Edges   tokens == 0 changes nothing.
/// Throws  shape_mismatch if the shapes differ; out_of_memory if scratch holds less than rms_norm_backward_scratch_bytes.
/// Order   d_x: a row by itself. d_weight: chunks of 64 tokens, tokens ascending within a chunk, chunks ascending.
/// Cost    reads 5 tokens * d elements, two of them from cache; writes tokens * d.
template <class T>
void rms_norm_backward(cpu const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> x, in<T, dyn> weight, in<accumulator<T>, dyn> rstd,
                       tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn> d_weight, arena& scratch) {
  using A = accumulator<T>;
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>();
  detail::check_rms_norm_backward(d_y, x, weight, rstd, d_x, d_weight);
  if (tokens == 0 || d == 0) return;
  detail::check_scratch("rms_norm_backward", scratch, rms_norm_backward_scratch_bytes<T>(space, tokens, d));
  arena::scope const scope(scratch);
  auto const partials = scratch.mat<A>(detail::chunks(tokens, detail::norm_chunk), d);
  parallel_chunks(space, tokens, detail::norm_chunk, 8.0 * static_cast<double>(d), [&](index_t chunk, index_t begin, index_t end) {
    std::fill_n(partials.row(chunk), d, A(0));
    for (index_t t = begin; t < end; ++t)
      detail::rms_norm_backward_row(d_y.row(t), x.row(t), weight.data(), rstd.data()[t], d_x.row(t), partials.row(chunk), d);
  });
  detail::add_row_sums(space, partials, d_weight);
}

}  // namespace moe::inline MOE_ISA
