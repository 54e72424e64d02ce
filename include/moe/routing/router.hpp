#pragma once
#include <moe/routing/topk.hpp>

namespace moe::inline MOE_ISA {

/// What a layer asks of a router: how the logits of its tokens become choices, and how the gradient comes back. The layer forms the logits (a product
/// with the router's weights), because auxiliary losses need them too. R::k, the experts of a token, is part of the router's type.
template <class R, class Space, class T>
concept router = execution_space<Space> && R::k >= 1 &&
                 requires(Space const& space, tensor<T const, dyn, dyn> logits, tensor<T, dyn, R::k> weight, tensor<int, dyn, R::k> expert,
                          tensor<T, dyn, dyn> d_logits) {
                   R::forward(space, logits, weight, expert);                     // [tokens, experts] -> [tokens, k] twice
                   R::backward(space, logits, weight, expert, weight, d_logits);  // the fifth is d_weight; d_logits is overwritten
                 };

/// Softmax over the k largest logits, or (renormalise false) the k largest entries of the softmax over all: Mixtral and OLMoE. Nothing to learn
/// beside the weights that make the logits.
template <topk_config C = topk_config{}>
struct softmax_topk_router {
  static_assert(C.k >= 1, "moe::softmax_topk_router: topk_config::k must be at least 1");
  static_assert(C.k > 1 || !C.renormalise,
                "moe::softmax_topk_router: renormalised with k = 1 every weight is 1 and the router's gradient is zero: it never learns; "
                "set renormalise = false");
  static constexpr int k = C.k;
  static constexpr bool renormalise = C.renormalise;

  /// The contract of topk.
  template <execution_space Space, class T>
  static void forward(Space const& space, in<T, dyn, dyn> logits, tensor<T, dyn, C.k> weight, tensor<int, dyn, C.k> expert) {
    topk<C>(space, logits, weight, expert);
  }
  /// The contract of topk_backward.
  template <execution_space Space, class T>
  static void backward(Space const& space, in<T, dyn, dyn> logits, in<T, dyn, C.k> weight, in<int, dyn, C.k> expert, in<T, dyn, C.k> d_weight,
                       tensor<T, dyn, dyn> d_logits) {
    topk_backward<C>(space, logits, weight, expert, d_weight, d_logits);
  }
};

}  // namespace moe::inline MOE_ISA
