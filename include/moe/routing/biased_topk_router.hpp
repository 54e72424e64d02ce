#pragma once
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/router.hpp>

namespace moe::inline MOE_ISA {

struct router_bias_config {
  bool kept = true;     ///< the layer keeps a selection bias; false: experts are selected by their scores alone
  double rate = 0.001;  ///< what the bias moves by after a step: update_selection_bias
};

/// The k experts with the largest score + bias, in the best groups where they are limited, weighed by their scores: DeepSeek-V3. The bias balances the
/// load without a loss. The layer's balance loss may be added, and sees the same scores.
///
/// Source  DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; Wang et al. 2024, arXiv:2408.15664.
template <biased_topk_config C = biased_topk_config{}, router_bias_config B = router_bias_config{}>
struct biased_topk_router : token_choice<C.k> {
  static_assert(C.k > 1 || !C.renormalise,
                "moe::biased_topk_router: renormalised with k = 1 every weight is the same and the router's gradient is zero: it never learns; "
                "set renormalise = false");
  static_assert(B.rate >= 0 && B.rate < 1e30, "moe::biased_topk_router: router_bias_config::rate must be finite and not negative");
  static constexpr bool has_bias = B.kept;
  static constexpr double bias_rate = B.rate;
  static constexpr score_function score = C.score;

  /// The contract of biased_topk.
  template <execution_space Space, class A>
  static void forward(Space const& space, router_input<A> const& input, tensor<A, dyn, C.k> weight, tensor<int, dyn, C.k> expert, arena&) {
    biased_topk<C>(space, input.logits, input.bias, weight, expert);
  }
  /// The contract of biased_topk_backward.
  template <execution_space Space, class A>
  static void backward(Space const& space, router_input<A> const& input, in<A, dyn, C.k> weight, in<int, dyn, C.k> expert, in<A, dyn, C.k> d_weight,
                       matrix_view<A> d_logits, arena&) {
    biased_topk_backward<C>(space, input.logits, weight, expert, d_weight, d_logits);
  }
};

}  // namespace moe::inline MOE_ISA
