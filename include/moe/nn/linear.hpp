#pragma once
#include <moe/gemm/gemm.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/nn/layer.hpp>

namespace moe::inline MOE_ISA::nn {

/// y = x w^T, and its gradients: the products every layer with a weight w [out, in] is made of. w is what parameter_list::at gives in the space: packed
/// weights or a matrix. y may be accumulator<T>, which is not rounded.
template <class T, class S, class W, class TY>
void linear(S const& space, matrix_view<T const> x, W const& w, matrix_view<TY> y, arena& scratch) {
  gemm<gemm_config{.transpose_b = true}>(space, x, w, y, scratch);
}
/// d_x = d_y w (Accumulate: added to d_x).
template <class T, bool Accumulate = false, class S, class W>
void linear_input_gradient(S const& space, W const& w, matrix_view<T const> d_y, matrix_view<T> d_x, arena& scratch) {
  gemm<gemm_config{.accumulate = Accumulate}>(space, d_y, w, d_x, scratch);
}
/// g += d_y^T x.
template <class T, class S, class G>
void linear_weight_gradient(S const& space, matrix_view<T const> x, matrix_view<T const> d_y, G const& g, arena& scratch) {
  gemm<gemm_config{.transpose_a = true, .accumulate = true}>(space, d_y, x, g, scratch);
}
/// Both.
template <class T, bool Accumulate = false, class S, class W, class G>
void linear_backward(S const& space, matrix_view<T const> x, W const& w, matrix_view<T const> d_y, matrix_view<T> d_x, G const& g, arena& scratch) {
  linear_weight_gradient<T>(space, x, d_y, g, scratch);
  linear_input_gradient<T, Accumulate>(space, w, d_y, d_x, scratch);
}
/// Scratch of linear and linear_backward for a weight [out, in] of layout::product and `rows` rows, or, as Order says, for a row-major one.
template <class T, layout Order, class S>
std::size_t linear_scratch_bytes(S const& space, index_t rows, index_t out, index_t in_columns) {
  using A = accumulator<T>;
  if constexpr (keeps_panels<S> && Order == layout::product) return packed_gemm_scratch_bytes<T>(space, 1, rows, out, in_columns);
  else
    return std::max({gemm_scratch_bytes<T>(space, rows, out, in_columns), gemm_scratch_bytes<A>(space, rows, out, in_columns),
                     gemm_scratch_bytes<T>(space, rows, in_columns, out), gemm_scratch_bytes<A>(space, out, in_columns, rows)});
}
/// The same for the products of grouped_gemm with `count` weights and `rows` rows in all.
template <class T, class S>
std::size_t grouped_linear_scratch_bytes(S const& space, index_t count, index_t rows, index_t out, index_t in_columns) {
  if constexpr (keeps_panels<S>) return packed_gemm_scratch_bytes<T>(space, count, rows, out, in_columns);
  else
    return std::max({grouped_gemm_scratch_bytes<T>(space, count, out, in_columns), grouped_gemm_scratch_bytes<T>(space, count, in_columns, out),
                     grouped_gemm_weight_gradient_scratch_bytes<accumulator<T>>(space, count, rows, in_columns)});
}

}  // namespace moe::inline MOE_ISA::nn
