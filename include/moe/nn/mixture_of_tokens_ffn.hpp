#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/mix/group_softmax.hpp>
#include <moe/mix/token_mixing.hpp>
#include <moe/nn/ffn.hpp>

namespace moe::inline MOE_ISA::nn {

struct mixture_of_tokens_ffn_config {
  int d_model = 0;
  int d_ff = 0;         ///< width of an expert before it is split: granularity G makes G experts of width d_ff / G out of it
  int experts = 32;     ///< before the split: the layer has experts * granularity of them
  int granularity = 1;  ///< mixtures that an expert's share of compute is split into
  int group = 32;       ///< sequences whose tokens at one position are mixed; with experts == group a token costs what a dense layer of d_ff costs
  activation_kind activation = activation_kind::swiglu;
  double temperature = 1;
  double output_gain = 1;  ///< multiplies the initial standard deviation of the output weights, 1 / sqrt(width)
};

/// Mixture of Tokens: every expert sees one mixture of the tokens of a group, and every token gets a mixture of their answers, by the same weights.
///   weight[i, e] = softmax over the members i of a group of x[i] w_router[e] / temperature
///   y[i] = sum_e weight[i, e] ffn_e(sum_j weight[j, e] x[j]),  j of the group of i
/// A group is the tokens of `group` neighbouring sequences of the batch at the same position: nothing looks at a later position, no token is dropped,
/// no loss balances, and there is nothing to choose, so all of it has a gradient.
///
/// A token's output depends on the other sequences of its group, in training and in decoding: batches are multiples of `group`, and decoding needs a
/// group of sequences side by side (language_model::logits_of_group). The parameters have the names and shapes of moe_ffn's: a checkpoint of one is a
/// checkpoint of the other, which is how transition tuning makes a model for single sequences.
///
/// Of the forward pass it keeps the weights and the pre-activations, tokens / group for each expert; mixtures and answers are formed again in backward,
/// the latter at the cost of one more product. Scratch grows with granularity, activations do not.
///
/// Source  Antoniak et al. 2023, arXiv:2310.15961; the code of its authors has the same weights for mixing and redistribution.
template <mixture_of_tokens_ffn_config C>
struct mixture_of_tokens_ffn : layer_base {
  static_assert(C.d_model >= 1 && C.d_ff >= 1, "moe::nn::mixture_of_tokens_ffn: d_model and d_ff must be at least 1");
  static_assert(C.experts >= 1 && C.granularity >= 1 && C.group >= 1,
                "moe::nn::mixture_of_tokens_ffn: experts, granularity and group must be at least 1");
  static_assert(C.d_ff % C.granularity == 0, "moe::nn::mixture_of_tokens_ffn: granularity must divide d_ff");
  static_assert(C.temperature > 0, "moe::nn::mixture_of_tokens_ffn: temperature must be positive");
  static constexpr std::string_view name = "ffn";
  static constexpr int d_model = C.d_model;
  static constexpr index_t group_size = C.group;
  static constexpr index_t experts = index_t{C.experts} * C.granularity, width = C.d_ff / C.granularity,
                           pre_width = detail::input_matrices(C.activation) * width;

  static constexpr auto parameters =
      parameter_list(product_weight<1, experts, d_model>{"router.weight", parameter_group::router, scaled_normal(d_model)},
                     product_weight<experts, pre_width, d_model>{"experts.in.weight", parameter_group::expert, scaled_normal(d_model)},
                     product_weight<experts, d_model, width>{"experts.out.weight", parameter_group::expert, scaled_normal(width, C.output_gain)});
  static constexpr index_t parameter_count = parameters.size;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
  /// Every expert works once for a group: what falls to a token is its share.
  static constexpr index_t active_parameters() { return experts * d_model + experts * (pre_width + width) * d_model / C.group; }
  /// Of the experts, of the controller, of mixing and of redistribution.
  static constexpr double flops_per_token(index_t) { return 2.0 * static_cast<double>(active_parameters() + 2 * experts * d_model); }

  template <class T>
  struct activations {
    matrix_view<T const> x;
    token_groups groups;
    matrix_view<accumulator<T>> weight;  // [tokens, experts]
    vector_view<index_t> offsets;        // [experts + 1]: as many rows for each expert as there are groups
    matrix_view<T> pre;                  // [experts * groups, pre_width]
    template <class S>
    activations(S const& space, arena& a, sequence_shape n)
        : groups(groups_of(n, C.group)), weight(a.mat<accumulator<T>>(n.tokens(), experts)), offsets(a.vec<index_t>(experts + 1)),
          pre(a.mat<T>(experts * groups.count(), pre_width)) {
      if (offsets.data() != nullptr) fill_multiples(space, offsets, groups.count());
    }
    index_t rows() const { return pre.rows(); }
  };
  template <class T>
  using state = typename layer_base::template stateless<T>;

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    index_t const rows = experts * groups_of(n, C.group).count();
    auto const own = detail::measured([&](arena& a) {
      a.mat<accumulator<T>>(n.tokens(), experts), a.mat<T>(n.tokens(), experts);
      a.mat<T>(rows, d_model), a.mat<T>(rows, d_model), a.mat<T>(rows, width), a.mat<T>(rows, pre_width);
    });
    return own + product_bytes<T>(space, n.tokens(), rows);
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t capacity) {
    return extend_group_scratch_bytes<T>(space, {C.group, rows}, capacity);
  }
  template <class T, class S>
  static std::size_t extend_group_scratch_bytes(S const& space, sequence_shape n, index_t) {
    return detail::measured([&](arena& a) { activations<T>(space, a, n); }) + scratch_bytes<T>(space, n);
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    detail::check_tokens("mixture_of_tokens_ffn", x.rows(), n);
    arena::scope const scope(scratch);
    a.x = x;
    linear<T>(space, x, parameters.template at<0>(space, w), a.weight, scratch);
    group_softmax(space, a.weight, a.groups, C.temperature, a.weight);
    auto const mixed = scratch.mat<T>(a.rows(), d_model);
    auto const h = scratch.mat<T>(a.rows(), width);
    mix_tokens<T>(space, x, a.weight, a.groups, mixed);
    auto const up = parameters.template at<1>(space, w);
    if constexpr (keeps_panels<S>) hidden_forward<C.activation, T>(space, mixed, a.offsets, up, a.pre, h, scratch);
    else grouped_gemm(space, mixed, a.offsets, up, a.pre, scratch), detail::activate<C.activation, S, T>(space, a.pre, h);
    grouped_gemm(space, h, a.offsets, parameters.template at<2>(space, w), mixed, scratch);
    redistribute_tokens<T>(space, mixed, a.weight, a.groups, y);
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double /*scale*/, arena& scratch) {
    arena::scope const scope(scratch);
    constexpr grouped_gemm_config input_gradient{.transpose_w = false};
    constexpr weight_gradient_config added{.accumulate = true};
    auto const up = parameters.template at<1>(space, w), down = parameters.template at<2>(space, w);
    auto const d_weight = scratch.mat<accumulator<T>>(n.tokens(), experts);
    auto const d_mixed = scratch.mat<T>(a.rows(), d_model), mixed = scratch.mat<T>(a.rows(), d_model);
    auto const h = scratch.mat<T>(a.rows(), width), d_pre = scratch.mat<T>(a.rows(), pre_width), d_h = columns_of(d_pre, 0, width);

    mix_tokens<T>(space, d_y, a.weight, a.groups, d_mixed);  // the gradient of the answers
    grouped_gemm<input_gradient>(space, d_mixed, a.offsets, down, d_h, scratch);
    hidden_backward<C.activation, T>(space, a.pre, d_h, h, d_pre);
    grouped_gemm_weight_gradient<added>(space, d_mixed, h, a.offsets, parameters.template at<2>(space, g), scratch);
    grouped_gemm(space, h, a.offsets, down, mixed, scratch);  // the answers
    mixing_weight_gradient(space, d_y, mixed, a.groups, d_weight);

    mix_tokens<T>(space, a.x, a.weight, a.groups, mixed);
    grouped_gemm_weight_gradient<added>(space, d_pre, mixed, a.offsets, parameters.template at<1>(space, g), scratch);
    grouped_gemm<input_gradient>(space, d_pre, a.offsets, up, d_mixed, scratch);  // the gradient of the mixtures
    mixing_weight_gradient<mixing_weight_gradient_config{.accumulate = true}>(space, a.x, d_mixed, a.groups, d_weight);
    redistribute_tokens<T>(space, d_mixed, a.weight, a.groups, d_x);
    backward_controller(space, w, g, a, d_weight, d_x, scratch);
  }

  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    expects(C.group == 1, errc::bad_argument, "mixture_of_tokens_ffn: decodes ", C.group,
            " sequences side by side (language_model::logits_of_group), not one; transition tuning makes a model that decodes one");
    extend_group(
        space, w, x, y, position, {1, x.rows()}, [&](index_t) -> state<T>& { return s; }, scratch);
  }
  template <class S, class T, class States>
  static void extend_group(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t /*position*/, sequence_shape n,
                           States const&, arena& scratch) {
    arena::scope const scope(scratch);
    activations<T> a(space, scratch, n);
    forward(space, w, x, y, n, a, scratch);
  }

 private:
  template <class S, class T>
  static void backward_controller(S const& space, T const* w, accumulator<T>* g, activations<T>& a, matrix_view<accumulator<T>> d_weight,
                                  matrix_view<T> d_x, arena& scratch) {
    using A = accumulator<T>;
    group_softmax_backward(space, a.weight, d_weight, a.groups, C.temperature, d_weight);
    matrix_view<T> rounded;
    if constexpr (std::is_same_v<A, T>) rounded = d_weight;
    else rounded = scratch.mat<T>(d_x.rows(), experts), convert<A>(space, d_weight, rounded);
    linear_backward<T, true>(space, a.x, parameters.template at<0>(space, w), rounded, d_x, parameters.template at<0>(space, g), scratch);
  }
  template <class T, class S>
  static std::size_t product_bytes(S const& space, index_t tokens, index_t rows) {
    return std::max({linear_scratch_bytes<T, layout::product>(space, tokens, experts, d_model),
                     grouped_linear_scratch_bytes<T>(space, experts, rows, pre_width, d_model),
                     grouped_linear_scratch_bytes<T>(space, experts, rows, d_model, width)});
  }
};

}  // namespace moe::inline MOE_ISA::nn
