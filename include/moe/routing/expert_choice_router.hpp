#pragma once
#include <algorithm>
#include <cmath>

#include <moe/core/elementwise.hpp>
#include <moe/routing/expert_choice.hpp>
#include <moe/routing/router.hpp>

namespace moe::inline MOE_ISA {

/// The tokens that stand for election together.
enum class choice_pool {
  examples,  ///< of `group` neighbouring sequences at one position: causal
  batch,     ///< all of a batch: not causal, an expert's choice at a position depends on later ones
};

struct expert_choice_config {
  int experts = 8;             ///< as many as the layer has
  double capacity_factor = 2;  ///< experts of a token on average
  choice_pool pool = choice_pool::examples;
  int group = 32;  ///< sequences of a pool of examples; the number of sequences of a batch is a multiple
};

/// Each expert takes its share of the tokens of a pool, those with the largest softmax score, which is their combine weight: tokens have different numbers
/// of experts, experts have equal numbers of tokens, and no loss has to see to it. Slot e of a token is that of expert e. An expert takes at least one
/// token of a pool: where a pool has fewer than experts / capacity_factor tokens, a token has more experts than that on average.
///
/// Decoding. A token of a single sequence has no pool. `decode` lets it choose instead: the ceil(capacity_factor) experts with its largest scores, same
/// weights. That is another function than training used, and its loss is another. A whole group of sequences that is decoded side by side
/// (extend_group) goes through forward: with a pool of examples this is exactly what training did. With a pool of the batch there is no such way, since
/// the choice at a position depends on those behind it: the loss of training then includes what decoding cannot know.
///
/// Source  Zhou et al. 2022, arXiv:2202.09368; pools of examples: Ludziejewski et al. 2024, arXiv:2402.07871 (its code).
template <expert_choice_config C = expert_choice_config{}>
struct expert_choice_router : token_choice<C.experts> {
  static_assert(C.experts >= 1 && C.group >= 1, "moe::expert_choice_router: experts and group must be at least 1");
  static_assert(C.capacity_factor > 0 && C.capacity_factor <= C.experts,
                "moe::expert_choice_router: expert_choice_config::capacity_factor must be in (0, experts]");
  static constexpr bool balanced = true;
  static constexpr index_t group_size = C.pool == choice_pool::examples ? C.group : 1;

  /// Tokens that an expert takes of a pool of n: the share of each that makes capacity_factor experts a token, rounded, 1 at least.
  static constexpr index_t capacity(index_t n) {
    auto const share = static_cast<index_t>(static_cast<double>(n) * C.capacity_factor / C.experts + 0.5);
    return share < 1 ? (n < 1 ? n : 1) : share > n ? n : share;
  }
  /// Experts that a token uses, on average and rounded up.
  static constexpr index_t average_choices =
      C.pool == choice_pool::examples ? (C.experts * capacity(C.group) + C.group - 1) / C.group
                                      : static_cast<index_t>(C.capacity_factor) + (C.capacity_factor > static_cast<int>(C.capacity_factor));

  static index_t rows(sequence_shape shape) {
    token_groups const pools = pools_of(shape);
    return pools.count() * capacity(pools.size) * C.experts;
  }
  /// Of a batch that does not make whole pools: nothing, as it can only be decoded.
  template <class A, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape shape, index_t /*experts*/) {
    if (C.pool == choice_pool::examples && shape.sequences % C.group != 0) return 0;
    return expert_choice_scratch_bytes<A, C.experts>(space, pools_of(shape));
  }

  /// The contract of expert_choice. Throws bad_argument for a batch that does not make whole pools.
  template <execution_space Space, class A>
  static void forward(Space const& space, router_input<A> const& input, tensor<A, dyn, C.experts> weight, tensor<int, dyn, C.experts> expert,
                      arena& scratch) {
    token_groups const pools = pools_of(input.shape);
    expert_choice<A, C.experts>(space, input.logits, pools, capacity(pools.size), weight, expert, scratch);
  }
  /// The contract of expert_choice_backward.
  template <execution_space Space, class A>
  static void backward(Space const& space, router_input<A> const& input, in<A, dyn, C.experts> /*weight*/, in<int, dyn, C.experts> expert,
                       in<A, dyn, C.experts> d_weight, matrix_view<A> d_logits, arena&) {
    expert_choice_backward<A, C.experts>(space, input.logits, expert, d_weight, d_logits);
  }

  static constexpr int decoded_choices = static_cast<int>(C.capacity_factor) + (C.capacity_factor > static_cast<int>(C.capacity_factor));
  static index_t decode_rows(index_t tokens) { return detail::elements(tokens, decoded_choices); }
  /// Each token takes the decoded_choices experts of its largest scores, in its first slots: the contract of topk, not renormalised.
  template <execution_space Space, class A>
  static void decode(Space const& space, router_input<A> const& input, tensor<A, dyn, C.experts> weight, tensor<int, dyn, C.experts> expert, arena&) {
    constexpr topk_config choice{.k = decoded_choices, .renormalise = false};
    topk<choice>(space, input.logits, tensor<A, dyn, choice.k>(columns_of(weight, 0, choice.k)),
                 tensor<int, dyn, choice.k>(columns_of(expert, 0, choice.k)));
    fill(space, columns_of(weight, choice.k, C.experts), A(0));
    fill(space, columns_of(expert, choice.k, C.experts), -1);
  }

 private:
  static token_groups pools_of(sequence_shape shape) {
    return C.pool == choice_pool::examples ? groups_of(shape, C.group) : one_group(shape.tokens());
  }
};

}  // namespace moe::inline MOE_ISA
