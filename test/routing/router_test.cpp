#include <moe/routing/router.hpp>

#include "test/support.hpp"

namespace {
using moe::index_t;
using moe::topk_config;
using mixtral = moe::softmax_topk_router<topk_config{.k = 2, .renormalise = true}>;
using switch_gate = moe::softmax_topk_router<topk_config{.k = 1, .renormalise = false}>;

static_assert(moe::router<mixtral, test::space, float> && moe::router<mixtral, test::space, double>);
static_assert(moe::router<switch_gate, test::space, float>);
static_assert(mixtral::k == 2 && mixtral::renormalise && switch_gate::k == 1 && !switch_gate::renormalise);

struct no_choice : moe::token_choice<2> {};
struct no_gradient : moe::token_choice<2> {
  template <class S, class W, class E>
  static void forward(S const&, moe::router_input<float> const&, W, E, moe::arena&) {}
};
static_assert(!moe::router<no_choice, test::space, float> && !moe::router<no_gradient, test::space, float> && !moe::router<mixtral, int, float>);

template <topk_config C>
void check() {
  using router = moe::softmax_topk_router<C>;
  constexpr index_t tokens = 20, experts = 9;
  auto const space = test::on();
  test::array<float> logits(tokens, experts), w(tokens, C.k), w2(tokens, C.k), c(tokens, C.k), d(tokens, experts), d2(tokens, experts);
  test::array<int> e(tokens, C.k), e2(tokens, C.k);
  logits.normal(1), c.normal(2);
  auto const weights = [](auto& a) { return moe::tensor<float, moe::dyn, C.k>(a.mat()); };
  auto const chosen = [](auto& a) { return moe::tensor<int, moe::dyn, C.k>(a.mat()); };
  test::scratch scratch(1);
  moe::arena none = scratch.get();
  moe::router_input<float> const input{logits.mat(), {}, {1, tokens}};
  router::forward(space, input, weights(w), chosen(e), none);
  router::backward(space, input, weights(w), chosen(e), weights(c), d.mat(), none);
  moe::topk<C>(space, logits.mat(), weights(w2), chosen(e2));
  moe::topk_backward<C>(space, logits.mat(), w2.mat(), e2.mat(), c.mat(), d2.mat());
  CHECK(w.values() == w2.values());
  CHECK(e.values() == e2.values());
  CHECK(d.values() == d2.values());
}
}  // namespace

TEST_CASE("softmax_topk_router is topk and its gradient") {
  check<topk_config{.k = 2, .renormalise = true}>();
  check<topk_config{.k = 1, .renormalise = false}>();
  check<topk_config{.k = 4, .renormalise = false}>();
}
