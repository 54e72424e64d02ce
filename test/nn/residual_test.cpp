#include <moe/nn/ffn.hpp>
#include <moe/nn/residual.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;

namespace {
constexpr ffn_config dense{.d_model = 6, .d_ff = 5};
constexpr ffn_config larger{.d_model = 40, .d_ff = 24};
}  // namespace

TEST_CASE("residual: gradients, with a norm weight that is not 1") {
  using L = residual<ffn<dense>>;
  test::check_layer_gradients<L>({2, 3});
  test::layer_run<L, double> run({2, 3});
  for (int i = 0; i < 6; ++i) run.w[static_cast<std::size_t>(i)] = 0.3 + 0.2 * i;
  run.forward();
  run.backward();
  std::vector<double> const g(run.g.begin(), run.g.begin() + 6);
  test::check_gradient("norm.weight", [&] { return run.forward(); }, run.w.data(), 6, g);
}

TEST_CASE("residual: threads and decoding") {
  test::check_layer_executions<residual<ffn<larger>>, float>({3, 37});
  test::check_layer_extend<residual<ffn<larger>>, float>(20);
}

TEST_CASE("residual: a layer whose output weight is zero is the identity, bit for bit") {
  using L = residual<ffn<dense>>;
  test::layer_run<L, float> run({2, 3});
  auto const all = parameters_of<L>();
  std::fill_n(run.w.begin() + all.back().offset, all.back().size, 0.0f);
  run.forward();
  CHECK(run.y.values() == run.x.values());
}

TEST_CASE("residual: bf16 stays near double on the same rounded numbers") { test::check_layer_bf16<residual<ffn<larger>>>({2, 9}); }
