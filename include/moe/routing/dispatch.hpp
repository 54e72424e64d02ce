#pragma once
#include <algorithm>

#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/routing/dispatch_plan.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline void check_rows(char const* who, char const* name, index_t rows, index_t have, index_t columns, index_t needed_columns) {
  expects(have >= rows, errc::shape_mismatch, who, ": ", name, " has ", have, " rows, the plan has ", rows);
  expects(columns == needed_columns, errc::shape_mismatch, who, ": ", name, " has ", columns, " columns, needs ", needed_columns);
}

/// The rows of a plan whose memory the host can read; 0 if its extents are wrong, which check_plan reports.
inline index_t known_rows(dispatch_plan const& plan) { return plan.offsets.extent<0>() == plan.experts() + 1 ? plan.rows() : 0; }

/// Throws unless a plan holds what make_dispatch writes for so many tokens: its rows, and for each the token, or for each choice the row.
inline void check_filled(char const* who, dispatch_plan const& plan) {
  expects(plan.rows() >= 0 && plan.rows() <= plan.slots(), errc::bad_argument, who, ": plan has ", plan.rows(), " rows of ", plan.slots(),
          " choices: not what make_dispatch wrote");
}
inline void check_tokens_of_rows(char const* who, dispatch_plan const& plan, index_t tokens) {
  check_filled(who, plan);
  index_t const r = first_outside(plan.token.data(), plan.rows(), 0, tokens);
  expects(r < 0, errc::bad_argument, who, ": plan.token[", r, "] is ", r < 0 ? 0 : plan.token(r), ", needs to be in [0, ", tokens, ")");
}
inline void check_rows_of_slots(char const* who, dispatch_plan const& plan) {
  check_filled(who, plan);
  index_t const s = first_outside(plan.position.data(), plan.slots(), -1, plan.rows());
  expects(s < 0, errc::bad_argument, who, ": plan.position[", s, "] is ", s < 0 ? 0 : plan.position(s), ", needs to be in [-1, ", plan.rows(), ")");
}

// What both spaces check. `rows`: those of the plan, as far as the space can know them without looking into its memory.
inline void check_dispatched(dispatch_plan const& plan, index_t rows, auto const& x, auto const& xs) {
  index_t const tokens = x.template extent<0>();
  expects(plan.slots() == tokens * plan.k, errc::shape_mismatch, "dispatch: plan is for ", plan.slots(), " choices, x has ", tokens, " tokens");
  check_choices("dispatch", plan, tokens, plan.k);
  check_rows("dispatch", "xs", rows, xs.template extent<0>(), xs.template extent<1>(), x.template extent<1>());
}
inline void check_dispatch_backward(dispatch_plan const& plan, index_t rows, index_t k, auto const& d_xs, auto const& d_x) {
  check_choices("dispatch_backward", plan, d_x.template extent<0>(), k);
  check_rows("dispatch_backward", "d_xs", rows, d_xs.template extent<0>(), d_xs.template extent<1>(), d_x.template extent<1>());
}
inline void check_combine(dispatch_plan const& plan, index_t rows, auto const& ys, auto const& weight, auto const& y) {
  index_t const tokens = y.template extent<0>();
  expects(weight.template extent<0>() == tokens, errc::shape_mismatch, "combine: weight has ", weight.template extent<0>(), " rows, y has ", tokens);
  check_choices("combine", plan, tokens, weight.template extent<1>());
  check_rows("combine", "ys", rows, ys.template extent<0>(), ys.template extent<1>(), y.template extent<1>());
}
inline void check_combine_backward(dispatch_plan const& plan, index_t rows, auto const& d_y, auto const& ys, auto const& weight, auto const& d_ys,
                                   auto const& d_weight) {
  index_t const tokens = d_y.template extent<0>(), d = d_y.template extent<1>(), k = weight.template extent<1>();
  expects(weight.template extent<0>() == tokens, errc::shape_mismatch, "combine_backward: weight has ", weight.template extent<0>(),
          " rows, d_y has ", tokens);
  expects(d_weight.template extent<0>() == tokens && d_weight.template extent<1>() == k, errc::shape_mismatch, "combine_backward: d_weight is [",
          d_weight.template extent<0>(), ", ", d_weight.template extent<1>(), "], weight is [", tokens, ", ", k, "]");
  check_choices("combine_backward", plan, tokens, k);
  check_rows("combine_backward", "ys", rows, ys.template extent<0>(), ys.template extent<1>(), d);
  check_rows("combine_backward", "d_ys", rows, d_ys.template extent<0>(), d_ys.template extent<1>(), d);
}

/// y[t] = sum_j weight(t, j) x[position[t k + j]], j ascending, dropped choices left out.
template <class T, class Weight>
void sum_choices(cpu const& space, tensor<T const, dyn, dyn> x, dispatch_plan const& plan, index_t k, tensor<T, dyn, dyn> y, Weight const& weight) {
  using A = accumulator<T>;
  using V = simd<A>;
  constexpr int vectors = 4;  // a block of columns whose sums stay in registers over all j
  index_t const tokens = y.template extent<0>(), d = y.template extent<1>();
  parallel_for(space, tokens, static_cast<double>(2 * k * d), [&](index_t t) {
    int const* position = plan.position.data() + t * k;
    for (index_t c = 0; c < d; c += vectors * V::width) {
      V sum[vectors] = {};
      for (index_t j = 0; j < k; ++j) {
        if (position[j] < 0) continue;
        V const w = V::all(weight(t, j));
        T const* row = x.row(position[j]);
        for (int v = 0; v < vectors; ++v) {
          index_t const at = c + v * V::width;
          if (at < d) sum[v] = madd(w, V::load(row + at, d - at), sum[v]);
        }
      }
      for (int v = 0; v < vectors; ++v) {
        index_t const at = c + v * V::width;
        if (at < d) sum[v].store(y.row(t) + at, d - at);
      }
    }
  });
}
}  // namespace detail

/// Gathers the rows of the experts:  xs[r] = x[token[r]].
///
///   x     [tokens, d]  in
///   plan               in   from make_dispatch for these tokens
///   xs    [rows, d]    out  rows >= plan.rows(), those behind the last are not touched; must not overlap x
///
/// Edges   no rows: writes nothing.
/// Throws  shape_mismatch if extents disagree with the plan; bad_argument if the plan holds what make_dispatch did not write for them.
/// Cost    copies plan.rows() * d elements. What grouped_gemm's `gather` argument does without the copy.
template <class T, index_t R, index_t D>
void dispatch(cpu const& space, in<T, dyn, dyn> x, dispatch_plan const& plan, tensor<T, R, D> const& xs) {
  index_t const d = x.template extent<1>();
  detail::check_dispatched(plan, detail::known_rows(plan), x, xs);
  detail::check_tokens_of_rows("dispatch", plan, x.template extent<0>());
  parallel_for(space, plan.rows(), static_cast<double>(d), [&](index_t r) { std::copy_n(x.row(plan.token(r)), d, xs.row(r)); });
}

/// Gradient of dispatch:  d_x[t] = sum_j d_xs[position[t k + j]].
///
///   d_xs  [rows, d]    in   rows >= plan.rows()
///   plan, k            in   of the forward
///   d_x   [tokens, d]  out  overwritten; a token whose choices were all dropped gets zeros
///
/// Throws  shape_mismatch if extents disagree with the plan; bad_argument if the plan holds what make_dispatch did not write for them.
/// Order   j ascending from 0, in accumulator<T>, rounded once.
template <class T, index_t R, index_t D>
void dispatch_backward(cpu const& space, in<T, dyn, dyn> d_xs, dispatch_plan const& plan, index_t k, tensor<T, R, D> const& d_x) {
  detail::check_dispatch_backward(plan, detail::known_rows(plan), k, d_xs, d_x);
  detail::check_rows_of_slots("dispatch_backward", plan);
  detail::sum_choices<T>(space, d_xs, plan, k, d_x, [](index_t, index_t) { return accumulator<T>(1); });
}

/// Weighs and adds what the experts gave:  y[t] = sum_j weight[t, j] ys[position[t k + j]].
///
///   ys      [rows, d]    in   rows >= plan.rows()
///   weight  [tokens, k]  in   of a type of its own: float beside rows of bf16
///   plan                 in   from make_dispatch for these tokens
///   y       [tokens, d]  out  overwritten; a token whose choices were all dropped gets zeros; must not overlap ys
///
/// Edges   dropped choices count as zero, whatever their weight. A weight of 0 does not hide a NaN in ys.
/// Throws  shape_mismatch if extents disagree with the plan; bad_argument if the plan holds what make_dispatch did not write for them.
/// Order   one chain of madd from 0, j ascending, in accumulator<T>, rounded once.
/// Cost    2 plan.rows() d flops; reads each row once.
template <class T, class TW, index_t W, index_t K, index_t R, index_t D>
void combine(cpu const& space, in<T, dyn, dyn> ys, tensor<TW, W, K> const& weight, dispatch_plan const& plan, tensor<T, R, D> const& y) {
  detail::check_combine(plan, detail::known_rows(plan), ys, weight, y);
  detail::check_rows_of_slots("combine", plan);
  detail::sum_choices<T>(space, ys, plan, plan.k, y, [&](index_t t, index_t j) { return accumulator<T>(weight(t, j)); });
}

/// Gradient of combine, with r = position[t k + j]:
///   d_ys[r] = weight[t, j] d_y[t],  d_weight[t, j] = sum_c d_y[t, c] ys[r, c],  exactly 0 for a dropped choice
///
///   d_y       [tokens, d]  in
///   ys        [rows, d]    in
///   weight    [tokens, k]  in   of a type of its own, which is that of d_weight
///   d_ys      [rows, d]    out  may be ys itself; rows behind plan.rows() are not touched
///   d_weight  [tokens, k]  out
///
/// Throws  shape_mismatch if extents disagree with the plan; bad_argument if the plan holds what make_dispatch did not write for them.
/// Order   d_weight: one chain of madd per vector lane over ascending columns, then a fixed tree; independent of all other rows.
/// Cost    3 plan.rows() d flops, one pass.
template <class T, class TW, index_t R, index_t D, index_t W, index_t K>
void combine_backward(cpu const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> ys, in<TW, dyn, dyn> weight, dispatch_plan const& plan,
                      tensor<T, R, D> const& d_ys, tensor<TW, W, K> const& d_weight) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const tokens = d_y.template extent<0>(), d = d_y.template extent<1>(), k = weight.template extent<1>();
  detail::check_combine_backward(plan, detail::known_rows(plan), d_y, ys, weight, d_ys, d_weight);
  detail::check_rows_of_slots("combine_backward", plan);
  parallel_for(space, tokens, static_cast<double>(3 * k * d), [&](index_t t) {
    T const* g = d_y.row(t);
    for (index_t j = 0; j < k; ++j) {
      int const r = plan.position(t * k + j);
      V dot = V::zero();
      V const w = V::all(A(weight(t, j)));
      for (index_t c = 0; r >= 0 && c < d; c += V::width) {
        V const gc = V::load(g + c, d - c);
        dot = madd(gc, V::load(ys.row(r) + c, d - c), dot);
        (w * gc).store(d_ys.row(r) + c, d - c);
      }
      d_weight(t, j) = TW(sum(dot));
    }
  });
}

}  // namespace moe::inline MOE_ISA
