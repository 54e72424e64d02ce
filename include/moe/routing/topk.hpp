#pragma once
#include <algorithm>
#include <utility>

#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>
#include <moe/routing/detail/expert_ids.hpp>
#include <moe/routing/detail/softmax_row.hpp>

namespace moe::inline MOE_ISA {

struct topk_config {
  int k = 2;                ///< experts per token
  bool renormalise = true;  ///< weights are a softmax over the chosen logits; false: over all logits, so that a row sums to less than 1
};

namespace detail {
/// The order of a row's candidates: larger first, NaN above all, -0 equal to 0; then the lower index.
template <class A>
struct ranking {
  using lanes = lane_integers<A>;
  using integer = typename lanes::integer;
  using vector = typename lanes::vector;
  static constexpr integer lowest = std::numeric_limits<integer>::min(), highest = std::numeric_limits<integer>::max();

  struct place {
    integer key = highest, expert = -1;  ///< as made: before every candidate
  };

  /// Integers that compare as the logits rank: `highest` for NaN, above `lowest` for all.
  static MOE_INLINE vector keys(simd<A> x) {
    vector bits;
    simd<A> const y = x + simd<A>::zero();  // -0 + 0 = 0
    std::memcpy(&bits, &y.v, sizeof bits);
    vector const key = bits ^ ((bits >> (8 * sizeof(A) - 1)) & highest);  // negative numbers: the larger magnitude is the smaller
    return x.v != x.v ? lanes::all(highest) : key;
  }

  /// The first place after `last`. One pass over a row that sits in L1: each lane keeps its best, then the lanes are compared.
  template <class T>
  static MOE_INLINE place next(T const* row, index_t experts, place last) {
    vector best = lanes::all(lowest), where = lanes::all(0), index = lanes::iota();
    for (index_t e = 0; e < experts; e += simd<A>::width) {
      vector const key = keys(simd<A>::load(row + e, experts - e));
      auto const after = (key < last.key) | ((key == last.key) & (index > last.expert));
      auto const better = after & (key > best) & (index < lanes::all(static_cast<integer>(experts)));
      best = better ? key : best;
      where = better ? index : where;
      index += static_cast<integer>(simd<A>::width);
    }
    first_of_lanes<simd<A>::width / 2>(best, where);
    return {best[0], where[0]};
  }

 private:
  /// Leaves in every lane the place that comes first among all lanes: pairs of lanes `Step` apart, then half as far, ...
  template <int Step>
  static MOE_INLINE void first_of_lanes(vector& best, vector& where) {
    vector const other = exchange<Step>(best, lane_sequence{}), other_where = exchange<Step>(where, lane_sequence{});
    auto const wins = (other > best) | ((other == best) & (other_where < where));
    best = wins ? other : best;
    where = wins ? other_where : where;
    if constexpr (Step > 1) first_of_lanes<Step / 2>(best, where);
  }
  using lane_sequence = std::make_integer_sequence<int, simd<A>::width>;
  template <int Step, int... Lane>
  static MOE_INLINE vector exchange(vector v, std::integer_sequence<int, Lane...>) {
    return shuffled<(Lane ^ Step)...>(v, v);
  }
};

template <topk_config C>
void check_topk(char const* who, auto const& logits, auto const& weight, auto const& expert) {
  static_assert(C.k >= 1, "moe::topk: topk_config::k must be at least 1");
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  expects(C.k <= experts, errc::shape_mismatch, who, ": k = ", C.k, " of ", experts, " experts");
  expects(weight.template extent<0>() == tokens, errc::shape_mismatch, who, ": weight has ", weight.template extent<0>(), " rows, logits has ",
          tokens);
  expects(expert.template extent<0>() == tokens, errc::shape_mismatch, who, ": expert has ", expert.template extent<0>(), " rows, logits has ",
          tokens);
}

/// e[j] = exp(row[expert[j]] - top) for all j, vector by vector.
template <int K, class A, class T>
MOE_INLINE void exponentials_of_chosen(T const* row, int const* expert, A top, A* e) {
  constexpr int padded = (K + simd<A>::width - 1) / simd<A>::width * simd<A>::width;
  A x[padded] = {};
  for (int j = 0; j < K; ++j) x[j] = A(row[expert[j]]) - top;
  for (int j = 0; j < K; j += simd<A>::width) exp(simd<A>::load(x + j)).store(x + j);
  std::copy_n(x, K, e);
}
}  // namespace detail

/// Sends each token to its k highest-scoring experts:
///   weight[t, j] = exp(logits[t, expert[t, j]]) / sum_i exp(logits[t, i]),  i over expert[t, :] (renormalise) or over all experts
///
///   logits  [tokens, experts]  in   experts >= k
///   weight  [tokens, k]        out  largest first; rows sum to 1 if renormalise
///   expert  [tokens, k]        out  in [0, experts), distinct within a row; NaN ranks above all; ties: lower index
///
/// Edges   tokens == 0 writes nothing. A row whose largest logit is NaN or infinite (either sign) gets NaN weights and valid experts: visible in
///         the loss, harmless to whoever indexes with them. A chosen -infinity below a finite largest logit has weight 0.
/// Throws  shape_mismatch if k > experts or the token counts differ.
/// Order   one worker per row. Renormalised sums run over j ascending, sums over all experts in one chain per vector lane and then a fixed tree.
/// Cost    k passes over a row; reads tokens * experts * sizeof(T), writes tokens * k * (sizeof(T) + 4) bytes.
/// Source  Shazeer et al. 2017, arXiv:1701.06538, eq. 3 and 5; without renormalisation Fedus et al. 2021, arXiv:2101.03961, eq. 1 and 2.
template <topk_config C = topk_config{}, class T>
void topk(cpu const& space, in<T, dyn, dyn> logits, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
  using A = accumulator<T>;
  using ranks = detail::ranking<A>;
  detail::check_topk<C>("topk", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  parallel_for(space, tokens, static_cast<double>(C.k * experts), [&](index_t t) {
    T const* row = logits.row(t);
    int* chosen = expert.row(t);
    typename ranks::place last;
    for (int j = 0; j < C.k; ++j) {
      last = ranks::next(row, experts, last);
      chosen[j] = static_cast<int>(last.expert);
    }
    A const top = A(row[chosen[0]]);
    A w[C.k], sum = 0;
    detail::exponentials_of_chosen<C.k>(row, chosen, top, w);
    if constexpr (C.renormalise)
      for (A x : w) sum += x;
    else sum = detail::sum_of_exponentials(row, experts, top);
    for (int j = 0; j < C.k; ++j) weight(t, j) = T(w[j] / sum);
  });
}

namespace detail {
template <topk_config C>
void check_topk_backward(auto const& logits, auto const& weight, auto const& expert, auto const& d_weight, auto const& d_logits) {
  check_topk<C>("topk_backward", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  expects(d_weight.template extent<0>() == tokens, errc::shape_mismatch, "topk_backward: d_weight has ", d_weight.template extent<0>(),
          " rows, logits has ", tokens);
  expects(d_logits.template extent<0>() == tokens && d_logits.template extent<1>() == experts, errc::shape_mismatch, "topk_backward: d_logits is [",
          d_logits.template extent<0>(), ", ", d_logits.template extent<1>(), "], logits is [", tokens, ", ", experts, "]");
}

/// Throws if a row names an expert twice: the gradient of its logit would be one of two values.
template <int K>
void check_distinct(char const* who, tensor<int const, dyn, K> expert) {
  for (index_t t = 0; t < expert.template extent<0>(); ++t) {
    int const* id = expert.row(t);
    bool twice = false;
    for (int j = 1; j < K; ++j)
      for (int i = 0; i < j; ++i) twice |= id[i] == id[j];
    expects(!twice, errc::bad_argument, who, ": row ", t, " of expert names an expert twice");
  }
}

/// d_row[e] = -s p_e for all experts, p the softmax of the row.
template <class A, class T>
void unchosen_gradient(T const* row, index_t experts, A top, A inverse_sum, A s, T* d_row) {
  using V = simd<A>;
  V const factor = V::all(-s * inverse_sum);
  for (index_t e = 0; e < experts; e += V::width)
    (exp(load_logits<A>(row + e, experts - e) - V::all(top)) * factor).store(d_row + e, experts - e);
}
}  // namespace detail

/// Gradient of topk, the selection held fixed. With c = d_weight[t, :], s = sum_i weight[t, i] c_i, and p the softmax over all experts:
///   renormalise:  d_logits[t, expert[t, j]] = weight[t, j] (c_j - s),  exactly 0 elsewhere
///   otherwise:    d_logits[t, e] = p_e (c_j - s) where e = expert[t, j],  -p_e s elsewhere
///
///   logits    [tokens, experts]  in
///   weight    [tokens, k]        in   what topk wrote
///   expert    [tokens, k]        in   what topk wrote
///   d_weight  [tokens, k]        in
///   d_logits  [tokens, experts]  out  overwritten; must not overlap an input
///
/// Edges   tokens == 0 writes nothing. NaN weights give NaN at the chosen experts. renormalise with k == 1 gives zeros: its weight is the constant 1.
/// Throws  shape_mismatch if extents disagree; bad_argument for an expert outside [0, experts) or twice in a row.
/// Order   one worker per row, sums over j ascending.
/// Cost    renormalise: writes d_logits, reads 3 tokens * k elements; otherwise two more passes of exponentials over logits.
template <topk_config C = topk_config{}, class T, index_t R, index_t E>
void topk_backward(cpu const& space, in<T, dyn, dyn> logits, in<T, dyn, C.k> weight, in<int, dyn, C.k> expert, in<T, dyn, C.k> d_weight,
                   tensor<T, R, E> const& d_logits) {
  using A = accumulator<T>;
  detail::check_topk_backward<C>(logits, weight, expert, d_weight, d_logits);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_expert_ids("topk_backward", expert, experts);
  detail::check_distinct<C.k>("topk_backward", expert);
  parallel_for(space, tokens, static_cast<double>(experts) * (C.renormalise ? 0.25 : 8.0), [&](index_t t) {
    int const* chosen = expert.row(t);
    T* d_row = d_logits.row(t);
    A s = 0, p[C.k];
    for (int j = 0; j < C.k; ++j) s = madd(p[j] = A(weight(t, j)), A(d_weight(t, j)), s);
    if constexpr (C.renormalise) {
      std::fill_n(d_row, experts, T(0.0f));
    } else {
      T const* row = logits.row(t);
      A const top = detail::largest_logit<A>(row, experts), inverse_sum = A(1) / detail::sum_of_exponentials(row, experts, top);
      detail::unchosen_gradient(row, experts, top, inverse_sum, s, d_row);
    }
    for (int j = 0; j < C.k; ++j) d_row[chosen[j]] = T(p[j] * (A(d_weight(t, j)) - s));
  });
}

}  // namespace moe::inline MOE_ISA
