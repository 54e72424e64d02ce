#pragma once
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/nn/hidden_backward.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <activation_kind K, class T>
void activate_rows(index_t begin, index_t end, tensor<T, dyn, dyn> pre, tensor<T, dyn, dyn> h) {
  using A = accumulator<T>;
  index_t const width = h.template extent<1>();
  for (index_t r = begin; r < end; ++r) {
    T const* const from = pre.row(r);
    T* const to = h.row(r);
    row_vectors<A>(width, [&](index_t c, auto n) { hidden_vector<K, A>(from + c, width, n).value().store(to + c, n); });
  }
}
}  // namespace detail

/// Up-projection and activation of a feed-forward layer whose weights lie in panels:  pre[r] = x[r] w[e]^T,  h[r] = act(pre[r])  for the rows of expert e.
/// A thread computes h from rows of pre as soon as it has them, so that pre is not read from memory again; with few rows for the threads, or more than
/// 4096 columns, in a pass of its own.
///
///   x        [rows, in]                                    in   sorted by expert, or read through `gather`, as for grouped_gemm
///   offsets  [experts + 1]                                 in   as for grouped_gemm
///   w        [experts, input_matrices(K) width, in]        in   panel_layout<T>; swiglu: outputs [0, width) are gate, the others up
///   pre      [rows, input_matrices(K) width]               out  what backward needs; must not overlap another argument
///   h        [rows, width]                                 out  rows behind the last offset are not touched, as in pre
///
/// Edges   as grouped_gemm.
/// Throws  as grouped_gemm, for scratch of packed_gemm_scratch_bytes.
/// Order   the bits of grouped_gemm and of the activation, one after the other.
/// Cost    those of grouped_gemm, one exponential per element of h (relu: none), and h written once.
template <activation_kind K, class T>
void hidden_forward(cpu const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, std::type_identity_t<packed_weights<T const>> w,
                    tensor<T, dyn, dyn> pre, tensor<T, dyn, dyn> h, arena& scratch, in<int, dyn> gather = {}) {
  constexpr index_t matrices = detail::input_matrices(K);
  auto const [experts, rows, n, k] = detail::check_grouped_gemm<grouped_gemm_config{}>(x, offsets, w, pre, gather);
  detail::check_offsets("hidden_forward", offsets, experts, rows);
  detail::check_lines("hidden_forward", "x", gather, offsets(experts), x.template extent<0>());
  index_t const width = n / matrices;
  expects(n % matrices == 0, errc::shape_mismatch, "hidden_forward: w has ", n, " outputs, needs an even number");
  detail::check_matrix("hidden_forward", "h", h, rows, width);
  auto const after = [&](index_t e, index_t begin, index_t end) { detail::activate_rows<K, T>(offsets(e) + begin, offsets(e) + end, pre, h); };
  if (detail::multiply_panels<false, T>("hidden_forward", space, x, offsets, w, pre, scratch, gather, after)) return;
  parallel_for(space, offsets(experts), 16.0 * static_cast<double>(width), [&](index_t r) { detail::activate_rows<K, T>(r, r + 1, pre, h); });
}

/// The same with one weight [1, input_matrices(K) width, in] for all rows.
template <activation_kind K, class T>
void hidden_forward(cpu const& space, in<T, dyn, dyn> x, std::type_identity_t<packed_weights<T const>> w, tensor<T, dyn, dyn> pre,
                    tensor<T, dyn, dyn> h, arena& scratch) {
  index_t const offsets[] = {0, pre.rows()};
  hidden_forward<K, T>(space, x, tensor<index_t const, dyn>(offsets, 2), w, pre, h, scratch);
}

}  // namespace moe::inline MOE_ISA
