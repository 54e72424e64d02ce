#pragma once
#include <moe/core/sequence_shape.hpp>
#include <moe/routing/score_function.hpp>
#include <moe/routing/topk.hpp>

namespace moe::inline MOE_ISA {

/// What a router reads. The layer forms the logits (a product with the router's weights), because auxiliary losses need them too.
template <class A>
struct router_input {
  matrix_view<A const> logits;  ///< [tokens, experts], tokens in the order of a batch
  vector_view<A const> bias;    ///< [experts] that a router with has_bias adds to the scores it selects by; else null
  sequence_shape shape;         ///< of the batch that the tokens are
};

/// What a layer asks of a router: how logits become choices, and how the gradient comes back. A type without objects; token_choice below has the
/// members that most routers share.
///
///   R::k                    slots of a token, each of which may hold a choice
///   R::rows(shape)          most choices that a batch makes: the rows that the experts get
///   R::has_bias, bias_rate  whether the layer keeps a selection bias, and what update_selection_bias moves it by after a step
///   R::jitter               the layer multiplies the router's input by 1 + jitter u, u uniform in [-1, 1), while it trains
///   R::score                what the balance loss sees of the logits
///   R::balanced             every expert gets as many tokens by construction: there is no balance loss
///   R::group_size           sequences that are looked at together, at one position; 1: every token by itself
///   R::scratch_bytes<A>(space, shape, experts)                               of forward and of backward
///   R::forward(space, input, weight, expert, scratch)                        weight, expert [tokens, k]; a slot without a choice: expert -1, weight 0
///   R::backward(space, input, weight, expert, d_weight, d_logits, scratch)   d_logits [tokens, experts] is overwritten; the selection is held constant
///
/// and, where forward looks at other tokens, what a token uses that is decoded by itself: R::decode, as forward, and R::decode_rows(tokens).
template <class R, class Space, class A>
concept router = execution_space<Space> && R::k >= 1 && R::group_size >= 1 &&
                 requires(Space const& space, router_input<A> input, tensor<A, dyn, R::k> weight, tensor<int, dyn, R::k> expert,
                          matrix_view<A> d_logits, sequence_shape shape, index_t n, arena& scratch) {
  { R::rows(shape) } -> std::convertible_to<index_t>;
  { R::has_bias } -> std::convertible_to<bool>;
  { R::balanced } -> std::convertible_to<bool>;
  { R::bias_rate } -> std::convertible_to<double>;
  { R::jitter } -> std::convertible_to<double>;
  { R::score } -> std::convertible_to<score_function>;
  { R::template scratch_bytes<A>(space, shape, n) } -> std::same_as<std::size_t>;
  R::forward(space, input, weight, expert, scratch);
  R::backward(space, input, weight, expert, weight, d_logits, scratch);
};

/// Defaults of a router in which each token makes K choices by itself.
template <int K>
struct token_choice {
  static_assert(K >= 1, "moe::token_choice: a token makes at least 1 choice");
  static constexpr int k = K;
  static constexpr index_t group_size = 1;
  static constexpr bool has_bias = false, balanced = false;
  static constexpr double bias_rate = 0, jitter = 0;
  static constexpr score_function score = score_function::softmax;
  static index_t rows(sequence_shape shape) { return detail::elements(shape.tokens(), k); }
  template <class A, class S>
  static std::size_t scratch_bytes(S const&, sequence_shape, index_t /*experts*/) {
    return 0;
  }
};

/// Softmax over the k largest logits, or (renormalise false) the k largest entries of the softmax over all: Mixtral and OLMoE.
template <topk_config C = topk_config{}>
struct softmax_topk_router : token_choice<C.k> {
  static_assert(C.k > 1 || !C.renormalise,
                "moe::softmax_topk_router: renormalised with k = 1 every weight is 1 and the router's gradient is zero: it never learns; "
                "set renormalise = false");
  static constexpr bool renormalise = C.renormalise;

  /// The contract of topk.
  template <execution_space Space, class A>
  static void forward(Space const& space, router_input<A> const& input, tensor<A, dyn, C.k> weight, tensor<int, dyn, C.k> expert, arena&) {
    topk<C>(space, input.logits, weight, expert);
  }
  /// The contract of topk_backward.
  template <execution_space Space, class A>
  static void backward(Space const& space, router_input<A> const& input, in<A, dyn, C.k> weight, in<int, dyn, C.k> expert, in<A, dyn, C.k> d_weight,
                       matrix_view<A> d_logits, arena&) {
    topk_backward<C>(space, input.logits, weight, expert, d_weight, d_logits);
  }
};

}  // namespace moe::inline MOE_ISA
