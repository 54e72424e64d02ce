#pragma once
#include <type_traits>

#include <examples/common/preset.hpp>
#include <moe/nn/attention_layer.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

// The model: a pre-norm transformer whose feed-forward layers are mixtures of fine-grained experts. Every preset is a program of its own.
namespace moe_transformer {

using namespace moe::nn;

/// The sizes that presets differ in. `experts` of width d_ff, each split into `granularity` finer ones of which a token uses as many; 0: one dense layer of width d_ff,
/// which has the same active parameters but for the router.
struct shape {
  int vocab, d_model, layers, heads, d_ff, experts, granularity;
};

template <shape S>
struct transformer {
  static constexpr double output_gain = 0.5;
  static constexpr attention_config attention{.d_model = S.d_model, .heads = S.heads, .output_gain = output_gain};
  static constexpr ffn_config dense{.d_model = S.d_model, .d_ff = S.d_ff, .output_gain = output_gain};
  static constexpr moe_ffn_config sparse{
      .d_model = S.d_model, .d_ff = S.d_ff, .experts = S.experts, .granularity = S.granularity, .output_gain = output_gain};
  static constexpr language_model_config ends{.vocab = S.vocab, .d_model = S.d_model, .embedding_std = 0.5};

  static auto feed_forward() {
    if constexpr (S.experts > 0) return std::type_identity<moe_ffn<sparse>>();
    else return std::type_identity<ffn<dense>>();
  }
  using block = sequence<residual<attention_layer<attention>>, residual<typename decltype(feed_forward())::type>>;
  using model = language_model<ends, repeat<S.layers, block>>;
};

/// A preset: the model's type, and the defaults of the trainer's flags.
template <shape S>
struct preset_of {
  using model = typename transformer<S>::model;
};

/// Quick start: two minutes on two cores. Measured: 1.73 bits per byte after 1,365 steps on two Zen 4 cores, 1.89 after 468 on two busy Xeon ones, where xz -9
/// needs 1.93.
struct quick : preset_of<shape{.vocab = 2048, .d_model = 128, .layers = 4, .heads = 4, .d_ff = 512, .experts = 4, .granularity = 4}> {
  static constexpr trainer::preset defaults{.name = "quick", .what = "16 experts, k = 4, 4 layers of width 128: two minutes on two cores", .minutes = 2, .batch = 8, .length = 128};
};
/// The dense twin of quick: the same active parameters.
struct quick_dense : preset_of<shape{.vocab = 2048, .d_model = 128, .layers = 4, .heads = 4, .d_ff = 512, .experts = 0, .granularity = 1}> {
  static constexpr trainer::preset defaults{.name = "quick_dense", .what = "dense twin of quick: the same active parameters", .minutes = 2, .batch = 8, .length = 128};
};
/// Twenty minutes on two cores. Measured: 1.602 bits per byte after 968 steps, which took 14 minutes on two Zen 4 cores beside other work.
struct medium : preset_of<shape{.vocab = 4096, .d_model = 256, .layers = 6, .heads = 8, .d_ff = 1024, .experts = 8, .granularity = 4}> {
  static constexpr trainer::preset defaults{.name = "medium", .what = "32 experts, k = 4, 6 layers of width 256: twenty minutes on two cores", .minutes = 20, .batch = 8, .length = 256};
};
/// About 100 million parameters: see --dry-run.
struct large : preset_of<shape{.vocab = 16384, .d_model = 512, .layers = 8, .heads = 8, .d_ff = 1024, .experts = 6, .granularity = 4}> {
  static constexpr trainer::preset defaults{.name = "large", .what = "100M parameters: 24 experts, k = 4, 8 layers of width 512", .minutes = 600, .batch = 16, .length = 512};
};
/// Seconds: for the tests of the trainer.
struct tiny : preset_of<shape{.vocab = 512, .d_model = 32, .layers = 2, .heads = 2, .d_ff = 64, .experts = 2, .granularity = 2}> {
  static constexpr trainer::preset defaults{.name = "tiny", .what = "a few seconds, for tests", .minutes = 0.1, .batch = 4, .length = 32};
};

}  // namespace moe_transformer
