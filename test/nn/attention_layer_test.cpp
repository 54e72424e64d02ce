#include <moe/nn/attention_layer.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;

namespace {
constexpr attention_config plain{.d_model = 8, .heads = 2};
constexpr attention_config grouped{.d_model = 6, .heads = 4, .kv_heads = 2, .d_head = 4};
constexpr attention_config larger{.d_model = 48, .heads = 6, .kv_heads = 2, .d_head = 16};
}  // namespace

TEST_CASE("attention_layer: gradients, also with grouped queries") {
  test::check_layer_gradients<attention_layer<plain>>({2, 5});
  test::check_layer_gradients<attention_layer<grouped>>({2, 4});
  test::check_layer_gradients<attention_layer<plain>>({3, 1});
}

TEST_CASE("attention_layer: the same bits for any number of threads") { test::check_layer_executions<attention_layer<larger>, float>({3, 37}); }

TEST_CASE("attention_layer: decoding with the key/value cache gives the bits of the forward pass") {
  test::check_layer_extend<attention_layer<larger>, float>(45);
  test::check_layer_extend<attention_layer<grouped>, double>(33);
}

TEST_CASE("attention_layer: a batch of another shape than its rows; no weights") {
  using L = attention_layer<plain>;
  test::layer_run<L, float> run({1, 6});
  auto const forward = [&](sequence_shape n, float const* w) {
    return test::error_of([&] {
      moe::arena s;
      L::forward(run.space, w, moe::matrix_view<float const>(run.x.mat()), run.y.mat(), n, run.a, s);
    });
  };
  CHECK(test::contains(forward({2, 6}, run.w.data()), "attention_layer: x has 6 rows, 2 sequences of 6 tokens need 12"));
  CHECK(test::contains(forward({1, 6}, nullptr), "no data"));
}

TEST_CASE("attention_layer: a token does not see later ones") {
  test::layer_run<attention_layer<plain>, float> run({1, 6});
  run.forward();
  auto const before = run.y.values();
  for (int i = 0; i < 8; ++i) run.x(4, i) = test::quiet_nan<float>();
  run.forward();
  for (moe::index_t t = 0; t < 6; ++t)
    for (moe::index_t i = 0; i < 8; ++i) {
      if (t >= 4) CHECK(std::isnan(run.y(t, i)));
      else CHECK(run.y(t, i) == before[static_cast<std::size_t>(t * 8 + i)]);
    }
}

TEST_CASE("attention_layer: bf16 stays near double on the same rounded numbers, and has the bits of any execution and of decoding") {
  test::check_layer_bf16<attention_layer<plain>>({2, 5});
  test::check_layer_bf16<attention_layer<grouped>>({2, 4});
  test::check_layer_bf16<attention_layer<larger>>({2, test::on_cuda ? 5 : 31});
  test::check_layer_executions<attention_layer<larger>, moe::bf16>({3, 11});
  test::check_layer_extend<attention_layer<larger>, moe::bf16>(21);
}
