#include <moe/routing/switch_router.hpp>

#include "test/support.hpp"

namespace {
using moe::dyn;
using moe::index_t;
using gate = moe::switch_router<>;
using jittered = moe::switch_router<moe::switch_config{.jitter = 0.01}>;
static_assert(moe::router<gate, test::space, float> && moe::router<jittered, test::space, double>);
static_assert(gate::k == 1 && gate::jitter == 0 && !gate::has_bias && !gate::balanced && jittered::jitter == 0.01 && jittered::k == 1);
}  // namespace

TEST_CASE("switch_router: the largest logit, weighed by its probability among all experts") {
  test::array<float> logits(6, 3), w(6, 1), c(6, 1), d(6, 3), d2(6, 3);
  test::array<int> e(6, 1);
  for (index_t i = 0; i < 18; ++i) logits.data()[i] = static_cast<float>(2 * std::sin(0.8 * double(i + 1)));
  moe::arena none;
  moe::router_input<float> const input{logits.mat(), {}, {2, 3}};
  gate::forward(test::on(), input, moe::tensor<float, dyn, 1>(w.mat()), moe::tensor<int, dyn, 1>(e.mat()), none);
  CHECK(e.values() == std::vector<int>{1, 0, 2, 0, 2, 2});
  double share[3] = {}, mean[3] = {}, loss = 0;
  for (index_t t = 0; t < 6; ++t) {
    double sum = 0;
    for (index_t i = 0; i < 3; ++i) sum += std::exp(double(logits(t, i)));
    for (index_t i = 0; i < 3; ++i) mean[i] += std::exp(double(logits(t, i))) / sum / 6;
    share[e(t, 0)] += 1.0 / 6;
    CHECK(std::abs(double(w(t, 0)) - std::exp(double(logits(t, e(t, 0)))) / sum) <= 1e-6);
  }
  for (int i = 0; i < 3; ++i) loss += 3 * share[i] * mean[i];
  CHECK(std::abs(loss - 1.0362623370285695) <= 1e-6);
  c.normal(1);
  gate::backward(test::on(), input, w.mat(), e.mat(), c.mat(), d.mat(), none);
  for (index_t t = 0; t < 6; ++t) {
    double sum = 0;
    for (index_t i = 0; i < 3; ++i) sum += std::exp(double(logits(t, i)));
    for (index_t i = 0; i < 3; ++i) {
      double const p = std::exp(double(logits(t, i))) / sum, expected = double(w(t, 0)) * double(c(t, 0)) * ((i == e(t, 0) ? 1 : 0) - p);
      CHECK(std::abs(double(d(t, i)) - expected) <= 1e-6);
    }
  }
}
