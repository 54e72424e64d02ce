#pragma once
#include <algorithm>
#include <limits>

#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/token_groups.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// Throws unless the matrices of group `op` are whole groups of tokens.
inline void check_groups(char const* op, token_groups const& groups) {
  expects(groups.sequences >= 0 && groups.length >= 0, errc::bad_argument, op, ": groups of ", groups.sequences, " sequences of ", groups.length,
          " tokens");
  expects(groups.size >= 1 && groups.sequences % groups.size == 0, errc::bad_argument, op, ": ", groups.sequences,
          " sequences do not make whole groups of ", groups.size);
}
inline void check_group_softmax(char const* op, token_groups const& groups, double temperature, auto const& from, auto const& to) {
  using A = typename std::remove_cvref_t<decltype(to)>::value_type;
  check_groups(op, groups);
  expects(static_cast<A>(temperature) > 0 && temperature <= std::numeric_limits<double>::max(), errc::bad_argument, op, ": temperature is ",
          temperature, ", needs to be positive and finite, also in the type of the weights");
  check_matrix(op, "input", from, groups.tokens(), to.template extent<1>());
  check_matrix(op, "output", to, groups.tokens(), to.template extent<1>());
}

/// The first of some rows of a matrix, `stride` elements from one to the next: the tokens of a group, or what was mixed of one.
template <class T>
struct spaced_rows {
  T* data;
  index_t stride;
  MOE_HD T* row(index_t i) const { return data + i * stride; }
};
template <class T>
MOE_HD spaced_rows<T> members_of(tensor<T, dyn, dyn> const& x, token_groups const& groups, index_t g) {
  return {x.row(groups.row(g, 0)), groups.length * x.row_stride()};
}
template <class T>
MOE_HD spaced_rows<T> mixtures_of(tensor<T, dyn, dyn> const& mixed, token_groups const& groups, index_t g) {
  return {mixed.row(g), groups.count() * mixed.row_stride()};
}

/// f(group, first expert, experts) for all groups, up to four vectors of experts at a time.
template <class A, class F>
void for_each_group_of_columns(cpu const& space, token_groups const& groups, index_t columns, double work, F const& f) {
  constexpr index_t part = 4 * simd<A>::width;
  index_t const parts = chunks(columns, part);
  parallel_for(space, groups.count() * parts, work * static_cast<double>(groups.size * std::min(columns, part)), [&](index_t item) {
    index_t const first = item % parts * part, end = std::min(columns, first + part);
    for (index_t e = first; e < end; e += simd<A>::width) f(item / parts, e, end - e);
  });
}
inline constexpr index_t softmax_members = 64;  ///< of a group that are read once; of the others, exponentials are formed twice

/// Softmax over the rows of one group for up to a vector of experts. Rows are often a power of two apart, where a cache holds only eight of them.
template <class A>
void softmax_of_group(spaced_rows<A const> const& x, spaced_rows<A> const& w, index_t members, index_t e, index_t n, A temperature) {
  using V = simd<A>;
  alignas(vector_bytes) A kept[softmax_members * V::width];
  bool const divide = temperature != A(1);
  auto const scaled = [&](index_t i) {
    V const z = V::load(x.row(i) + e, n);
    return divide ? z / V::all(temperature) : z;
  };
  V top = V::all(-std::numeric_limits<A>::infinity()), sum = V::zero();
  for (index_t i = 0; i < members; ++i) {
    V const z = scaled(i);
    if (i < softmax_members) z.store(kept + i * V::width);
    top = max(top, z);
  }
  for (index_t i = 0; i < members; ++i) {
    V const p = exp((i < softmax_members ? V::load(kept + i * V::width) : scaled(i)) - top);
    if (i < softmax_members) p.store(kept + i * V::width);
    sum = sum + p;
  }
  for (index_t i = 0; i < members; ++i) {
    V const p = i < softmax_members ? V::load(kept + i * V::width) : exp(scaled(i) - top);
    (p / sum).store(w.row(i) + e, n);
  }
}
/// Its gradient.
template <class A>
void softmax_gradient_of_group(spaced_rows<A const> const& w, spaced_rows<A const> const& d, spaced_rows<A> const& out, index_t members, index_t e,
                               index_t n, A temperature) {
  using V = simd<A>;
  alignas(vector_bytes) A kept[2][softmax_members * V::width];
  V sum = V::zero();
  for (index_t i = 0; i < members; ++i) {
    V const x = V::load(w.row(i) + e, n), y = V::load(d.row(i) + e, n);
    if (i < softmax_members) x.store(kept[0] + i * V::width), y.store(kept[1] + i * V::width);
    sum = madd(x, y, sum);
  }
  bool const divide = temperature != A(1);
  for (index_t i = 0; i < members; ++i) {
    bool const here = i < softmax_members;
    V const x = here ? V::load(kept[0] + i * V::width) : V::load(w.row(i) + e, n),
            y = here ? V::load(kept[1] + i * V::width) : V::load(d.row(i) + e, n);
    V const difference = y - sum, g = x * difference;
    (divide ? g / V::all(temperature) : g).store(out.row(i) + e, n);
  }
}
}  // namespace detail

/// Softmax over the members of a group, for each expert:  weight[i, e] = exp(logits[i, e] / temperature) / sum_j exp(logits[j, e] / temperature),
/// i and j of one group.
///
///   logits  [tokens, experts]  in   float or double, as weight
///   groups                     in   of these tokens
///   weight  [tokens, experts]  out  each expert's sum to 1 over a group; may be logits
///
/// Edges   a group of one token: every weight is exactly 1. Where a group's largest logit of an expert is NaN or infinite, its weights of that expert
///         are NaN. No tokens or no experts: writes nothing.
/// Throws  bad_argument unless temperature is positive and finite and the groups are whole; shape_mismatch for other extents.
/// Order   the largest is subtracted after the division; members ascending, one sum per expert: the same bits for any number of threads or experts.
/// Cost    an exponential and a division per logit, another division where temperature is not 1; groups beyond 64 tokens are read three times.
/// Source  Antoniak et al. 2023, arXiv:2310.15961.
template <class A, index_t R, index_t C>
void group_softmax(cpu const& space, in<A, dyn, dyn> logits, token_groups const& groups, double temperature, tensor<A, R, C> const& weight) {
  matrix_view<A> const to = weight;
  detail::check_group_softmax("group_softmax", groups, temperature, logits, to);
  detail::for_each_group_of_columns<A>(space, groups, to.template extent<1>(), 4.0, [&](index_t g, index_t e, index_t n) {
    detail::softmax_of_group(detail::members_of(logits, groups, g), detail::members_of(to, groups, g), groups.size, e, n,
                             static_cast<A>(temperature));
  });
}

/// Gradient of group_softmax:  d_logits[i, e] = weight[i, e] (d_weight[i, e] - sum_j weight[j, e] d_weight[j, e]) / temperature.
///
///   weight    [tokens, experts]  in   what group_softmax gave
///   d_weight  [tokens, experts]  in
///   d_logits  [tokens, experts]  out  overwritten; may be d_weight
///
/// Edges   a group of one token: 0 wherever d_weight is finite. NaN of one member is in the gradient of all of its group, for that expert.
/// Throws  as group_softmax.
/// Order   the sum is one chain of madd, members ascending.
/// Cost    3 flops per weight and a division where temperature is not 1; groups beyond 64 tokens are read twice.
template <class A, index_t R, index_t C>
void group_softmax_backward(cpu const& space, in<A, dyn, dyn> weight, in<A, dyn, dyn> d_weight, token_groups const& groups, double temperature,
                            tensor<A, R, C> const& d_logits) {
  matrix_view<A> const to = d_logits;
  detail::check_group_softmax("group_softmax_backward", groups, temperature, weight, to);
  detail::check_matrix("group_softmax_backward", "d_weight", d_weight, groups.tokens(), to.template extent<1>());
  detail::for_each_group_of_columns<A>(space, groups, to.template extent<1>(), 1.0, [&](index_t g, index_t e, index_t n) {
    detail::softmax_gradient_of_group(detail::members_of(weight, groups, g), detail::members_of(d_weight, groups, g),
                                      detail::members_of(to, groups, g), groups.size, e, n, static_cast<A>(temperature));
  });
}

}  // namespace moe::inline MOE_ISA
