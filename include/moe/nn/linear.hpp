#pragma once
#include <moe/gemm/gemm.hpp>
#include <moe/nn/layer.hpp>

namespace moe::inline MOE_ISA::nn {

/// y = x w^T, and its gradients: the products every layer with a weight w [out, in] is made of. y may be accumulator<T>, which is not rounded.
template <class S, class T, class TY>
void linear(S const& space, matrix_view<T const> x, matrix_view<T const> w, matrix_view<TY> y, arena& scratch) {
  gemm<gemm_config{.transpose_b = true}>(space, x, w, y, scratch);
}
/// d_x = d_y w (Accumulate: added to d_x), g += d_y^T x.
template <bool Accumulate = false, class S, class T>
void linear_backward(S const& space, matrix_view<T const> x, matrix_view<T const> w, matrix_view<T const> d_y, matrix_view<T> d_x,
                     matrix_view<accumulator<T>> g, arena& scratch) {
  gemm<gemm_config{.transpose_a = true, .accumulate = true}>(space, d_y, x, g, scratch);
  gemm<gemm_config{.accumulate = Accumulate}>(space, d_y, w, d_x, scratch);
}
/// Scratch of linear and linear_backward for a weight [out, in] and `rows` rows.
template <class T, class S>
std::size_t linear_scratch_bytes(S const& space, index_t rows, index_t out, index_t in_columns) {
  using A = accumulator<T>;
  return std::max({gemm_scratch_bytes<T>(space, rows, out, in_columns), gemm_scratch_bytes<A>(space, rows, out, in_columns),
                   gemm_scratch_bytes<T>(space, rows, in_columns, out), gemm_scratch_bytes<A>(space, out, in_columns, rows)});
}

}  // namespace moe::inline MOE_ISA::nn
