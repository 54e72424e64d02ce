#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;

namespace {
constexpr moe_ffn_config plain{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2};
constexpr moe_ffn_config unnormalised{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2, .renormalise = false};
constexpr moe_ffn_config switch_like{.d_model = 5, .d_ff = 7, .experts = 4, .renormalise = false, .activation = activation_kind::relu};
constexpr moe_ffn_config with_gelu{.d_model = 6, .d_ff = 6, .experts = 2, .granularity = 3, .activation = activation_kind::gelu};
constexpr moe_ffn_config with_shared{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2, .shared_experts = 2};
constexpr moe_ffn_config with_capacity{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2, .capacity_factor = 0.5};
constexpr moe_ffn_config many_losses{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2, .losses = {.balance = 0.5, .z = 0.25}};
constexpr moe_ffn_config larger{.d_model = 48, .d_ff = 64, .experts = 4, .granularity = 4, .shared_experts = 1};
}  // namespace

TEST_CASE("moe_ffn: gradients of weights, input and combine weights, with both losses") {
  test::check_layer_gradients<moe_ffn<plain>>({2, 5});
  test::check_layer_gradients<moe_ffn<unnormalised>>({2, 5});
  test::check_layer_gradients<moe_ffn<with_gelu>>({1, 7});
  test::check_layer_gradients<moe_ffn<with_shared>>({2, 4});
  test::check_layer_gradients<moe_ffn<many_losses>>({2, 5});
}

TEST_CASE("moe_ffn: gradients with top-1, relu, and with dropped choices") {
  test::check_layer_gradients<moe_ffn<switch_like>>({2, 5});
  test::layer_run<moe_ffn<with_capacity>, double> run({2, 8}, 1);
  run.forward();
  CHECK(run.a.routed.plan.dropped() > 0);
  test::check_layer_gradients<moe_ffn<with_capacity>>({2, 8});
}

TEST_CASE("moe_ffn: one token, and none") {
  test::check_layer_gradients<moe_ffn<plain>>({1, 1});
  test::layer_run<moe_ffn<plain>, double> none({0, 4});
  CHECK(none.forward() == 0.0);
  none.backward();
  for (double const g : none.g) CHECK(g == 0.0);
}

TEST_CASE("moe_ffn: equals the sum over its experts computed one by one") {
  test::layer_run<moe_ffn<plain>, double> run({1, 6});
  run.forward();
  using L = moe_ffn<plain>;
  auto const all = parameters_of<L, test::space>();
  auto const weight = [&](std::size_t i, moe::index_t n, moe::index_t r, moe::index_t c) { return run.w[static_cast<std::size_t>(all[i].place<double>(n, r, c))]; };
  for (moe::index_t t = 0; t < 6; ++t) {
    std::vector<double> logits(6);
    for (int e = 0; e < 6; ++e)
      for (int i = 0; i < 6; ++i) logits[static_cast<std::size_t>(e)] += weight(0, 0, e, i) * run.x(t, i);
    int first = 0, second = -1;
    for (int e = 1; e < 6; ++e)
      if (logits[static_cast<std::size_t>(e)] > logits[static_cast<std::size_t>(first)]) first = e;
    for (int e = 0; e < 6; ++e)
      if (e != first && (second < 0 || logits[static_cast<std::size_t>(e)] > logits[static_cast<std::size_t>(second)])) second = e;
    double const p = 1 / (1 + std::exp(logits[static_cast<std::size_t>(second)] - logits[static_cast<std::size_t>(first)]));
    std::vector<double> y(6);
    for (int choice = 0; choice < 2; ++choice) {
      int const e = choice == 0 ? first : second;
      double h[4];
      for (int f = 0; f < 4; ++f) {
        double gate = 0, up = 0;
        for (int i = 0; i < 6; ++i) gate += weight(1, e, f, i) * run.x(t, i), up += weight(1, e, 4 + f, i) * run.x(t, i);
        h[f] = gate / (1 + std::exp(-gate)) * up;
      }
      for (int i = 0; i < 6; ++i)
        for (int f = 0; f < 4; ++f) y[static_cast<std::size_t>(i)] += (choice == 0 ? p : 1 - p) * weight(2, e, i, f) * h[f];
    }
    for (int i = 0; i < 6; ++i) CHECK(std::abs(y[static_cast<std::size_t>(i)] - run.y(t, i)) <= 1e-13);
  }
}

TEST_CASE("moe_ffn: the same bits for any number of threads") {
  test::check_layer_executions<moe_ffn<larger>, float>({2, 37});
  test::check_layer_executions<moe_ffn<with_capacity>, float>({2, 37});
}

TEST_CASE("moe_ffn: decoding gives the bits of the forward pass") {
  test::check_layer_extend<moe_ffn<larger>, float>(29);
  test::check_layer_extend<moe_ffn<plain>, double>(29);
}

TEST_CASE("moe_ffn: activation memory does not grow with granularity, but for the metadata") {
  constexpr moe_ffn_config coarse{.d_model = 64, .d_ff = 128, .experts = 4, .granularity = 1, .renormalise = false};
  constexpr moe_ffn_config fine{.d_model = 64, .d_ff = 128, .experts = 4, .granularity = 16};
  sequence_shape const n{4, 64};
  auto const kept = [&]<moe_ffn_config C>() {
    moe::arena metadata;
    typename moe_ffn<C>::template routing<float>(test::on(), metadata, n);
    return test::layer_run<moe_ffn<C>, float>::activation_bytes(test::on(), n) - metadata.peak();
  };
  CHECK(kept.operator()<coarse>() == kept.operator()<fine>());
  CHECK(kept.operator()<fine>() > 0);
}

TEST_CASE("moe_ffn: a NaN in one token reaches its own output and no other") {
  test::layer_run<moe_ffn<plain>, float> run({1, 6});
  run.forward();
  auto const before = run.y.values();
  run.x(2, 3) = test::quiet_nan<float>();
  run.forward();
  for (moe::index_t t = 0; t < 6; ++t)
    for (moe::index_t i = 0; i < 6; ++i) {
      if (t == 2) CHECK(std::isnan(run.y(t, i)));
      else CHECK(run.y(t, i) == before[static_cast<std::size_t>(t * 6 + i)]);
    }
}

TEST_CASE("moe_ffn: bf16 stays near double on the same rounded numbers, and has the bits of any execution and of decoding") {
  test::check_layer_bf16<moe_ffn<plain>>({2, 5});
  test::check_layer_bf16<moe_ffn<unnormalised>>({2, 5});
  test::check_layer_bf16<moe_ffn<switch_like>>({2, 5});
  test::check_layer_bf16<moe_ffn<with_gelu>>({1, 7});
  test::check_layer_bf16<moe_ffn<with_shared>>({2, 5});
  test::check_layer_bf16<moe_ffn<with_capacity>>({2, 5});
  test::check_layer_bf16<moe_ffn<many_losses>>({2, 5});
  test::check_layer_executions<moe_ffn<larger>, moe::bf16>({3, 11});
  test::check_layer_extend<moe_ffn<larger>, moe::bf16>(14);
}

#if !defined(MOE_TEST_CUDA)
namespace {
/// Bytes of activations and scratch for 4096 tokens, those of the routing not counted.
template <int G>
double bytes_of_granularity() {
  using L = moe_ffn<moe_ffn_config{.d_model = 512, .d_ff = 2048, .experts = 8, .granularity = G, .renormalise = false}>;
  moe::nn::sequence_shape const n{8, 512};
  moe::arena all, routing;
  typename L::template activations<float>(test::on(), all, n);
  typename L::template routing<float>(test::on(), routing, n);
  return static_cast<double>(all.peak() - routing.peak() + L::template scratch_bytes<float>(test::on(), n));
}
}  // namespace

TEST_CASE("moe_ffn: memory does not grow as experts get finer and more of them are used") {
  double const coarse = bytes_of_granularity<1>();
  for (double fine : {bytes_of_granularity<2>(), bytes_of_granularity<4>(), bytes_of_granularity<8>(), bytes_of_granularity<16>()})
    CHECK_MESSAGE(std::abs(fine / coarse - 1) <= 0.05, fine << " bytes where one expert takes " << coarse);
}
#endif
