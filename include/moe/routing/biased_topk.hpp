#pragma once
#include <moe/routing/detail/biased_choice.hpp>
#include <moe/routing/topk.hpp>

namespace moe::inline MOE_ISA {

struct biased_topk_config {
  int k = 2;  ///< experts per token
  score_function score = score_function::sigmoid;
  bool renormalise = true;  ///< weights are divided by the sum of the chosen scores
  double scale = 1;         ///< and multiplied by this
  int groups = 1;           ///< of neighbouring experts, equally many each; at most 32
  int kept_groups = 1;      ///< a token chooses among the experts of that many groups
};

namespace detail {
template <biased_topk_config C>
void check_biased_topk(char const* who, auto const& logits, auto const& weight, auto const& expert) {
  static_assert(C.k >= 1, "moe::biased_topk: biased_topk_config::k must be at least 1");
  static_assert(C.groups >= 1 && C.groups <= 32, "moe::biased_topk: biased_topk_config::groups must be in [1, 32]");
  static_assert(C.kept_groups >= 1 && C.kept_groups <= C.groups, "moe::biased_topk: biased_topk_config::kept_groups must be in [1, groups]");
  static_assert(C.scale > 0 && C.scale < 1e30, "moe::biased_topk: biased_topk_config::scale must be positive and finite");
  index_t const experts = logits.template extent<1>();
  check_topk<topk_config{.k = C.k}>(who, logits, weight, expert);
  expects(experts % C.groups == 0, errc::shape_mismatch, who, ": ", experts, " experts in ", C.groups, " groups");
  expects(C.k <= experts / C.groups * C.kept_groups, errc::shape_mismatch, who, ": k = ", C.k, " of ", experts / C.groups * C.kept_groups,
          " experts, those of ", C.kept_groups, " groups");
}
inline void check_selection_bias(char const* who, index_t experts, auto const& bias) {
  expects(bias.data() == nullptr || bias.template extent<0>() == experts, errc::shape_mismatch, who, ": bias has ", bias.template extent<0>(),
          " entries, logits has ", experts, " experts");
}

/// The choices of the tokens of a group, from `first` on.
template <biased_topk_config C, class A, class T>
void choose(scored_rows<C.score, A, T> const& rows, index_t first, tensor<T, dyn, C.k> const& weight, tensor<int, dyn, C.k> const& expert) {
  using V = simd<A>;
  biased_choice<C.k, C.groups, C.kept_groups, A> const best(rows);
  V s[C.k], total = V::zero(), scale = V::all(static_cast<A>(C.scale));
  for (int j = 0; j < C.k; ++j) s[j] = rows.score_at(best.expert[j]);
  for (V const& x : s) total = total + x;
  T w[C.k][V::width];
  for (int j = 0; j < C.k; ++j) {
    V const share = C.renormalise ? s[j] / total : s[j];
    (share * scale).store(w[j]);
  }
  for (int l = 0; l < rows.rows(); ++l) {
    T* const token_weight = weight.row(first + l);
    int* const token_expert = expert.row(first + l);
    for (int j = 0; j < C.k; ++j) token_weight[j] = w[j][l], token_expert[j] = static_cast<int>(best.expert[j][l]);
  }
}

template <class A, class T>
bool all_finite(T const* p, index_t n) {
  simd<A> zero = simd<A>::zero();
  for (index_t i = 0; i < n; i += simd<A>::width) zero = madd(simd<A>::load(p + i, n - i), simd<A>::zero(), zero);
  return sum(zero) == A(0);
}
}  // namespace detail

/// Sends each token to the k experts whose score, with a bias of the expert, is largest; the bias has no part in the weight:
///   s[t, e]      = sigmoid(logits[t, e]), or softmax(logits[t])[e] over all experts
///   expert[t, :] = the experts with the k largest s[t, e] + bias[e], e in the kept groups
///   weight[t, j] = scale s[t, expert[t, j]] / sum_i s[t, expert[t, i]]  (renormalise), or scale s[t, expert[t, j]]
/// Groups are experts [g experts / groups, (g + 1) experts / groups). Kept are the kept_groups whose group score is largest: the sum of the two largest
/// s + bias of a group, or the only one; without a bias the largest s.
///
///   logits  [tokens, experts]  in   experts >= k, a multiple of groups, and k <= experts in the kept groups
///   bias    [experts] or {}    in   {}: no bias. -infinity: never chosen while another can be
///   weight  [tokens, k]        out  positive where the score is
///   expert  [tokens, k]        out  in [0, experts), distinct within a row, largest s + bias first; NaN ranks above all; ties: lower index
///
/// Edges   tokens == 0 writes nothing. Sigmoid: a NaN logit is chosen with weight NaN, and renormalised so is its row; an infinite one scores 0 or 1, and
///         a row whose chosen scores are all 0 (logits below -88.7 in float) has NaN weights if renormalised. Softmax: a row whose largest logit is NaN or
///         infinite has NaN weights and valid experts. A NaN in the bias is chosen by every token, with weight NaN. A NaN keeps its group.
/// Throws  shape_mismatch if k, groups and experts do not fit, or extents differ.
/// Order   one worker per row. Sums over j ascending; softmax: over all experts in one chain per vector lane and then a fixed tree. Compared is s + bias
///         as accumulator<T> rounds it, for softmax madd(exponential, 1 / sum of them, bias).
/// Cost    one pass, a row to a lane: an exponential per logit (softmax: two), and a comparison with the k best so far; groups: two looks at candidates
///         that stay in the cache, above 1024 experts two passes. Rows with NaN, and a bias that is not finite, take a second pass over integers.
/// Source  DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2 and its published inference code; Wang et al. 2024, arXiv:2408.15664.
template <biased_topk_config C = biased_topk_config{}, class T>
void biased_topk(cpu const& space, in<T, dyn, dyn> logits, in<T, dyn> bias, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
  using A = accumulator<T>;
  detail::check_biased_topk<C>("biased_topk", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_selection_bias("biased_topk", experts, bias);
  bool const finite = bias.data() == nullptr || detail::all_finite<A>(bias.data(), experts);
  constexpr int group = simd<A>::width;
  parallel_for(space, (tokens + group - 1) / group, static_cast<double>((C.k + 4) * experts), [&](index_t g) {
    detail::row_group<A, T> const rows(logits, g * group);
    detail::choose<C, A, T>(detail::scored_rows<C.score, A, T>(rows, experts, bias.data(), finite), g * group, weight, expert);
  });
}

namespace detail {
template <biased_topk_config C>
void check_biased_topk_backward(auto const& logits, auto const& weight, auto const& expert, auto const& d_weight, auto const& d_logits) {
  check_biased_topk<C>("biased_topk_backward", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  expects(d_weight.template extent<0>() == tokens, errc::shape_mismatch, "biased_topk_backward: d_weight has ", d_weight.template extent<0>(),
          " rows, logits has ", tokens);
  expects(d_logits.template extent<0>() == tokens && d_logits.template extent<1>() == experts, errc::shape_mismatch,
          "biased_topk_backward: d_logits is [", d_logits.template extent<0>(), ", ", d_logits.template extent<1>(), "], logits is [", tokens, ", ",
          experts, "]");
}

/// rest[j][l] = 1 - sigmoid of the logit of row first + l at its expert j.
template <biased_topk_config C, class A, class T>
void rests(tensor<T const, dyn, dyn> logits, tensor<int const, dyn, C.k> expert, index_t first, int rows, A (&rest)[C.k][simd<A>::width]) {
  for (int j = 0; j < C.k; ++j) {
    for (int l = 0; l < simd<A>::width; ++l) {
      index_t const t = first + (l < rows ? l : rows - 1);
      rest[j][l] = -A(logits.row(t)[expert.row(t)[j]]);
    }
    sigmoid(simd<A>::load(rest[j])).store(rest[j]);
  }
}

/// d_row = the gradient of a row; factor(j): what that of choice j is multiplied by.
template <biased_topk_config C, class A, class T>
void biased_gradient(T const* row, index_t experts, T const* weight, int const* expert, T const* d_weight, T* d_row, auto const& factor) {
  constexpr bool sigmoids = C.score == score_function::sigmoid;
  A const scale = static_cast<A>(C.scale);
  A mean = 0;
  if constexpr (C.renormalise || !sigmoids)
    for (int j = 0; j < C.k; ++j) mean = madd(A(weight[j]) / scale, A(d_weight[j]), mean);
  if constexpr (C.renormalise || sigmoids) {
    std::fill_n(d_row, experts, T(0.0f));
  } else {
    A const top = largest_logit<A>(row, experts), inverse_sum = A(1) / sum_of_exponentials(row, experts, top);
    unchosen_gradient(row, experts, top, inverse_sum, mean * scale, d_row);
  }
  for (int j = 0; j < C.k; ++j) d_row[expert[j]] = T(factor(j) * (A(d_weight[j]) - mean));
}

/// The gradients of the rows of a group.
template <biased_topk_config C, class A, class T>
void biased_gradients(tensor<T const, dyn, dyn> logits, tensor<T const, dyn, C.k> weight, tensor<int const, dyn, C.k> expert,
                      tensor<T const, dyn, C.k> d_weight, index_t first, auto const& d_logits) {
  index_t const left = logits.template extent<0>() - first;
  int const rows = static_cast<int>(left < simd<A>::width ? left : simd<A>::width);
  A rest[C.k][simd<A>::width];
  if constexpr (C.score == score_function::sigmoid) rests<C, A, T>(logits, expert, first, rows, rest);
  for (int l = 0; l < rows; ++l) {
    index_t const t = first + l;
    T const* const w = weight.row(t);
    biased_gradient<C, A>(logits.row(t), logits.template extent<1>(), w, expert.row(t), d_weight.row(t), d_logits.row(t), [&](int j) {
      if constexpr (C.score == score_function::sigmoid) return A(w[j]) * rest[j][l];
      else return A(w[j]);
    });
  }
}
}  // namespace detail

/// Gradient of biased_topk, the selection held fixed; the bias has none. With w = weight[t, :], c = d_weight[t, :], m = sum_i w_i c_i / scale, and
/// e = expert[t, j]:
///   sigmoid, renormalise:  d_logits[t, e] = w_j (1 - s_e) (c_j - m),  exactly 0 elsewhere
///   sigmoid, otherwise:    d_logits[t, e] = w_j (1 - s_e) c_j,        exactly 0 elsewhere
///   softmax, renormalise:  d_logits[t, e] = w_j (c_j - m),            exactly 0 elsewhere
///   softmax, otherwise:    d_logits[t, e] = w_j (c_j - m), and -scale m s_e elsewhere
///
///   logits    [tokens, experts]  in
///   weight    [tokens, k]        in   what biased_topk wrote
///   expert    [tokens, k]        in   what biased_topk wrote
///   d_weight  [tokens, k]        in
///   d_logits  [tokens, experts]  out  overwritten; must not overlap an input
///
/// Edges   tokens == 0 writes nothing. NaN weights give NaN at their experts. renormalise with k == 1 gives zeros: its weight is a constant.
/// Throws  shape_mismatch if extents disagree; bad_argument for an expert outside [0, experts) or twice in a row.
/// Order   one worker per row, sums over j ascending.
/// Cost    writes d_logits, reads 4 tokens * k elements; softmax without renormalisation: two passes of exponentials over logits.
template <biased_topk_config C = biased_topk_config{}, class T, index_t R, index_t E>
void biased_topk_backward(cpu const& space, in<T, dyn, dyn> logits, in<T, dyn, C.k> weight, in<int, dyn, C.k> expert, in<T, dyn, C.k> d_weight,
                          tensor<T, R, E> const& d_logits) {
  detail::check_biased_topk_backward<C>(logits, weight, expert, d_weight, d_logits);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_expert_ids("biased_topk_backward", expert, experts);
  detail::check_distinct<C.k>("biased_topk_backward", expert);
  using A = accumulator<T>;
  constexpr int group = simd<A>::width;
  constexpr bool sparse = C.renormalise || C.score == score_function::sigmoid;
  parallel_for(space, (tokens + group - 1) / group, group * (static_cast<double>(experts) * (sparse ? 0.25 : 8.0) + 8.0 * C.k),
               [&](index_t g) { detail::biased_gradients<C, A, T>(logits, weight, expert, d_weight, g * group, d_logits); });
}

}  // namespace moe::inline MOE_ISA
