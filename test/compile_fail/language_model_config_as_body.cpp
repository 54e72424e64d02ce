// must say: moe::nn::language_model: its body is no layer
#include <moe/nn/ffn.hpp>
#include <moe/nn/language_model.hpp>

constexpr moe::nn::language_model_config ends{.vocab = 16, .d_model = 8};

// The config of a layer in place of the layer.
moe::index_t parameters() { return moe::nn::language_model<ends, moe::nn::ffn_config>::parameter_count; }
