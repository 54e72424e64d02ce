#pragma once
#include <algorithm>

#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>
#include <moe/routing/detail/best_of_rows.hpp>
#include <moe/routing/detail/expert_ids.hpp>
#include <moe/routing/detail/softmax_row.hpp>

namespace moe::inline MOE_ISA {

struct topk_config {
  int k = 2;                ///< experts per token
  bool renormalise = true;  ///< weights are a softmax over the chosen logits; false: over all logits, so that a row sums to less than 1
};

namespace detail {
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

/// The choices of the tokens of a group, from `first` on.
template <topk_config C, class A, class T>
void choose(row_group<A, T> const& rows, index_t first, index_t experts, tensor<T, dyn, C.k> const& weight, tensor<int, dyn, C.k> const& expert) {
  using V = simd<A>;
  chosen<C.k, A> const best(rows, experts);
  V e[C.k], total = V::zero();
  for (int j = 0; j < C.k; ++j) e[j] = exp(best.logit[j] - best.logit[0]);
  if constexpr (C.renormalise) {
    for (V const& x : e) total = total + x;
  } else {
    total = sums_of_exponentials(rows, experts, best.logit[0]);
  }
  T w[C.k][V::width];
  for (int j = 0; j < C.k; ++j) (e[j] / total).store(w[j]);
  for (int l = 0; l < rows.rows; ++l) {
    T* const token_weight = weight.row(first + l);
    int* const token_expert = expert.row(first + l);
    for (int j = 0; j < C.k; ++j) token_weight[j] = w[j][l], token_expert[j] = static_cast<int>(best.expert[j][l]);
  }
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
/// Cost    one pass, which compares each logit with the k best of its row so far, a row to a lane; a second one, over integers, for the group of a row
///         with a logit that is not finite. Reads tokens * experts * sizeof(T), writes tokens * k * (sizeof(T) + 4) bytes.
/// Source  Shazeer et al. 2017, arXiv:1701.06538, eq. 3 and 5; without renormalisation Fedus et al. 2021, arXiv:2101.03961, eq. 1 and 2.
template <topk_config C = topk_config{}, class T>
void topk(cpu const& space, in<T, dyn, dyn> logits, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
  using A = accumulator<T>;
  detail::check_topk<C>("topk", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  constexpr int group = simd<A>::width;
  parallel_for(space, (tokens + group - 1) / group, static_cast<double>((C.k + 1) * experts),
               [&](index_t g) { detail::choose<C, A>(detail::row_group<A, T>(logits, g * group), g * group, experts, weight, expert); });
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

/// d_row[e] = -s p_e for all experts, p the softmax of the row.
template <class A, class T>
void unchosen_gradient(T const* row, index_t experts, A top, A inverse_sum, A s, T* d_row) {
  using V = simd<A>;
  V const factor = V::all(-s * inverse_sum);
  for (index_t e = 0; e < experts; e += V::width) (exp(load_logits<A>(row + e, experts - e) - V::all(top)) * factor).store(d_row + e, experts - e);
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
