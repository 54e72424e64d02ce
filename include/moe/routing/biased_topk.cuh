#pragma once
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/detail/softmax_row.cuh>

namespace moe::inline MOE_ISA {

namespace detail {

// nvcc rejects a class-type template argument of a kernel: the config comes as its members.
template <int K, score_function Score, bool Renormalise, int Groups, int Kept>
struct biased_kind {
  static constexpr int k = K, groups = Groups, kept_groups = Kept;
  static constexpr score_function score = Score;
  static constexpr bool renormalise = Renormalise, limited = Kept < Groups;
};
template <biased_topk_config C>
using biased_kind_of = biased_kind<C.k, C.score, C.renormalise, C.groups, C.kept_groups>;

/// Integers that compare as candidates rank: NaN above all. `lowest` is below them all. No candidate is -0: a score is not, so no sum with it is.
template <class A>
struct candidate_key {
  using integer = typename lane_integers<A>::integer;
  static constexpr integer lowest = std::numeric_limits<integer>::min(), highest = std::numeric_limits<integer>::max();
  static __device__ integer flipped(integer bits) { return bits ^ ((bits >> (8 * sizeof(A) - 1)) & highest); }
  static __device__ integer of(A x) { return x != x ? highest : flipped(__builtin_bit_cast(integer, x)); }
  static __device__ A number(integer key) { return __builtin_bit_cast(A, flipped(key)); }
};

template <class Integer>
struct ranked_expert {
  Integer key;
  int expert;
};
template <class Integer>
__device__ bool ranks_before(ranked_expert<Integer> a, ranked_expert<Integer> b) {
  return a.key > b.key || (a.key == b.key && a.expert < b.expert);
}
/// The first of the lanes' candidates, in every lane.
template <class Integer>
__device__ ranked_expert<Integer> warp_first(ranked_expert<Integer> best) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    ranked_expert<Integer> const other{__shfl_xor_sync(0xffffffffu, best.key, step), __shfl_xor_sync(0xffffffffu, best.expert, step)};
    if (ranks_before(other, best)) best = other;
  }
  return best;
}

/// The candidates of a row for a warp, of which lane l has the experts l, l + 32, ...: in registers where they are at most Held per lane, else (0)
/// computed again each time.
template <class Kind, int Held, class T>
struct warp_candidates {
  using A = accumulator<T>;
  using key = candidate_key<A>;
  using integer = typename key::integer;
  static constexpr int no_expert = std::numeric_limits<int>::max();
  T const *row, *bias;
  int experts, lane;
  unsigned kept = ~0u;  ///< bit g: group g
  A top = 0, total = 1, inverse = 1;
  integer held[Held > 0 ? Held : 1];

  __device__ warp_candidates(T const* logits, T const* b, int n, int l) : row(logits), bias(b), experts(n), lane(l) {
    if constexpr (Kind::score == score_function::softmax) {
      top = warp_largest_logit<A>(row, experts, lane);
      total = warp_sum_of_exponentials(row, experts, top, lane);
      inverse = A(1) / total;
    }
    if constexpr (Held > 0)
      for (int i = 0; i < Held; ++i) held[i] = lane + lanes * i < experts ? computed(lane + lanes * i) : key::lowest;
    if constexpr (Kind::limited) keep_groups();
  }
  __device__ A score(int e) const {
    A const x = static_cast<A>(row[e]);
    if constexpr (Kind::score == score_function::sigmoid) return A(1) / (A(1) + exp_scalar(-x));
    else return exp_scalar(x - top) / total;
  }
  /// The first one behind `last`.
  __device__ ranked_expert<integer> next(ranked_expert<integer> last) const {
    ranked_expert<integer> best{key::lowest, no_expert};
    visit([&](int e, integer x) {
      if (x > best.key && ranks_before(last, {x, e})) best = {x, e};
    });
    return warp_first(best);
  }

 private:
  __device__ integer computed(int e) const {
    A const b = bias == nullptr ? A(0) : static_cast<A>(bias[e]);
    if constexpr (Kind::score == score_function::sigmoid) return key::of(score(e) + b);
    else return key::of(madd(exp_scalar(static_cast<A>(row[e]) - top), inverse, b));
  }
  /// f(expert, key), ascending; `lowest` where there is none or its group is not kept.
  template <class F>
  __device__ void visit(F const& f) const {
    if constexpr (Held > 0) {
      for (int i = 0; i < Held; ++i) f(lane + lanes * i, held[i]);
    } else {
      for (int e = lane; e < experts; e += lanes) f(e, in_kept_group(e) ? computed(e) : key::lowest);
    }
  }
  __device__ bool in_kept_group(int e) const {
    if constexpr (Kind::limited) return (kept >> (e / (experts / Kind::groups)) & 1u) != 0;
    else return true;
  }
  __device__ void keep_groups() {
    int const size = experts / Kind::groups;
    integer mine = key::lowest;  // lane g: of group g
    for (int g = 0; g < Kind::groups; ++g) {
      A const score = group_score(g * size, (g + 1) * size);
      if (lane == g) mine = key::of(score);
    }
    unsigned keeps = 0;
    for (int j = 0; j < Kind::kept_groups; ++j) {
      int const g = warp_first(ranked_expert<integer>{mine, lane}).expert;
      keeps |= 1u << g;
      if (lane == g) mine = key::lowest;
    }
    kept = keeps;
    if constexpr (Held > 0)
      for (int i = 0; i < Held; ++i)
        if (lane + lanes * i < experts && !in_kept_group(lane + lanes * i)) held[i] = key::lowest;
  }
  /// Of the experts [begin, end), in every lane.
  __device__ A group_score(int begin, int end) const {
    integer first = key::lowest, second = key::lowest;
    auto const see = [&](integer x) {
      integer const less = x > first ? first : x;
      first = x > first ? x : first;
      second = less > second ? less : second;
    };
    visit([&](int e, integer x) {
      if (e >= begin && e < end) see(x);
    });
    for (int step = lanes / 2; step > 0; step /= 2) {
      integer const x = __shfl_xor_sync(0xffffffffu, first, step), y = __shfl_xor_sync(0xffffffffu, second, step);
      see(x);
      see(y);
    }
    return bias != nullptr && end - begin > 1 ? key::number(first) + key::number(second) : key::number(first);
  }
};

template <class Kind, int Held, class T>
struct biased_choices {
  static constexpr int k = Kind::k;
  tensor<T const, dyn, dyn> logits;
  tensor<T const, dyn> bias;
  tensor<T, dyn, k> weight;
  tensor<int, dyn, k> expert;
  accumulator<T> scale;
  __device__ void operator()(index_t t, int lane) const {
    using A = accumulator<T>;
    using key = candidate_key<A>;
    warp_candidates<Kind, Held, T> const row(logits.row(t), bias.data(), static_cast<int>(logits.template extent<1>()), lane);
    ranked_expert<typename key::integer> last{key::highest, -1};
    A sum = 0, mine[(k + lanes - 1) / lanes] = {};  // lane l keeps the choices l, l + 32, ...
    int chosen[(k + lanes - 1) / lanes] = {};
#pragma unroll 1  // the scan of the candidates is long enough, and two of them side by side would spill
    for (int j = 0; j < k; ++j) {
      last = row.next(last);
      A const s = last.key == key::highest ? static_cast<A>(__builtin_nanf("")) : row.score(last.expert);  // the bias may be the NaN
      sum += s;
      if (j % lanes == lane) mine[j / lanes] = s, chosen[j / lanes] = last.expert;
    }
    for (int j = lane; j < k; j += lanes) {
      weight(t, j) = T(product(Kind::renormalise ? mine[j / lanes] / sum : mine[j / lanes], scale));
      expert(t, j) = chosen[j / lanes];
    }
  }
};
}  // namespace detail

/// The contract of biased_topk(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Throws  also shape_mismatch for more than 2^31 - 33 experts.
/// Order   sigmoid: in float and bf16 the bits of the CPU operator where that one has fused multiply-adds. Softmax: sums over all experts are one chain per
///         lane of a warp, then a tree of halves, so that nearly equal candidates may be ranked otherwise than there.
/// Cost    one warp per row, candidates in registers up to 512 experts; beyond they are computed again for each choice.
template <biased_topk_config C = biased_topk_config{}, class T>
void biased_topk(cuda const& space, in<T, dyn, dyn> logits, in<T, dyn> bias, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
  using kind = detail::biased_kind_of<C>;
  detail::check_biased_topk<C>("biased_topk", logits, weight, expert);
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_selection_bias("biased_topk", experts, bias);
  expects(experts <= std::numeric_limits<int>::max() - 32, errc::shape_mismatch, "biased_topk: ", experts, " experts, at most 2^31 - 33");
  auto const scale = static_cast<accumulator<T>>(C.scale);
  if (experts <= 4 * detail::lanes)
    for_each_row("biased_topk", space, tokens, detail::biased_choices<kind, 4, T>{logits, bias, weight, expert, scale});
  else if (experts <= 16 * detail::lanes)
    for_each_row("biased_topk", space, tokens, detail::biased_choices<kind, 16, T>{logits, bias, weight, expert, scale});
  else for_each_row("biased_topk", space, tokens, detail::biased_choices<kind, 0, T>{logits, bias, weight, expert, scale});
}

namespace detail {
/// One warp per row: first the gradient of an expert that was not chosen, for all of them, then those that were.
template <class Kind, class T>
struct biased_topk_gradient {
  static constexpr int k = Kind::k;
  tensor<T const, dyn, dyn> logits;
  tensor<T const, dyn, k> weight;
  tensor<int const, dyn, k> expert;
  tensor<T const, dyn, k> d_weight;
  tensor<T, dyn, dyn> d_logits;
  accumulator<T> scale;
  __device__ void operator()(index_t t, int lane) const {
    using A = accumulator<T>;
    constexpr bool sigmoid_scores = Kind::score == score_function::sigmoid;
    index_t const experts = logits.template extent<1>();
    T const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    A mean = 0;
    if constexpr (!sigmoid_scores || Kind::renormalise)
      for (int j = 0; j < k; ++j) mean = madd(static_cast<A>(weight(t, j)) / scale, static_cast<A>(d_weight(t, j)), mean);
    if constexpr (sigmoid_scores || Kind::renormalise) {
      for (index_t e = lane; e < experts; e += lanes) d_row[e] = T(0.0f);
    } else {
      A const top = warp_largest_logit<A>(row, experts, lane), inverse_sum = A(1) / warp_sum_of_exponentials(row, experts, top, lane);
      A const factor = product(-product(mean, scale), inverse_sum);
      for (index_t e = lane; e < experts; e += lanes) d_row[e] = T(product(exp_scalar(static_cast<A>(row[e]) - top), factor));
    }
    __syncwarp();  // another lane may have written the element of a chosen expert
    for (int j = lane; j < k; j += lanes) {
      int const e = expert(t, j);
      if (e < 0 || e >= experts) continue;
      A w = static_cast<A>(weight(t, j));
      if constexpr (sigmoid_scores) w = product(w, A(1) / (A(1) + exp_scalar(static_cast<A>(row[e]))));
      d_row[e] = T(product(w, static_cast<A>(d_weight(t, j)) - mean));
    }
  }
};
}  // namespace detail

/// The contract of biased_topk_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   experts are not checked: one outside [0, experts) is skipped, and of one named twice in a row the gradient is that of either choice.
/// Order   one warp per row. Sums over j ascending: but for softmax without renormalisation, the bits of the CPU operator where that one has fused
///         multiply-adds. Sums over all experts: one chain per lane, then a tree of halves.
template <biased_topk_config C = biased_topk_config{}, class T, index_t R, index_t E>
void biased_topk_backward(cuda const& space, in<T, dyn, dyn> logits, in<T, dyn, C.k> weight, in<int, dyn, C.k> expert, in<T, dyn, C.k> d_weight,
                          tensor<T, R, E> const& d_logits) {
  detail::check_biased_topk_backward<C>(logits, weight, expert, d_weight, d_logits);
  for_each_row(
      "biased_topk_backward", space, logits.template extent<0>(),
      detail::biased_topk_gradient<detail::biased_kind_of<C>, T>{logits, weight, expert, d_weight, d_logits, static_cast<accumulator<T>>(C.scale)});
}

}  // namespace moe::inline MOE_ISA
