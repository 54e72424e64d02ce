#include <moe/nn/ffn.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;

namespace {
constexpr ffn_config gated{.d_model = 6, .d_ff = 9};
constexpr ffn_config rectified{.d_model = 5, .d_ff = 7, .activation = activation_kind::relu};
constexpr ffn_config smooth{.d_model = 5, .d_ff = 7, .activation = activation_kind::gelu};
constexpr ffn_config larger{.d_model = 48, .d_ff = 100};
}  // namespace

TEST_CASE("ffn: gradients with each activation") {
  test::check_layer_gradients<ffn<gated>>({2, 4});
  test::check_layer_gradients<ffn<rectified>>({2, 4});
  test::check_layer_gradients<ffn<smooth>>({2, 4});
}

TEST_CASE("ffn: the same bits for any number of threads") { test::check_layer_executions<ffn<larger>, float>({3, 37}); }

TEST_CASE("ffn: decoding gives the bits of the forward pass") { test::check_layer_extend<ffn<larger>, float>(29); }

TEST_CASE("ffn: bf16 stays near double on the same rounded numbers, and has the bits of any execution") {
  test::check_layer_bf16<ffn<gated>>({2, 4});
  test::check_layer_bf16<ffn<rectified>>({2, 4});
  test::check_layer_bf16<ffn<smooth>>({2, 4});
  test::check_layer_bf16<ffn<larger>>({2, 9});
  test::check_layer_executions<ffn<larger>, moe::bf16>({3, 19});
  test::check_layer_extend<ffn<larger>, moe::bf16>(14);
}
