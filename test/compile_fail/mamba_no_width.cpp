// must say: moe::nn::mamba: d_model must be at least 2
#include <moe/nn/mamba.hpp>

constexpr moe::nn::mamba_config nothing{.d_state = 16};

moe::index_t parameters() { return moe::nn::mamba<nothing>::parameter_count; }
