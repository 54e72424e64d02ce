#pragma once
#include <type_traits>

#include <examples/common/preset.hpp>
#include <moe/nn/attention_layer.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/mixture_of_tokens_ffn.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>
#include <moe/routing/expert_choice_router.hpp>

// Transformers that differ in their feed-forward layers alone: Mixture of Tokens, the dense layer that costs as much, and mixtures of experts that
// do. Every preset is a program of its own.
// Source  Antoniak et al. 2023, arXiv:2310.15961.
namespace mixture_of_tokens {

using namespace moe::nn;

enum class arm { mixture_of_tokens, dense, token_choice, expert_choice };

/// The sizes that presets differ in. Each feed-forward layer has d_ff = 4 d_model for a token: that of a dense layer, of the one expert that a token
/// chooses (split into `granularity` finer ones, of which it chooses as many, or as many of which choose it on average), or of the share of all
/// experts that a group of as many examples as there are experts leaves to each.
struct shape {
  arm kind;
  int vocab, d_model, blocks, heads, experts, granularity = 1;
  int group = 16;          ///< examples whose tokens at one position are mixed, or stand for election together
  int dense_blocks = 0;    ///< the first blocks, which have a dense layer in every arm
  double capacity = 1.25;  ///< of token choice: what an expert takes at most, of its share of a batch's choices; 0: all
};

template <shape S>
struct arms {
  static constexpr int d = S.d_model, d_ff = 4 * d;
  static constexpr double output_gain = 0.5;
  static constexpr language_model_config ends{.vocab = S.vocab, .d_model = d, .embedding_std = 0.5};
  static constexpr mixture_of_tokens_ffn_config mixing{.d_model = d,
                                                       .d_ff = d_ff,
                                                       .experts = S.experts,
                                                       .granularity = S.granularity,
                                                       .group = S.group,
                                                       .activation = activation_kind::relu,
                                                       .output_gain = output_gain};
  /// The same tensors by name and shape. As Switch: choices are weighed by their probability among all experts.
  static constexpr moe_ffn_config choosing{.d_model = d,
                                           .d_ff = d_ff,
                                           .experts = S.experts,
                                           .granularity = S.granularity,
                                           .renormalise = false,
                                           .activation = activation_kind::relu,
                                           .capacity_factor = S.capacity,
                                           .losses = {.balance = 0.01, .z = 0},
                                           .output_gain = output_gain};

  /// The same again, but for the losses: every expert takes its share of the tokens of a group. Nothing is dropped for want of room.
  static constexpr moe::expert_choice_config elections{
      .experts = S.experts * S.granularity, .capacity_factor = static_cast<double>(S.granularity), .group = S.group};

  using attention = residual<attention_layer<attention_config{.d_model = d, .heads = S.heads, .output_gain = output_gain}>>;
  using dense = residual<ffn<ffn_config{.d_model = d, .d_ff = d_ff, .activation = activation_kind::relu, .output_gain = output_gain}>>;

  static auto feed_forward() {
    if constexpr (S.kind == arm::mixture_of_tokens) return std::type_identity<residual<mixture_of_tokens_ffn<mixing>>>();
    else if constexpr (S.kind == arm::token_choice) return std::type_identity<residual<moe_ffn<choosing>>>();
    else if constexpr (S.kind == arm::expert_choice) return std::type_identity<residual<moe_ffn<choosing, moe::expert_choice_router<elections>>>>();
    else return std::type_identity<dense>();
  }
  using own = sequence<attention, typename decltype(feed_forward())::type>;

  /// Where the first blocks are dense in every arm, the blocks have two types, and so two names.
  struct lower : repeat<S.dense_blocks == 0 ? 1 : S.dense_blocks, sequence<attention, dense>> {
    static constexpr std::string_view name = "lower";
  };
  struct upper : repeat<S.blocks - S.dense_blocks, own> {
    static constexpr std::string_view name = "upper";
  };
  static auto body() {
    if constexpr (S.dense_blocks == 0) return std::type_identity<repeat<S.blocks, own>>();
    else return std::type_identity<sequence<lower, upper>>();
  }
  using model = language_model<ends, typename decltype(body())::type>;
};

/// A preset: the model's type, and the defaults of the trainer's flags.
template <shape S>
struct preset_of {
  using model = typename arms<S>::model;
};

/// Minutes on two cores: the models of docs/results/mixture_of_tokens.md. The router's learning rate is 0.3 of the others' where experts are chosen
/// (see examples/moe_mamba/model.hpp); a controller, which chooses nothing, has the whole of it. Experts are split into 8: in trials of one seed and
/// 400 steps Mixture of Tokens had 2.29 bits per byte with 16 experts, and 2.16 with the 128 that they split into, where the dense model had 2.14.
constexpr shape small(arm kind) {
  return {.kind = kind, .vocab = 2048, .d_model = 64, .blocks = 4, .heads = 2, .experts = 16, .granularity = 8};
}

constexpr trainer::preset of_small(char const* name, char const* what, double router) {
  trainer::preset p{.name = name, .what = what, .minutes = 5, .batch = 16, .length = 128, .lr = 1.2e-2};
  p.lr_scale[moe::index_of(parameter_group::router)] = router;
  return p;
}
struct quick : preset_of<small(arm::mixture_of_tokens)> {
  static constexpr trainer::preset defaults =
      of_small("mixture_of_tokens", "Mixture of Tokens: 4 blocks of width 64, 128 experts of width 32, groups of 16", 1);
};
struct quick_dense : preset_of<small(arm::dense)> {
  static constexpr trainer::preset defaults = of_small("mixture_of_tokens_dense", "dense twin of mixture_of_tokens: 4 blocks of width 64", 1);
};
/// What a checkpoint of quick goes on as: train --from.
struct quick_moe : preset_of<small(arm::token_choice)> {
  static constexpr trainer::preset defaults =
      of_small("mixture_of_tokens_moe", "token choice with the tensors of mixture_of_tokens: 4 blocks of width 64, 8 of 128 experts a token", 0.3);
};
struct quick_expert_choice : preset_of<small(arm::expert_choice)> {
  static constexpr trainer::preset defaults = of_small(
      "mixture_of_tokens_expert_choice", "expert choice: each of 128 experts takes 1 of 16 tokens, those of 16 examples at one position", 0.3);
};

/// docs/results/granularity.md: 16 experts of d_ff = 256, each split into G of which a token uses as many. Nothing is dropped.
constexpr shape split(int granularity) {
  shape s = small(arm::token_choice);
  s.granularity = granularity, s.capacity = 0;
  return s;
}
struct granularity_1 : preset_of<split(1)> {
  static constexpr trainer::preset defaults = of_small("granularity_1", "16 experts of width 256, a token uses 1", 0.3);
};
struct granularity_2 : preset_of<split(2)> {
  static constexpr trainer::preset defaults = of_small("granularity_2", "32 experts of width 128, a token uses 2", 0.3);
};
struct granularity_4 : preset_of<split(4)> {
  static constexpr trainer::preset defaults = of_small("granularity_4", "64 experts of width 64, a token uses 4", 0.3);
};
struct granularity_8 : preset_of<split(8)> {
  static constexpr trainer::preset defaults = of_small("granularity_8", "128 experts of width 32, a token uses 8", 0.3);
};
struct granularity_16 : preset_of<split(16)> {
  static constexpr trainer::preset defaults = of_small("granularity_16", "256 experts of width 16, a token uses 16", 0.3);
};

/// Seconds: for tests.
constexpr shape smallest(arm kind) {
  return {.kind = kind, .vocab = 512, .d_model = 32, .blocks = 1, .heads = 2, .experts = 4, .granularity = 2, .group = 2};
}
struct tiny : preset_of<smallest(arm::mixture_of_tokens)> {
  static constexpr trainer::preset defaults{
      .name = "mixture_of_tokens_tiny", .what = "a few seconds, for tests", .minutes = 0.1, .batch = 4, .length = 32};
};
struct tiny_moe : preset_of<smallest(arm::token_choice)> {
  static constexpr trainer::preset defaults{
      .name = "mixture_of_tokens_tiny_moe", .what = "token choice with the tensors of tiny, for tests", .minutes = 0.1, .batch = 4, .length = 32};
};

/// The paper's Medium models (d 512, 8 blocks, context 256, 256 examples a step, groups of 32), the second half of their blocks Mixture of Tokens;
/// and the Transformer they are compared with. Days on a GPU.
constexpr shape medium(arm kind, int granularity) {
  return {.kind = kind,
          .vocab = 50257,
          .d_model = 512,
          .blocks = 8,
          .heads = 8,
          .experts = 32,
          .granularity = granularity,
          .group = 32,
          .dense_blocks = 4};
}
constexpr trainer::preset of_paper(char const* name, char const* what) {
  return {
      .name = name, .what = what, .minutes = 1e5, .batch = 32, .length = 256, .accumulate = 8, .lr = 7e-4, .warmup = 2500.0 / 150000, .clip = 0.5};
}
struct transformer_medium : preset_of<medium(arm::dense, 1)> {
  static constexpr trainer::preset defaults = of_paper("transformer_medium", "Transformer-Medium of the paper: 8 blocks of width 512");
};
struct medium_32e_1 : preset_of<medium(arm::mixture_of_tokens, 1)> {
  static constexpr trainer::preset defaults = of_paper("mot_medium_32e_1", "MoT-Medium/32E/1 of the paper: 32 experts in each of 4 blocks");
};
struct medium_32e_8 : preset_of<medium(arm::mixture_of_tokens, 8)> {
  static constexpr trainer::preset defaults = of_paper("mot_medium_32e_8", "MoT-Medium/32E/8 of the paper: 256 experts of a width of 256");
};

}  // namespace mixture_of_tokens
