#pragma once
#include <moe/core/detail/check.hpp>
#include <moe/core/elementwise.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/routing/detail/expert_ids.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// What both spaces check: extents. The slots themselves are data.
inline void check_weigh_rows(in<int, dyn> slot, auto const& weight, auto const& h, auto const& d_h, auto const& d_weight) {
  index_t const rows = h.template extent<0>();
  check_matrix("weigh_rows", "d_h", d_h, rows, h.template extent<1>());
  check_matrix("weigh_rows", "d_weight", d_weight, weight.template extent<0>(), weight.template extent<1>());
  expects(slot.extent<0>() >= rows, errc::shape_mismatch, "weigh_rows: slot has ", slot.extent<0>(), " elements, h has ", rows, " rows");
}
}  // namespace detail

/// Gradient of the combine weights where the experts' outputs were not kept: their hidden units h, and d_h, the gradient of h as if every weight were
/// 1, say the same, since the output is linear in h. Row r belongs to choice slot[r] = t k + j:
///   d_weight[t, j] = sum_c d_h[r, c] h[r, c],  exactly 0 for a choice without a row;  then  h[r] *= weight[t, j],  d_h[r] *= weight[t, j]
/// After it h is what the gradient of the output matrix needs, and d_h is the gradient of h.
///
///   slot      [>= rows]      in      slot of a dispatch plan: distinct, in [0, tokens k), or -1 for a row that is skipped and not touched
///   weight    [tokens, k]    in      of a type of its own: float beside h of bf16
///   h, d_h    [rows, width]  in out  must not overlap
///   d_weight  [tokens, k]    out     of the type of weight
///
/// Edges   no rows, or none that has a slot: d_weight is 0. A weight of 0 does not hide a NaN.
/// Throws  shape_mismatch if extents disagree; bad_argument for a slot outside [-1, tokens k).
/// Order   d_weight: one chain of madd per vector lane over ascending columns, then a fixed tree; the products are rounded once.
/// Cost    4 rows width flops, one pass: h and d_h are read and written once.
/// Source  Guo et al. 2025, SonicMoE, arXiv:2512.14080: dS = <dA', A>.
template <class T, class TW, index_t W, index_t K>
void weigh_rows(cpu const& space, in<int, dyn> slot, in<TW, dyn, dyn> weight, tensor<T, dyn, dyn> h, tensor<T, dyn, dyn> d_h,
                tensor<TW, W, K> const& d_weight) {
  using A = accumulator<T>;
  using V = simd<A>;
  detail::check_weigh_rows(slot, weight, h, d_h, d_weight);
  index_t const width = h.template extent<1>(), k = weight.template extent<1>(), slots = weight.size();
  if (index_t const r = detail::first_outside(slot.data(), h.rows(), -1, slots); r >= 0) [[unlikely]]
    fail(errc::bad_argument, "weigh_rows: slot[", r, "] = ", slot(r), ", needs to be in [-1, ", slots, ")");
  fill(space, d_weight, TW(0.0f));
  parallel_for(space, h.rows(), 4.0 * static_cast<double>(width), [&](index_t r) {
    if (slot(r) < 0) return;
    index_t const t = slot(r) / k, j = slot(r) % k;
    V const w = V::all(static_cast<A>(weight(t, j)));
    T *a = h.row(r), *b = d_h.row(r);
    V dot = V::zero();
    for (index_t c = 0; c < width; c += V::width) {
      V const x = V::load(a + c, width - c), y = V::load(b + c, width - c);
      dot = madd(x, y, dot);
      (x * w).store(a + c, width - c);
      (y * w).store(b + c, width - c);
    }
    d_weight(t, j) = TW(sum(dot));
  });
}

}  // namespace moe::inline MOE_ISA
