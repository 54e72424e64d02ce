// must say: moe::nn::residual: L is no layer with a name
#include <moe/nn/ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

constexpr moe::nn::ffn_config config{.d_model = 8, .d_ff = 16};

// The body of a model is to be in a branch, but a repeat has no name.
moe::index_t parameters() { return moe::nn::residual<moe::nn::repeat<2, moe::nn::ffn<config>>>::parameter_count; }
