#pragma once
#include <algorithm>
#include <optional>

#include <moe/core/elementwise.hpp>
#include <moe/core/random.hpp>
#include <moe/nn/linear.hpp>
#include <moe/routing/balance.hpp>
#include <moe/routing/dispatch_plan.hpp>
#include <moe/routing/jitter.hpp>
#include <moe/routing/router.hpp>

namespace moe::inline MOE_ISA::nn {

/// The result of routing a batch: everything that experts, losses, reports and backward ask about it.
template <class Router, index_t Experts, class T>
struct routing_result {
  using router = Router;
  using A = accumulator<T>;  // logits and what is made of them are never rounded to bf16
  static constexpr int k = Router::k;
  matrix_view<A> logits;               ///< [tokens, experts]
  tensor<A, dyn, k> weight;            ///< [tokens, k]
  tensor<int, dyn, k> expert;          ///< [tokens, k]; -1: no choice
  dispatch_plan plan;                  ///< rows of the experts
  vector_view<double> losses;          ///< [3]  balance, z, entropy
  vector_view<index_t> load;           ///< [experts] choices since the selection bias was updated; null without one
  std::optional<random_stream> noise;  ///< of the passes to come, for a router with jitter; none: no jitter
  sequence_shape shape;

  template <class S>
  routing_result(S const& space, arena& a, sequence_shape n)
      : logits(a.mat<A>(n.tokens(), Experts)), weight(a.mat<A, k>(n.tokens())), expert(a.mat<int, k>(n.tokens())),
        plan(dispatch_plan::take(a, n.tokens(), k, Experts)), losses(a.vec<double>(3)), shape(n) {
    if constexpr (Router::has_bias) {
      load = a.vec<index_t>(Experts);
      if (load.data() != nullptr) fill_multiples(space, load, 0);
    }
  }
};

namespace detail {
/// Experts that a token uses, on average where a router leaves it open.
template <class Router>
constexpr index_t choices_of_a_token() {
  if constexpr (requires { Router::average_choices; }) return Router::average_choices;
  else return Router::k;
}

/// The part of a mixture-of-experts layer that chooses: from tokens to a routing_result, and back. Parameters come from the layer: `weight`
/// [experts, d_model] of a product, `bias` [experts] or null.
template <class Router, index_t Experts, int D>
struct router_stage {
  template <class T>
  using result = routing_result<Router, Experts, T>;
  static constexpr bool jitters = Router::jitter > 0;
  static constexpr bool decodes = requires { Router::decode_rows(index_t{}); };

  /// Rows of the experts at most: of a batch, and of tokens of one sequence that is decoded.
  static index_t rows(sequence_shape n) { return Router::rows(n); }
  static index_t decode_rows(index_t tokens) {
    if constexpr (decodes) return Router::decode_rows(tokens);
    else return Router::rows({1, tokens});
  }

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    using A = accumulator<T>;
    index_t const tokens = n.tokens();
    auto const own = measured([&](arena& a) {
      a.mat<A>(tokens, Experts);
      if constexpr (!std::is_same_v<A, T>) a.mat<T>(tokens, Experts);
      if constexpr (jitters) a.mat<T>(tokens, D), a.mat<T>(tokens, D);
    });
    return own + std::max({linear_scratch_bytes<T, layout::product>(space, tokens, Experts, D), Router::template scratch_bytes<A>(space, n, Experts),
                           make_dispatch_scratch_bytes(space, tokens, Experts), balance_losses_scratch_bytes<A>(space, n, Experts),
                           balance_losses_backward_scratch_bytes<A>(space, n, Experts)});
  }

  /// Fills all of r but the losses; an expert takes `limit` choices at most, 0: all of them.
  template <class S, class T>
  static void forward(S const& space, auto const& weight, vector_view<T const> bias, matrix_view<T const> x, result<T>& r, index_t limit,
                      arena& scratch) {
    arena::scope const scope(scratch);
    linear<T>(space, input_of(space, x, r, scratch), weight, r.logits, scratch);
    Router::forward(space, router_input<accumulator<T>>{r.logits, biases<T>(space, bias, scratch), r.shape}, r.weight, r.expert, scratch);
    r.plan.most_rows = rows(r.shape);
    make_dispatch(space, r.expert, limit, r.plan, scratch);
  }
  /// The same for tokens of one sequence, without its noise and its limit: both would make a token depend on the others of its call.
  template <class S, class T>
  static void decode(S const& space, auto const& weight, vector_view<T const> bias, matrix_view<T const> x, result<T>& r, arena& scratch) {
    arena::scope const scope(scratch);
    linear<T>(space, x, weight, r.logits, scratch);
    router_input<accumulator<T>> const input{r.logits, biases<T>(space, bias, scratch), r.shape};
    if constexpr (decodes) Router::decode(space, input, r.weight, r.expert, scratch);
    else Router::forward(space, input, r.weight, r.expert, scratch);
    r.plan.most_rows = decode_rows(x.rows());
    make_dispatch(space, r.expert, 0, r.plan, scratch);
  }

  template <class S, class T>
  static void compute_losses(S const& space, balance_config config, result<T>& r, arena& scratch) {
    balance_losses<accumulator<T>>(space, r.logits, r.plan.counts, Router::k, config, r.losses, scratch, {r.expert, r.shape});
  }

  /// d_x += what reaches the tokens through the choice of experts; g += the gradient of the router's weight. The load is counted.
  template <class S, class T>
  static void backward(S const& space, auto const& weight, auto const& g, vector_view<T const> bias, matrix_view<T const> x, result<T>& r,
                       tensor<accumulator<T>, dyn, Router::k> d_weight, balance_config config, double scale, matrix_view<T> d_x, arena& scratch) {
    using A = accumulator<T>;
    arena::scope const scope(scratch);
    auto const d_logits = scratch.mat<A>(x.rows(), Experts);
    Router::backward(space, router_input<A>{r.logits, biases<T>(space, bias, scratch), r.shape}, r.weight, r.expert, d_weight, d_logits, scratch);
    balance_losses_backward(space, r.logits, r.plan.counts, Router::k, config, A(scale), d_logits, scratch, {r.expert, r.shape});
    if constexpr (Router::has_bias) add<index_t>(space, as_row(r.plan.counts), as_row(r.load));
    matrix_view<T> rounded;
    if constexpr (std::is_same_v<A, T>) rounded = d_logits;
    else rounded = scratch.mat<T>(x.rows(), Experts), convert<A>(space, d_logits, rounded);
    if constexpr (jitters) {
      if (r.noise) {
        auto const d_input = scratch.mat<T>(x.rows(), D);
        linear_backward<T>(space, input_of(space, x, r, scratch), weight, rounded, d_input, g, scratch);
        jitter(space, d_input, Router::jitter, *r.noise, d_input);
        return add<T>(space, d_input, d_x);
      }
    }
    linear_backward<T, true>(space, x, weight, rounded, d_x, g, scratch);
  }

 private:
  template <class E>
  static matrix_view<E> as_row(vector_view<E> v) {
    return matrix_view<E>(v.data(), 1, v.size());
  }
  template <class S, class T>
  static matrix_view<T const> input_of(S const& space, matrix_view<T const> x, result<T> const& r, arena& scratch) {
    if constexpr (jitters) {
      if (r.noise) {
        auto const noisy = scratch.mat<T>(x.rows(), D);
        jitter(space, x, Router::jitter, *r.noise, noisy);
        return noisy;
      }
    }
    return x;
  }
  /// The bias as routers read it: never of bf16, though as a weight of a bf16 pass it was rounded to it.
  template <class T, class S>
  static vector_view<accumulator<T> const> biases(S const& space, vector_view<T const> bias, arena& scratch) {
    if constexpr (std::is_same_v<accumulator<T>, T> || !Router::has_bias) {
      if constexpr (Router::has_bias) return bias;
      else return {};
    } else {
      auto const wide = scratch.vec<accumulator<T>>(Experts);
      convert<T>(space, as_row(bias), as_row(wide));
      return wide;
    }
  }
};
}  // namespace detail

}  // namespace moe::inline MOE_ISA::nn
