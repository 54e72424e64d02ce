#pragma once
#include <algorithm>
#include <climits>
#include <utility>

#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/routing/detail/expert_ids.hpp>

namespace moe::inline MOE_ISA {

/// Where each choice of a batch goes. Choice t k + j (a "slot") is the j-th expert of token t; kept choices become rows, sorted by expert, then by
/// slot. How many rows there are stands in the memory of the space; code that runs in any space takes slots(), the most that there can be.
struct dispatch_plan {
  vector_view<index_t> counts;   ///< [experts]      choices of each expert before capacity
  vector_view<index_t> offsets;  ///< [experts + 1]  rows of expert e are [offsets[e], offsets[e + 1])
  vector_view<int> token;        ///< [tokens * k]   token of each row; -1 behind the last row
  vector_view<int> slot;         ///< [tokens * k]   slot of each row; -1 behind the last row
  vector_view<int> position;     ///< [tokens * k]   row of each slot; -1 if dropped
  index_t k = 0;                 ///< choices per token

  index_t experts() const { return counts.extent<0>(); }
  index_t slots() const { return position.extent<0>(); }
  /// Choices kept. Reads the plan: only where the host reaches its memory, after space.wait(). Throws where the plan has no memory.
  index_t rows() const {
    expects(offsets.extent<0>() == experts() + 1, errc::shape_mismatch, "dispatch_plan: offsets has ", offsets.extent<0>(), " entries for ", experts(),
            " experts, needs one more");
    return offsets(experts());
  }
  index_t dropped() const { return slots() - rows(); }  ///< choices beyond capacity. As rows()

  /// Views for so many choices, not initialised. On a measuring arena: counts the bytes.
  static dispatch_plan take(arena& memory, index_t tokens, index_t k, index_t experts) {
    dispatch_plan p;
    p.counts = memory.vec<index_t>(experts);
    p.offsets = memory.vec<index_t>(experts + 1);
    index_t const slots = detail::elements(tokens, k);
    p.token = memory.vec<int>(slots);
    p.slot = memory.vec<int>(slots);
    p.position = memory.vec<int>(slots);
    p.k = k;
    return p;
  }
};

namespace detail {
/// Histograms of expert ids, one per chunk of tokens.
struct dispatch_scratch {
  static constexpr index_t chunk = 2048;  ///< tokens; where the results, being integers, do not depend on it
  matrix_view<index_t> histogram;         ///< [chunks, experts]
  dispatch_scratch(arena& memory, index_t tokens, index_t experts) : histogram(memory.mat<index_t>(chunks(tokens, chunk), experts)) {}
};

inline void check_plan(char const* who, dispatch_plan const& plan, index_t slots) {
  index_t const experts = plan.experts();
  expects(plan.offsets.extent<0>() == experts + 1, errc::shape_mismatch, who, ": plan.offsets has ", plan.offsets.extent<0>(), " entries for ",
          experts, " experts, needs one more");
  expects(plan.position.extent<0>() == slots && plan.token.extent<0>() == slots && plan.slot.extent<0>() == slots, errc::shape_mismatch, who,
          ": plan is for ", plan.position.extent<0>(), " choices, there are ", slots);
}

inline void check_choices(char const* who, dispatch_plan const& plan, index_t tokens, index_t k) {
  expects(k == plan.k, errc::shape_mismatch, who, ": plan is for ", plan.k, " choices per token, there are ", k);
  check_plan(who, plan, tokens * k);
}

inline void check_dispatch(in<int, dyn, dyn> expert, index_t capacity, dispatch_plan const& plan) {
  index_t const tokens = expert.extent<0>(), k = expert.extent<1>();
  expects(tokens * k <= INT_MAX, errc::bad_argument, "make_dispatch: ", tokens, " tokens of ", k, " choices, at most ", INT_MAX,
          " choices can be numbered");
  expects(capacity >= 0, errc::bad_argument, "make_dispatch: capacity is ", capacity, ", needs to be positive, or 0 for no limit");
  check_choices("make_dispatch", plan, tokens, k);
}

/// Turns the counts of each chunk into the row at which the chunk's first choice of each expert goes; fills counts and offsets.
inline void place_chunks(matrix_view<index_t> histogram, index_t capacity, dispatch_plan const& plan) {
  index_t const chunks = histogram.extent<0>(), experts = plan.experts();
  plan.offsets(0) = 0;
  for (index_t e = 0; e < experts; ++e) {
    index_t row = plan.offsets(e);
    for (index_t c = 0; c < chunks; ++c) row += std::exchange(histogram(c, e), row);
    plan.counts(e) = row - plan.offsets(e);
    plan.offsets(e + 1) = plan.offsets(e) + (capacity > 0 ? std::min(plan.counts(e), capacity) : plan.counts(e));
  }
}
}  // namespace detail

/// Bytes of scratch for make_dispatch.
inline std::size_t make_dispatch_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t experts) {
  arena measure;
  detail::dispatch_scratch(measure, tokens, experts);
  return measure.peak();
}

/// Sorts choices by expert, then by slot t k + j: a stable counting sort. With a capacity, the first `capacity` choices of each expert in slot order
/// are kept and the others dropped.
///
///   expert    [tokens, k]  in   in [0, experts); a row may name an expert twice: each choice is a row of its own
///   capacity               in   rows an expert takes at most; 0: no limit, nothing is dropped
///   plan                   out  views as dispatch_plan::take makes them for (tokens, k, experts); experts is the extent of plan.counts
///
/// Edges   tokens == 0: counts and offsets are 0. Experts without choices have no rows.
/// Throws  bad_argument for an id outside [0, experts), a negative capacity, or tokens * k above INT_MAX; shape_mismatch if the plan is for other
///         extents; out_of_memory if scratch holds less than make_dispatch_scratch_bytes.
/// Order   integers only: the same plan for any number of threads.
/// Cost    three passes over expert, the first of them on one thread.
/// Source  Gale et al. 2022, MegaBlocks, arXiv:2211.15841.
inline void make_dispatch(cpu const& space, in<int, dyn, dyn> expert, index_t capacity, dispatch_plan const& plan, arena& scratch) {
  index_t const tokens = expert.extent<0>(), k = expert.extent<1>(), slots = tokens * k, experts = plan.experts();
  detail::check_dispatch(expert, capacity, plan);
  detail::check_expert_ids("make_dispatch", expert, experts);
  detail::check_scratch("make_dispatch", scratch, make_dispatch_scratch_bytes(space, tokens, experts));
  arena::scope const scope(scratch);
  auto const histogram = detail::dispatch_scratch(scratch, tokens, experts).histogram;
  double const work = 4.0 * static_cast<double>(k);
  parallel_chunks(space, tokens, detail::dispatch_scratch::chunk, work, [&](index_t c, index_t begin, index_t end) {
    index_t* count = histogram.row(c);
    std::fill_n(count, experts, index_t{0});
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < k; ++j) ++count[expert.row(t)[j]];
  });
  detail::place_chunks(histogram, capacity, plan);
  parallel_chunks(space, tokens, detail::dispatch_scratch::chunk, work, [&](index_t c, index_t begin, index_t end) {
    index_t* next = histogram.row(c);
    index_t const* limit = plan.offsets.data() + 1;
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < k; ++j) {
        int const e = expert.row(t)[j], s = static_cast<int>(t * k + j);
        index_t const row = next[e]++;
        bool const kept = row < limit[e];
        plan.position(s) = kept ? static_cast<int>(row) : -1;
        if (kept) plan.token(row) = static_cast<int>(t), plan.slot(row) = s;
      }
  });
  std::fill(plan.token.data() + plan.rows(), plan.token.data() + slots, -1);
  std::fill(plan.slot.data() + plan.rows(), plan.slot.data() + slots, -1);
}

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
  for (index_t r = 0; r < plan.rows(); ++r)
    expects(plan.token(r) >= 0 && plan.token(r) < tokens, errc::bad_argument, who, ": plan.token[", r, "] is ", plan.token(r), ", needs to be in [0, ",
            tokens, ")");
}
inline void check_rows_of_slots(char const* who, dispatch_plan const& plan) {
  check_filled(who, plan);
  for (index_t s = 0; s < plan.slots(); ++s)
    expects(plan.position(s) >= -1 && plan.position(s) < plan.rows(), errc::bad_argument, who, ": plan.position[", s, "] is ", plan.position(s),
            ", needs to be in [-1, ", plan.rows(), ")");
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
