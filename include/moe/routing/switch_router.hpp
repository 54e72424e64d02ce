#pragma once
#include <moe/routing/router.hpp>

namespace moe::inline MOE_ISA {

struct switch_config {
  double jitter = 0;  ///< while it trains, the layer multiplies the router's input by 1 + jitter u, u uniform in [-1, 1); Switch: 0.01
};

/// One expert per token, the one with the largest logit, weighed by its probability among all experts. How many tokens an expert takes is the layer's
/// capacity_factor; the balance loss (there called alpha, 0.01) is the layer's too.
///
/// Source  Fedus et al. 2021, arXiv:2101.03961, section 2.1.
template <switch_config C = switch_config{}>
struct switch_router : token_choice<1> {
  static_assert(C.jitter >= 0 && C.jitter < 1, "moe::switch_router: switch_config::jitter must be in [0, 1)");
  static constexpr double jitter = C.jitter;
  static constexpr topk_config choice{.k = 1, .renormalise = false};

  /// The contract of topk, not renormalised.
  template <execution_space Space, class A>
  static void forward(Space const& space, router_input<A> const& input, tensor<A, dyn, 1> weight, tensor<int, dyn, 1> expert, arena&) {
    topk<choice>(space, input.logits, weight, expert);
  }
  /// The contract of topk_backward, not renormalised.
  template <execution_space Space, class A>
  static void backward(Space const& space, router_input<A> const& input, in<A, dyn, 1> weight, in<int, dyn, 1> expert, in<A, dyn, 1> d_weight,
                       matrix_view<A> d_logits, arena&) {
    topk_backward<choice>(space, input.logits, weight, expert, d_weight, d_logits);
  }
};

}  // namespace moe::inline MOE_ISA
