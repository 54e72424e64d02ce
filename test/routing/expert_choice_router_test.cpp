#include <moe/routing/expert_choice_router.hpp>

#if defined(MOE_TEST_CUDA)
#include <moe/routing/dispatch_plan.cuh>
#endif

#include "test/routing/planned.hpp"

namespace {
using moe::choice_pool;
using moe::dyn;
using moe::index_t;
using by_examples = moe::expert_choice_router<{.experts = 6, .capacity_factor = 1.5, .group = 4}>;
using by_batch = moe::expert_choice_router<{.experts = 6, .capacity_factor = 2, .pool = choice_pool::batch}>;
using scarce = moe::expert_choice_router<{.experts = 64, .capacity_factor = 2, .group = 8}>;
using dense = moe::expert_choice_router<{.experts = 6, .capacity_factor = 6, .group = 4}>;

static_assert(moe::router<by_examples, test::space, float> && moe::router<by_batch, test::space, double>);
static_assert(by_examples::k == 6 && by_examples::group_size == 4 && by_examples::balanced && !by_examples::has_bias);
static_assert(by_batch::group_size == 1 && by_batch::average_choices == 2 && by_batch::decoded_choices == 2);
static_assert(by_examples::capacity(4) == 1 && by_examples::capacity(0) == 0 && by_examples::capacity(10) == 3);  // 2.5 rounds up
static_assert(by_examples::average_choices == 2 && by_examples::decoded_choices == 2);
static_assert(scarce::capacity(8) == 1 && scarce::average_choices == 8);  // one token at least: 64 choices of 8 tokens
static_assert(dense::capacity(4) == 4 && dense::average_choices == 6);

template <class R>
struct routed {
  test::array<float> weight;
  test::array<int> expert;
  template <class F>
  routed(index_t tokens, F const& f) : weight(tokens, R::k), expert(tokens, R::k) {
    expert.fill(5);  // an array begins with -1, which is no choice
    test::scratch memory(1 << 20);
    auto a = memory.get();
    f(moe::tensor<float, dyn, R::k>(weight.mat()), moe::tensor<int, dyn, R::k>(expert.mat()), a);
    test::on().wait();
  }
};
template <class R>
routed<R> forward(test::array<float> const& logits, moe::sequence_shape shape) {
  return routed<R>(logits.rows(), [&](auto w, auto e, moe::arena& a) { R::forward(test::on(), moe::router_input<float>{logits.mat(), {}, shape}, w, e, a); });
}
template <class R>
routed<R> decode(test::array<float> const& logits) {
  return routed<R>(logits.rows(), [&](auto w, auto e, moe::arena& a) { R::decode(test::on(), moe::router_input<float>{logits.mat(), {}, {1, logits.rows()}}, w, e, a); });
}

/// The operator with these pools and this capacity.
template <class R>
void check_forward(moe::sequence_shape shape, moe::token_groups pools, index_t capacity) {
  test::array<float> logits(shape.tokens(), R::k);
  logits.normal(3);
  auto const got = forward<R>(logits, shape);
  routed<R> const expected(shape.tokens(), [&](auto w, auto e, moe::arena& a) { moe::expert_choice<float, R::k>(test::on(), logits.mat(), pools, capacity, w, e, a); });
  CHECK(test::same_bits(got.weight.values(), expected.weight.values()));
  CHECK(test::same_bits(got.expert.values(), expected.expert.values()));
  test::planned const p(got.expert, R::k, 0);
  CHECK(p.plan.rows() == R::rows(shape));  // as many as the layer makes room for, and each expert its share
  for (index_t e = 0; e < R::k; ++e) CHECK(p.plan.counts(e) == pools.count() * capacity);
}
}  // namespace

TEST_CASE("expert_choice_router: forward is the operator on its pools, and fills the rows it says") {
  check_forward<by_examples>({8, 5}, moe::groups_of({8, 5}, 4), 1);
  check_forward<by_batch>({8, 5}, moe::one_group(40), 13);
  check_forward<by_batch>({1, 7}, moe::one_group(7), 2);
  check_forward<scarce>({8, 3}, moe::groups_of({8, 3}, 8), 1);
  check_forward<dense>({4, 3}, moe::groups_of({4, 3}, 4), 4);
  CHECK(by_examples::rows({0, 5}) == 0);
  CHECK(by_batch::rows({0, 5}) == 0);
  forward<by_batch>(test::array<float>(0, 6), {0, 5});
}

TEST_CASE("expert_choice_router: backward is the operator's") {
  test::array<float> logits(40, 6), c(40, 6), d(40, 6), expected(40, 6);
  logits.normal(1), c.normal(2);
  auto const r = forward<by_examples>(logits, {8, 5});
  test::scratch memory(64);
  auto a = memory.get();
  by_examples::backward(test::on(), moe::router_input<float>{logits.mat(), {}, {8, 5}}, r.weight.mat(), r.expert.mat(), c.mat(), d.mat(), a);
  moe::expert_choice_backward<float, 6>(test::on(), logits.mat(), r.expert.mat(), c.mat(), expected.mat());
  test::on().wait();
  CHECK(test::same_bits(d.values(), expected.values()));
}

TEST_CASE("expert_choice_router: a token that is decoded alone takes its best experts with the weights of the same softmax") {
  test::array<float> logits(9, 6);
  logits.normal(4);
  auto const alone = decode<by_examples>(logits);
  auto const all = forward<moe::expert_choice_router<{.experts = 6, .capacity_factor = 6, .pool = choice_pool::batch}>>(logits, {1, 9});  // the softmax
  for (index_t t = 0; t < 9; ++t) {
    for (index_t j = 0; j < 2; ++j) {
      int const e = alone.expert(t, j);
      REQUIRE((e >= 0 && e < 6));
      CHECK(std::abs(alone.weight(t, j) - all.weight(t, e)) <= 2e-7f);
      for (int other = 0; other < 6; ++other)
        if (other != alone.expert(t, 0) && other != alone.expert(t, 1)) CHECK(all.weight(t, other) <= all.weight(t, e));
    }
    for (index_t j = 2; j < 6; ++j) CHECK((alone.expert(t, j) == -1 && alone.weight(t, j) == 0));
  }
  test::array<float> one(1, 6);  // whatever else the call has
  for (index_t e = 0; e < 6; ++e) one(0, e) = logits(5, e);
  auto const single = decode<by_examples>(one);
  for (index_t j = 0; j < 6; ++j) CHECK((single.expert(0, j) == alone.expert(5, j) && single.weight(0, j) == alone.weight(5, j)));
  CHECK(test::planned(alone.expert, 6, 0).plan.rows() == by_examples::decode_rows(9));
}

TEST_CASE("expert_choice_router: a batch that is not whole pools is refused, but not where only memory is asked for") {
  test::array<float> logits(6, 6);
  logits.fill(0);
  CHECK(test::contains(test::error_of([&] { forward<by_examples>(logits, {6, 1}); }), "6 sequences do not make whole groups of 4"));
  CHECK(by_examples::scratch_bytes<float>(test::on(), {1, 6}, 6) == 0);
}
