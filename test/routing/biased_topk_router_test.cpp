#include <moe/routing/biased_topk_router.hpp>

#include <moe/routing/load.hpp>
#include <moe/routing/selection_bias.hpp>

#include "test/support.hpp"

namespace {
using moe::dyn;
using moe::index_t;
using moe::score_function;
using deepseek = moe::biased_topk_router<moe::biased_topk_config{.k = 8, .scale = 2.5, .groups = 8, .kept_groups = 4}>;
using plain = moe::biased_topk_router<moe::biased_topk_config{.score = score_function::softmax}, moe::router_bias_config{.kept = false}>;
static_assert(moe::router<deepseek, test::space, float> && moe::router<plain, test::space, double>);
static_assert(deepseek::k == 8 && deepseek::has_bias && deepseek::bias_rate == 0.001 && deepseek::score == score_function::sigmoid);
static_assert(!plain::has_bias && plain::k == 2 && plain::score == score_function::softmax && !plain::balanced);
}  // namespace

TEST_CASE("biased_topk_router is biased_topk and its gradient") {
  constexpr moe::biased_topk_config C{.k = 2, .scale = 1.5, .groups = 3, .kept_groups = 2};
  using router = moe::biased_topk_router<C>;
  auto const space = test::on();
  test::array<float> logits(20, 9), bias(9), w(20, 2), w2(20, 2), c(20, 2), d(20, 9), d2(20, 9);
  test::array<int> e(20, 2), e2(20, 2);
  logits.normal(1), c.normal(2), bias.normal(3, 0.2);
  moe::arena none;
  moe::router_input<float> const input{logits.mat(), bias.vec(), {4, 5}};
  router::forward(space, input, moe::tensor<float, dyn, 2>(w.mat()), moe::tensor<int, dyn, 2>(e.mat()), none);
  router::backward(space, input, w.mat(), e.mat(), c.mat(), d.mat(), none);
  moe::biased_topk<C>(space, logits.mat(), bias.vec(), moe::tensor<float, dyn, 2>(w2.mat()), moe::tensor<int, dyn, 2>(e2.mat()));
  moe::biased_topk_backward<C>(space, logits.mat(), w2.mat(), e2.mat(), c.mat(), d2.mat());
  CHECK(w.values() == w2.values());
  CHECK(e.values() == e2.values());
  CHECK(d.values() == d2.values());
}

namespace {
struct stream_result {
  double first = 0, last = 0;  ///< maximal violation of the first batch, and of the loads of the last 100 together
  double mean_of_last = 0;     ///< mean over the last 20 batches
  int reached = -1;            ///< the first batch that has 0.05 at most
};

/// Batches from a stream whose experts differ in popularity, routed with a bias that is moved by `rate` after each.
template <class Router>
stream_result run_stream(int steps, index_t tokens, index_t experts, double spread, double rate) {
  moe::cpu const space{.threads = 2};
  constexpr index_t pool = 1 << 20;
  moe::random_stream const random{5, moe::random_purpose::test, 3};
  test::array<float> noise(1, pool), logits(tokens, experts), popular(1, experts), bias(experts), w(tokens, Router::k);
  test::array<int> e(tokens, Router::k);
  test::array<index_t> load(experts), late(experts);
  noise.normal(1, 2.0), popular.normal(2, spread), bias.fill(0), late.fill(0);
  moe::arena none;
  stream_result r;
  for (int step = 0; step < steps; ++step) {
    auto const from = static_cast<index_t>(random.below(static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(pool - logits.size())));
    for (index_t t = 0; t < tokens; ++t)
      for (index_t i = 0; i < experts; ++i) logits(t, i) = noise.data()[from + t * experts + i] + popular.data()[i];
    Router::forward(space, moe::router_input<float>{logits.mat(), bias.vec(), {1, tokens}}, moe::tensor<float, dyn, Router::k>(w.mat()),
                    moe::tensor<int, dyn, Router::k>(e.mat()), none);
    load.fill(0);
    for (index_t i = 0; i < e.size(); ++i) ++load.data()[e.data()[i]];
    double const violation = moe::summary_of(load.vec()).max_violation;
    if (step == 0) r.first = violation;
    if (step >= steps - 20) r.mean_of_last += violation / 20;
    if (violation <= 0.05 && r.reached < 0) r.reached = step;
    for (index_t i = 0; step >= steps - 100 && i < experts; ++i) late.data()[i] += load.data()[i];
    moe::update_selection_bias(space, load.vec(), rate, bias.vec());
  }
  r.last = moe::summary_of(late.vec()).max_violation;
  return r;
}
}  // namespace

TEST_CASE("biased_topk_router: a stream whose load is uneven is balanced by the bias alone") {
  if constexpr (!test::on_cuda) {  // 500 batches; the operators are compared with those of the CPU elsewhere
    using router = moe::biased_topk_router<moe::biased_topk_config{.k = 2}>;
    auto const few = run_stream<router>(500, 4096, 8, 1.5, 0.01), left_alone = run_stream<router>(100, 4096, 8, 1.5, 0);
    auto const many = run_stream<moe::biased_topk_router<moe::biased_topk_config{.k = 8}>>(500, 1024, 64, 1.0, 0.01);
    // A step of 0.01 moves a few per cent of the tokens, so that single batches stay around their mean by as much.
    MESSAGE("8 experts: maximal violation ", few.first, ", left alone ", left_alone.last, "; a batch has 0.05 after ", few.reached,
            " steps, the last 20 have ", few.mean_of_last, " on average, the last 100 together ", few.last);
    MESSAGE("64 experts: ", many.first, "; the last 20 batches ", many.mean_of_last, ", the last 100 together ", many.last);
    CHECK((few.first >= 1 && left_alone.last >= 1 && many.first >= 1));
    CHECK((few.reached >= 0 && few.reached < 500));
    CHECK(few.last <= 0.05);
    CHECK(few.mean_of_last <= 0.1);
    CHECK(many.last <= 0.05);
  }
}
