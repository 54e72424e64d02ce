// must say: moe::nn::sequence: the layers differ in d_model
#include <moe/nn/ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

constexpr moe::nn::ffn_config narrow{.d_model = 8, .d_ff = 16}, wide{.d_model = 16, .d_ff = 16};

moe::index_t parameters() { return moe::nn::sequence<moe::nn::ffn<narrow>, moe::nn::residual<moe::nn::ffn<wide>>>::parameter_count; }
