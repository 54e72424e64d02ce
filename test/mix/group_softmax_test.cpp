#include <moe/mix/group_softmax.hpp>

#include <algorithm>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::index_t;
using moe::token_groups;

/// Some ways to form groups: one sequence to a group, several, all tokens at once, none.
std::vector<token_groups> some_groups() {
  std::vector<token_groups> all{moe::groups_of({4, 3}, 1), moe::groups_of({4, 3}, 2),   moe::groups_of({6, 2}, 3), moe::groups_of({8, 5}, 8),
                                moe::one_group(7),         moe::groups_of({32, 1}, 32), moe::groups_of({0, 4}, 2), moe::groups_of({4, 0}, 2)};
  if (!test::on_cuda) all.push_back(moe::groups_of({64, 3}, 32)), all.push_back(moe::one_group(300));
  return all;
}
std::vector<index_t> const some_experts{0, 1, 2, 7, 8, 15, 16, 17, 33, 64, 65};

/// The definition, in double.
template <class A>
std::vector<double> softmax(test::array<A> const& logits, token_groups const& groups, double temperature) {
  index_t const experts = logits.columns();
  std::vector<double> w(std::size_t(logits.size()));
  for (index_t g = 0; g < groups.count(); ++g)
    for (index_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (index_t i = 0; i < groups.size; ++i) sum += std::exp(double(logits(groups.row(g, i), e)) / temperature);
      for (index_t i = 0; i < groups.size; ++i) {
        index_t const r = groups.row(g, i);
        w[std::size_t(r * experts + e)] = std::exp(double(logits(r, e)) / temperature) / sum;
      }
    }
  return w;
}
}  // namespace

TEST_CASE_TEMPLATE("group_softmax: the definition, for every group, number of experts, stride and temperature", A, float, double) {
  double const unit = std::is_same_v<A, double> ? 1e-14 : 1e-5;
  for (token_groups const& groups : some_groups())
    for (index_t experts : some_experts)
      for (double temperature : {1.0, 0.1, 3.0}) {
        CAPTURE(groups.size);
        CAPTURE(experts);
        test::array<A> logits(groups.tokens(), experts, experts + experts % 3, experts % 2), weight(groups.tokens(), experts, experts + 2);
        logits.normal(1);
        moe::group_softmax(test::on(), logits.mat(), groups, temperature, weight.mat());
        auto const expected = softmax(logits, groups, temperature);
        auto const got = weight.values();
        for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(std::abs(double(got[i]) - expected[i]) <= unit * (expected[i] + 1e-3));
        if (groups.size == 1)
          for (A w : got) REQUIRE(w == A(1));
      }
}

TEST_CASE("group_softmax: gradients agree with finite differences") {
  for (token_groups const& groups : {moe::groups_of({4, 2}, 2), moe::one_group(5), moe::groups_of({3, 1}, 1)})
    for (double temperature : {1.0, 0.3}) {
      index_t const experts = 3, tokens = groups.tokens();
      test::array<double> logits(tokens, experts), weight(tokens, experts, 5), u(tokens, experts), d_logits(tokens, experts, 4);
      logits.normal(1), u.normal(2);
      auto const loss = [&] {
        moe::group_softmax(test::on(), logits.mat(), groups, temperature, weight.mat());
        test::on().wait();
        double sum = 0;
        for (index_t t = 0; t < tokens; ++t)
          for (index_t e = 0; e < experts; ++e) sum += u(t, e) * weight(t, e);
        return sum;
      };
      loss();
      moe::group_softmax_backward(test::on(), weight.mat(), u.mat(), groups, temperature, d_logits.mat());
      if (groups.size == 1) {
        for (double x : d_logits.values()) CHECK(x == 0.0);
      } else {
        test::check_gradient("logits", loss, logits.data(), logits.size(), d_logits.values(), {.step = 1e-3, .relative = 1e-8});
        loss();  // the weights of these logits again
      }
      moe::group_softmax_backward(test::on(), weight.mat(), u.mat(), groups, temperature, u.mat());  // d_logits may be d_weight
      CHECK(test::same_bits(u.values(), d_logits.values()));
    }
}

TEST_CASE_TEMPLATE("group_softmax: the same bits for every execution, in place, and whatever the other groups and experts hold", A, float, double) {
  token_groups const groups = moe::groups_of({test::on_cuda ? 12 : 96, 5}, 3), alone = moe::groups_of({3, 1}, 3);
  index_t const experts = 37, tokens = groups.tokens();
  test::array<A> logits(tokens, experts), d_weight(tokens, experts);
  logits.normal(1, 2.0), d_weight.normal(2);
  std::vector<A> first, first_gradient;
  test::for_each_execution([&](test::space const& s, int i) {
    test::array<A> weight(tokens, experts, experts + i, i % 2), d_logits(tokens, experts, experts + i, i % 2), in_place = logits;
    moe::group_softmax(s, logits.mat(), groups, 0.7, weight.mat());
    moe::group_softmax_backward(s, weight.mat(), d_weight.mat(), groups, 0.7, d_logits.mat());
    moe::group_softmax(s, in_place.mat(), groups, 0.7, in_place.mat());
    s.wait();
    if (i == 0) first = weight.values(), first_gradient = d_logits.values();
    CHECK(test::same_bits(first, weight.values()));
    CHECK(test::same_bits(first, in_place.values()));
    CHECK(test::same_bits(first_gradient, d_logits.values()));
  });
  test::array<A> few(3, 2), d(3, 2), weight(3, 2);
  index_t const g = 7, e = 20;  // its third expert of a group of its own
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 2; ++j) few(i, j) = logits(groups.row(g, i), e + j), d(i, j) = d_weight(groups.row(g, i), e + j);
  moe::group_softmax(test::on(), few.mat(), alone, 0.7, weight.mat());
  moe::group_softmax_backward(test::on(), weight.mat(), d.mat(), alone, 0.7, d.mat());
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 2; ++j) {
      CHECK(weight(i, j) == first[std::size_t(groups.row(g, i) * experts + e + j)]);
      CHECK(d(i, j) == first_gradient[std::size_t(groups.row(g, i) * experts + e + j)]);
    }
}

TEST_CASE_TEMPLATE("group_softmax: NaN and infinities show in their group and expert, and nowhere else", A, float, double) {
  A const infinity = std::numeric_limits<A>::infinity();
  struct {
    A logit;
    bool all_nan;
  } const cases[] = {{std::numeric_limits<A>::quiet_NaN(), true}, {infinity, true}, {-infinity, false}, {A(1e30), false}};
  token_groups const groups = moe::groups_of({4, 2}, 2);
  for (auto const& c : cases) {
    test::array<A> logits(8, 3), weight(8, 3), d_weight(8, 3);
    logits.fill(A(0.5)), d_weight.fill(A(1));
    logits(groups.row(1, 1), 2) = c.logit;
    moe::group_softmax(test::on(), logits.mat(), groups, 1.0, weight.mat());
    moe::group_softmax_backward(test::on(), weight.mat(), d_weight.mat(), groups, 1.0, d_weight.mat());
    for (index_t g = 0; g < groups.count(); ++g)
      for (index_t i = 0; i < 2; ++i)
        for (index_t e = 0; e < 3; ++e) {
          A const w = weight(groups.row(g, i), e);
          bool const hit = g == 1 && e == 2;
          if (hit && c.all_nan) CHECK(std::isnan(w));
          else if (hit) CHECK(w == A((c.logit < 0) == (i == 0)));
          else CHECK(w == A(0.5));
          CHECK(std::isnan(d_weight(groups.row(g, i), e)) == (hit && c.all_nan));
        }
  }
  test::array<A> logits(2, 1), weight(2, 1);  // no largest logit
  logits.fill(-infinity);
  moe::group_softmax(test::on(), logits.mat(), moe::one_group(2), 1.0, weight.mat());
  for (A w : weight.values()) CHECK(std::isnan(w));
  weight.fill(A(0.5)), logits.fill(A(1)), logits(1) = std::numeric_limits<A>::quiet_NaN();
  moe::group_softmax_backward(test::on(), weight.mat(), logits.mat(), moe::one_group(2), 1.0, logits.mat());
  for (A x : logits.values()) CHECK(std::isnan(x));
}

TEST_CASE_TEMPLATE("group_softmax: the largest logit is subtracted, wherever in a large group it stands", A, float, double) {
  for (index_t where : {0, 63, 64, 99}) {
    test::array<A> logits(100, 2), weight(100, 2);
    logits.fill(A(0)), logits(where, 1) = A(5000);
    moe::group_softmax(test::on(), logits.mat(), moe::one_group(100), 2.0, weight.mat());
    for (index_t i = 0; i < 100; ++i) {
      CHECK(weight(i, 0) == A(1) / A(100));
      CHECK(weight(i, 1) == A(i == where));
    }
  }
}

TEST_CASE("group_softmax: wrong arguments") {
  using test::contains;
  using test::error_of;
  test::array<float> x(8, 3), narrow(8, 2), few(6, 3);
  token_groups const groups = moe::groups_of({4, 2}, 2);
  auto const call = [&](auto& logits, token_groups const& g, double temperature, auto& weight) {
    return error_of([&] { moe::group_softmax(test::on(), logits.mat(), g, temperature, weight.mat()); });
  };
  for (double temperature : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    CHECK(contains(call(x, groups, temperature, x), "group_softmax: temperature is "));
  CHECK(contains(call(x, groups, 0.0, x), "temperature is 0, needs to be positive and finite"));
  CHECK(contains(call(x, {4, 2, 3}, 1, x), "group_softmax: 4 sequences do not make whole groups of 3"));
  CHECK(contains(call(x, {4, 2, 0}, 1, x), "group_softmax: 4 sequences do not make whole groups of 0"));
  CHECK(contains(call(x, {-4, -2, 2}, 1, x), "group_softmax: groups of -4 sequences of -2 tokens"));
  CHECK(contains(call(narrow, groups, 1, x), "group_softmax: input is [8, 2], needs [8, 3]"));
  CHECK(contains(call(few, groups, 1, few), "group_softmax: input is [6, 3], needs [8, 3]"));
  CHECK(contains(call(x, groups, 1, few), "group_softmax: output is [6, 3], needs [8, 3]"));
  auto const backward = [&](auto& weight, auto& d_weight, double temperature, auto& d_logits) {
    return error_of([&] { moe::group_softmax_backward(test::on(), weight.mat(), d_weight.mat(), groups, temperature, d_logits.mat()); });
  };
  CHECK(contains(backward(x, x, -2, x), "group_softmax_backward: temperature is -2"));
  CHECK(contains(backward(narrow, x, 1, x), "group_softmax_backward: input is [8, 2], needs [8, 3]"));
  CHECK(contains(backward(x, narrow, 1, x), "group_softmax_backward: d_weight is [8, 2], needs [8, 3]"));
}
