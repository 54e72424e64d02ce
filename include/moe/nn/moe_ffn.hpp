#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/nn/detail/router_stage.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/routing/dispatch.hpp>

namespace moe::inline MOE_ISA::nn {

struct moe_ffn_config {
  int d_model = 0;
  int d_ff = 0;     ///< width of an expert before it is split: granularity G makes G experts of width d_ff / G out of it
  int experts = 8;  ///< before the split: the layer has experts * granularity of them
  int granularity = 1;
  int k = 0;                ///< experts per token; 0: granularity, so that the active parameters do not depend on it
  bool renormalise = true;  ///< combine weights: softmax over the chosen logits (true), or the chosen entries of the softmax over all
  activation_kind activation = activation_kind::swiglu;
  int shared_experts = 0;      ///< of width d_ff / G, used by every token
  double capacity_factor = 0;  ///< an expert takes at most ceil(factor * k * tokens / experts) choices, in order; 0: all (dropless)
  balance_config losses = {};  ///< coefficients of the balance loss, of the batch or per sequence, and of the z-loss; its scores are the router's
  double output_gain = 1;      ///< multiplies the initial standard deviation of the output weights, 1 / sqrt(width)
};

/// Mixture of fine-grained experts:  y[t] = sum_j weight[t, j] * ffn_{expert[t, j]}(x[t])  (+ ffn_shared(x[t])), experts chosen by a router from logits x w_router^T.
/// Of the forward pass it keeps the pre-activation and the routing metadata (x is the caller's): activation memory does not grow as experts get finer.
/// The balance loss and the z-loss add their gradient in backward, times `scale`.
///
/// Router: a policy as in routing/router.hpp; the default follows the config.
/// Source  Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, DeepSeekMoE, arXiv:2401.06066; Ludziejewski et al. 2024, arXiv:2402.07871 (granularity).
template <moe_ffn_config C, class Router = softmax_topk_router<topk_config{.k = (C.k > 0 ? C.k : C.granularity), .renormalise = C.renormalise}>>
struct moe_ffn : layer_base {
  static_assert(C.d_model >= 1 && C.d_ff >= 1, "moe::nn::moe_ffn: d_model and d_ff must be at least 1");
  static_assert(C.experts >= 1 && C.granularity >= 1, "moe::nn::moe_ffn: experts and granularity must be at least 1");
  static_assert(C.d_ff % C.granularity == 0, "moe::nn::moe_ffn: granularity must divide d_ff");
  static_assert(C.shared_experts >= 0, "moe::nn::moe_ffn: shared_experts must not be negative");
  static_assert(C.capacity_factor >= 0, "moe::nn::moe_ffn: capacity_factor must not be negative");
  static constexpr std::string_view name = "ffn";
  static constexpr int d_model = C.d_model;
  static constexpr int k = Router::k;
  static constexpr index_t experts = index_t{C.experts} * C.granularity, width = C.d_ff / C.granularity,
                           pre_width = detail::input_matrices(C.activation) * width;
  static_assert(!Router::balanced || k == experts, "moe::nn::moe_ffn: the router is of another number of experts than experts * granularity");
  static_assert(k <= experts, "moe::nn::moe_ffn: k must not exceed the number of experts, experts * granularity");
  static constexpr index_t group_size = Router::group_size;
  static constexpr balance_config losses = [] {
    balance_config c = C.losses;
    c.score = Router::score;
    if (Router::balanced) c.balance = 0;
    return c;
  }();

  static constexpr auto parameters = [] {
    auto const make = [](auto const&... last) {
      return parameter_list(product_weight<1, experts, d_model>{"router.weight", parameter_group::router, scaled_normal(d_model)},
                            product_weight<experts, pre_width, d_model>{"experts.in.weight", parameter_group::expert, scaled_normal(d_model)},
                            product_weight<experts, d_model, width>{"experts.out.weight", parameter_group::expert, scaled_normal(width, C.output_gain)},
                            last...);
    };
    if constexpr (Router::has_bias) return make(parameter<1, 1, experts>{"router.bias", parameter_group::router_bias, {}});
    else return make();
  }();
  static constexpr bool has_shared = C.shared_experts > 0;
  using shared = ffn<ffn_config{.d_model = C.d_model,
                                .d_ff = has_shared ? C.shared_experts* static_cast<int>(width) : 1,
                                .activation = C.activation,
                                .output_gain = C.output_gain}>;
  static constexpr index_t parameter_count = parameters.size + (has_shared ? shared::parameter_count : 0);

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
    if constexpr (has_shared) shared::for_each_parameter(prefix + "shared.", first + parameters.size, f);
  }
  static constexpr index_t active_parameters() {
    return experts * d_model + used_experts * (pre_width + width) * d_model + (has_shared ? shared::active_parameters() : 0);
  }
  static constexpr double flops_per_token(index_t) { return 2.0 * active_parameters(); }
  /// Choices an expert takes of `tokens` tokens; 0: all. A router that balances by construction has a capacity of its own.
  static index_t capacity(index_t tokens) {
    return C.capacity_factor == 0 || Router::balanced
               ? 0
               : std::max<index_t>(1, static_cast<index_t>(std::ceil(C.capacity_factor * k * static_cast<double>(tokens) / experts)));
  }

  template <class T>
  using routing = routing_result<Router, experts, T>;
  template <class T>
  struct activations {
    matrix_view<T const> x;
    routing<T> routed;
    matrix_view<T> pre;  // [rows, pre_width], sorted by expert
    typename shared::template activations<T> common;
    template <class S>
    activations(S const& space, arena& a, sequence_shape n)
        : routed(space, a, n), pre(a.mat<T>(Router::rows(n), pre_width)), common(space, a, has_shared ? n : sequence_shape{}) {}
  };
  template <class T>
  using state = typename layer_base::template stateless<T>;

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    index_t const tokens = n.tokens(), rows = Router::rows(n);
    auto const own = detail::measured([&](arena& a) {
      a.mat<T>(rows, width), a.mat<T>(rows, pre_width), a.mat<T>(rows, part<S>), a.mat<accumulator<T>>(tokens, k);
      a.mat<T>(tokens, d_model);
    });
    return own + std::max({product_bytes<T>(space, rows), router_stage::template scratch_bytes<T>(space, n),
                           has_shared ? shared::template scratch_bytes<T>(space, n) : 0});
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t tokens, index_t capacity) {
    return decode_bytes<T>(space, {1, tokens}, router_stage::decode_rows(tokens), capacity);
  }
  template <class T, class S>
  static std::size_t extend_group_scratch_bytes(S const& space, sequence_shape n, index_t capacity) {
    return decode_bytes<T>(space, n, Router::rows(n), capacity);
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    a.x = x;
    router_stage::forward(space, parameters.template at<0>(space, w), bias_of(space, w), x, a.routed, capacity(x.rows()), scratch);
    router_stage::template compute_losses<S, T>(space, losses, a.routed, scratch);
    run_experts(space, w, x, a.routed, a.pre, y, scratch);
    if constexpr (has_shared) {
      arena::scope const scope(scratch);
      auto const z = scratch.mat<T>(x.rows(), d_model);
      shared::forward(space, detail::past(w, parameters.size), x, z, n, a.common, scratch);
      add<T>(space, z, y);
    }
  }

  /// Nothing is dropped when decoding: a capacity would make a token depend on the others of its call.
  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    arena::scope const scope(scratch);
    routing<T> routed(space, scratch, {1, x.rows()});
    router_stage::decode(space, parameters.template at<0>(space, w), bias_of(space, w), x, routed, scratch);
    run_experts(space, w, x, routed, scratch.mat<T>(router_stage::decode_rows(x.rows()), pre_width), y, scratch);
    extend_shared(space, w, x, y, position, s, scratch);
  }
  /// As forward routes: with a router that looks at other sequences.
  template <class S, class T, class States>
  static void extend_group(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, sequence_shape n,
                           States const& states, arena& scratch) {
    arena::scope const scope(scratch);
    routing<T> routed(space, scratch, n);
    router_stage::forward(space, parameters.template at<0>(space, w), bias_of(space, w), x, routed, 0, scratch);
    run_experts(space, w, x, routed, scratch.mat<T>(Router::rows(n), pre_width), y, scratch);
    extend_shared(space, w, x, y, position, states(0), scratch);
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double scale, arena& scratch) {
    arena::scope const scope(scratch);
    index_t const tokens = n.tokens();
    auto const d_weight = scratch.mat<accumulator<T>, k>(tokens);
    backward_experts(space, w, g, d_y, d_x, a, d_weight, scratch);
    router_stage::template backward<S, T>(space, parameters.template at<0>(space, w), parameters.template at<0>(space, g), bias_of(space, w), a.x,
                                          a.routed, d_weight, losses, scale, d_x, scratch);
    if constexpr (has_shared) {
      auto const z = scratch.mat<T>(tokens, d_model);
      shared::backward(space, detail::past(w, parameters.size), detail::past(g, parameters.size), d_y, z, n, a.common, scale, scratch);
      add<T>(space, z, d_x);
    }
  }

  template <class T, class F>
  static void for_each_router(activations<T>& a, F const& f) {
    f(a.routed);
  }

 private:
  using router_stage = detail::router_stage<Router, experts, d_model>;
  static constexpr index_t used_experts = detail::choices_of_a_token<Router>();

  template <class S, class T>
  static vector_view<T const> bias_of(S const& space, T const* w) {
    if constexpr (Router::has_bias) return parameters.template at<3>(space, w);
    else return {};
  }
  template <class S, class T>
  static void extend_shared(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    if constexpr (has_shared) {
      auto const z = scratch.mat<T>(x.rows(), d_model);
      shared::extend(space, detail::past(w, parameters.size), x, z, position, s, scratch);
      add<T>(space, z, y);
    }
  }

  /// Rows of width d_model for every choice of a token would take k times the memory of the tokens. Packed weights can be taken in parts: columns of
  /// as many elements as the tokens have, of all choices.
  template <class S>
  static constexpr index_t part = keeps_panels<S> ? std::min<index_t>(d_model, (d_model + 32 * k - 1) / (32 * k) * 32) : d_model;
  template <class S, class F>
  static void for_each_part(F const& f) {
    for (index_t begin = 0; begin < d_model; begin += part<S>) f(begin, std::min<index_t>(d_model, begin + part<S>));
  }

  template <class S, class T>
  static void run_experts(S const& space, T const* w, matrix_view<T const> x, routing<T> const& r, matrix_view<T> pre, matrix_view<T> y,
                          arena& scratch) {
    arena::scope const scope(scratch);
    index_t const rows = pre.rows();
    auto const h = scratch.mat<T>(rows, width), out = scratch.mat<T>(rows, part<S>);
    auto const up = parameters.template at<1>(space, w);
    if constexpr (keeps_panels<S>) hidden_forward<C.activation, T>(space, x, r.plan.offsets, up, pre, h, scratch, first(r.plan.token, rows));
    else grouped_gemm(space, x, r.plan.offsets, up, pre, scratch, first(r.plan.token, rows)), detail::activate<C.activation, S, T>(space, pre, h);
    auto const down = parameters.template at<2>(space, w);
    for_each_part<S>([&](index_t begin, index_t end) {
      auto const o = columns_of(out, 0, end - begin);
      if constexpr (keeps_panels<S>) grouped_gemm(space, h, r.plan.offsets, down.outputs(begin, end), o, scratch);
      else grouped_gemm(space, h, r.plan.offsets, down, o, scratch);
      combine(space, o, r.weight, r.plan, columns_of(y, begin, end));
    });
  }

  /// d_x from the experts, their weight gradients, and the gradient of the combine weights.
  template <class S, class T>
  static void backward_experts(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, activations<T>& a,
                               tensor<accumulator<T>, dyn, k> d_weight, arena& scratch) {
    arena::scope const scope(scratch);
    dispatch_plan const& plan = a.routed.plan;
    index_t const rows = a.pre.rows();
    auto const token = first(plan.token, rows);
    auto const h = scratch.mat<T>(rows, width), d_pre = scratch.mat<T>(rows, pre_width), d_h = columns_of(d_pre, 0, width),
               d_rows = scratch.mat<T>(rows, part<S>);
    grouped_gemm<grouped_gemm_config{.transpose_w = false}>(space, d_y, plan.offsets, parameters.template at<2>(space, w), d_h, scratch, token);
    hidden_backward<C.activation, T>(space, plan.slot, a.routed.weight, a.pre, d_h, h, d_pre, d_weight);
    grouped_gemm_weight_gradient<weight_gradient_config{.accumulate = true}>(space, d_y, h, plan.offsets, parameters.template at<2>(space, g),
                                                                             scratch, token);
    grouped_gemm_weight_gradient<weight_gradient_config{.accumulate = true}>(space, d_pre, a.x, plan.offsets, parameters.template at<1>(space, g),
                                                                             scratch, {}, token);
    constexpr grouped_gemm_config input_gradient{.transpose_w = false};
    auto const up = parameters.template at<1>(space, w);
    for_each_part<S>([&](index_t begin, index_t end) {
      auto const d = columns_of(d_rows, 0, end - begin);
      if constexpr (keeps_panels<S>) grouped_gemm<input_gradient>(space, d_pre, plan.offsets, up.inputs(begin, end), d, scratch);
      else grouped_gemm<input_gradient>(space, d_pre, plan.offsets, up, d, scratch);
      dispatch_backward(space, d, plan, k, columns_of(d_x, begin, end));
    });
  }

  static vector_view<int const> first(vector_view<int> all, index_t n) { return vector_view<int const>(all.data(), n); }

  template <class T, class S>
  static std::size_t decode_bytes(S const& space, sequence_shape n, index_t rows, index_t capacity) {
    auto const own = detail::measured([&](arena& a) {
      routing<T>(space, a, n), a.mat<T>(rows, pre_width), a.mat<T>(rows, width), a.mat<T>(rows, part<S>), a.mat<T>(n.tokens(), d_model);
    });
    return own + std::max({product_bytes<T>(space, rows), router_stage::template scratch_bytes<T>(space, n),
                           has_shared ? shared::template extend_scratch_bytes<T>(space, n.tokens(), capacity) : 0});
  }
  template <class T, class S>
  static std::size_t product_bytes(S const& space, index_t rows) {
    return std::max(grouped_linear_scratch_bytes<T>(space, experts, rows, pre_width, d_model),
                    grouped_linear_scratch_bytes<T>(space, experts, rows, d_model, width));
  }
};

}  // namespace moe::inline MOE_ISA::nn
