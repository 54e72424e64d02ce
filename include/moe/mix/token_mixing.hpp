#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/mix/detail/group_dots.hpp>
#include <moe/mix/detail/group_product.hpp>

// What Mixture of Tokens does around its experts: each expert gets one weighted mean per group of tokens, and each token of the group gets the experts'
// answers back by the same weights. Group g of groups.count(), its members i, experts e; row e * count + g of `mixed` is expert e's of group g, so
// that the rows of an expert lie together.
//
// Each is a gradient of another: d_x of mix_tokens is redistribute_tokens of d_mixed, d_mixed of redistribute_tokens is mix_tokens of d_y, and the
// gradient of the weights is mixing_weight_gradient(x, d_mixed), or (d_y, mixed).
namespace moe::inline MOE_ISA {

struct mixing_weight_gradient_config {
  bool accumulate = false;  ///< adds to d_weight instead of overwriting it: where mixing and redistribution share their weights
};

namespace detail {
inline void check_mixing(char const* op, token_groups const& groups, char const* name, auto const& rows, auto const& weight, auto const& mixed) {
  check_groups(op, groups);
  index_t const tokens = groups.tokens(), d = rows.template extent<1>(), experts = weight.template extent<1>();
  check_matrix(op, name, rows, tokens, d);
  check_matrix(op, "weight", weight, tokens, experts);
  check_matrix(op, "mixed", mixed, elements(experts, groups.count()), d);
}

/// f(group, begin, end, another follows) for parts of [0, n) of each group. Where there are many groups, a part is all of it, and a thread takes
/// neighbours: f may ask for the memory of the next group. Else parts of `part`.
template <class F>
void for_each_group_part(cpu const& space, index_t groups, index_t n, index_t part, double work, F const& f) {
  index_t const many = 8 * thread_count(space);
  if (groups < many) {
    index_t const parts = chunks(n, part);
    parallel_for(space, groups * parts, work * static_cast<double>(std::min(n, part)), [&](index_t item) {
      index_t const begin = item % parts * part;
      f(item / parts, begin, std::min(n, begin + part), false);
    });
  } else {
    index_t const run = std::min<index_t>(groups / many, 16);
    parallel_chunks(space, groups, run, work * static_cast<double>(n), [&](index_t, index_t begin, index_t end) {
      for (index_t g = begin; g < end; ++g) f(g, 0, n, g + 1 < end);
    });
  }
}
}  // namespace detail

/// One mixed token per expert and group:  mixed[e * count + g] = sum_i weight[i, e] x[i],  i of group g.
///
///   x       [tokens, d]               in
///   weight  [tokens, experts]         in   of accumulator<T>: float beside rows of bf16
///   groups                            in   of these tokens
///   mixed   [experts * count, d]      out  overwritten; must not overlap x
///
/// Edges   no tokens: writes nothing. A weight of 0 does not hide a NaN.
/// Throws  shape_mismatch if extents disagree; bad_argument unless the groups are whole.
/// Order   one chain of madd from 0, members ascending, in accumulator<T>, rounded once: independent of other groups, threads and strides.
/// Cost    2 tokens experts d flops; reads x and writes mixed once (experts beyond 64 read the group again, from a cache).
/// Source  Antoniak et al. 2023, arXiv:2310.15961.
template <class T, index_t R, index_t D>
void mix_tokens(cpu const& space, in<T, dyn, dyn> x, in<accumulator<T>, dyn, dyn> weight, token_groups const& groups, tensor<T, R, D> const& mixed) {
  matrix_view<T> const to = mixed;
  detail::check_mixing("mix_tokens", groups, "x", x, weight, to);
  index_t const d = to.template extent<1>(), experts = weight.template extent<1>();
  bool const stream = detail::streams_rows(to);
  detail::for_each_group_part(
      space, groups.count(), d, detail::mix_columns, static_cast<double>(2 * groups.size * experts), [&](index_t g, index_t c0, index_t c1, bool) {
        auto const w = detail::members_of(weight, groups, g);
        detail::group_product<T>{
            {w.data, w.stride, true}, detail::members_of(x, groups, g), detail::mixtures_of(to, groups, g), experts, groups.size, stream}
            .run(c0, c1);
        if (stream) detail::fence_streams();
      });
}

/// Gives each token the answers of all experts:  y[i] = sum_e weight[i, e] mixed[e * count + g],  i of group g.
///
///   mixed   [experts * count, d]      in
///   weight  [tokens, experts]         in   of accumulator<T>
///   groups                            in   of these tokens
///   y       [tokens, d]               out  overwritten; must not overlap mixed
///
/// Edges   no tokens: writes nothing. No experts: zeros. A weight of 0 does not hide a NaN.
/// Throws  shape_mismatch if extents disagree; bad_argument unless the groups are whole.
/// Order   one chain of madd from 0, experts ascending, in accumulator<T>, rounded once: independent of other groups, threads and strides.
/// Cost    2 tokens experts d flops; reads mixed and writes y once (groups beyond 64 read mixed again, from a cache).
template <class T, index_t R, index_t D>
void redistribute_tokens(cpu const& space, in<T, dyn, dyn> mixed, in<accumulator<T>, dyn, dyn> weight, token_groups const& groups,
                         tensor<T, R, D> const& y) {
  matrix_view<T> const to = y;
  detail::check_mixing("redistribute_tokens", groups, "y", to, weight, mixed);
  index_t const d = to.template extent<1>(), experts = weight.template extent<1>();
  bool const stream = detail::streams_rows(to);
  detail::for_each_group_part(
      space, groups.count(), d, detail::mix_columns, static_cast<double>(2 * groups.size * experts), [&](index_t g, index_t c0, index_t c1, bool) {
        auto const w = detail::members_of(weight, groups, g);
        detail::group_product<T>{
            {w.data, w.stride, false}, detail::mixtures_of(mixed, groups, g), detail::members_of(to, groups, g), groups.size, experts, stream}
            .run(c0, c1);
        if (stream) detail::fence_streams();
      });
}

/// What a weight gains:  d_weight[i, e] (+)= <rows[i], mixed[e * count + g]>,  i of group g.
///
///   rows      [tokens, d]             in   x of mix_tokens, or d_y of redistribute_tokens
///   mixed     [experts * count, d]    in   d_mixed of mix_tokens, or mixed of redistribute_tokens
///   groups                            in   of these tokens
///   d_weight  [tokens, experts]       out  of accumulator<T>; overwritten, or added to if C.accumulate
///
/// Edges   d == 0: zeros, or nothing added. No tokens: writes nothing.
/// Throws  shape_mismatch if extents disagree; bad_argument unless the groups are whole.
/// Order   passes of 2048 bytes of a row in accumulator<T>, ascending, each added to d_weight; in a pass one chain of madd per vector lane over
///         ascending columns, then the tree of sum(). Independent of other rows, threads and strides.
/// Cost    2 tokens experts d flops; reads rows and mixed once (groups or experts beyond 32 read the other again, from a cache).
template <mixing_weight_gradient_config C = mixing_weight_gradient_config{}, class T, class A, index_t XR, index_t XD, index_t R, index_t E>
void mixing_weight_gradient(cpu const& space, tensor<T, XR, XD> const& rows, in<std::remove_const_t<T>, dyn, dyn> mixed, token_groups const& groups,
                            tensor<A, R, E> const& d_weight) {
  using S = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulator<S>>, "moe::mixing_weight_gradient: d_weight must be of the type that sums of rows are formed in");
  matrix_view<S const> const x = rows;
  matrix_view<A> const to = d_weight;
  detail::check_mixing("mixing_weight_gradient", groups, "rows", x, to, mixed);
  index_t const d = x.template extent<1>(), experts = to.template extent<1>();
  index_t const blocks = detail::chunks(groups.size, detail::dot_rows) * detail::chunks(std::max<index_t>(experts, 1), detail::dot_columns);
  detail::for_each_group_part(
      space, groups.count(), groups.size, detail::dot_members, static_cast<double>(2 * d * experts),
      [&](index_t g, index_t i0, index_t i1, bool another) {
        index_t const next = another ? g + 1 : g;
        detail::next_group_rows<S> const soon{detail::members_of(x, groups, next), detail::mixtures_of(mixed, groups, next), groups.size,
                                              another ? groups.size + experts : 0, detail::chunks(groups.size + experts, blocks)};
        detail::group_dots<S>{
            detail::members_of(x, groups, g), detail::mixtures_of(mixed, groups, g), detail::members_of(to, groups, g), experts, d, C.accumulate}
            .run(i0, i1, soon);
      });
}

}  // namespace moe::inline MOE_ISA
