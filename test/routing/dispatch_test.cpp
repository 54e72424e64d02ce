#include <moe/routing/dispatch.hpp>

#include <algorithm>
#include <optional>

#include "test/routing/planned.hpp"

namespace {
using moe::bf16;
using moe::index_t;
using test::planned;
using test::random_experts;
}  // namespace

TEST_CASE_TEMPLATE("dispatch and combine: exact on small integers", T, float, double, bf16) {
  for (index_t tokens : test::on_cuda ? std::vector<index_t>{0, 1, 9} : std::vector<index_t>{0, 1, 9, 70})
    for (index_t d : {0, 1, 7, 15, 16, 17, 63, 64, 65, 300})
      for (index_t capacity : {0, 4}) {
        CAPTURE(tokens);
        CAPTURE(d);
        CAPTURE(capacity);
        constexpr index_t k = 3, experts = 5;
        auto expert = random_experts(tokens, k, experts, 6);
        for (index_t t = 0; t < tokens; t += 2) expert(t, t % k) = -1;  // slots without a choice are as dropped ones
        for (index_t j = 0; tokens > 5 && j < k; ++j) expert(5, j) = -1;
        planned p(expert, experts, capacity);
        if (d % 2 == 0) p.plan.most_rows = p.plan.rows();  // who knows how many slots stay empty need not lay out the rows of all
        index_t const rows = p.plan.rows(), spare = p.rows_needed() - rows + 2;
        bool const even = d % 16 == 0;  // half of the sizes in rows of whole vectors
        test::array<T> x(tokens, d, even ? d + 16 : d + 3, even ? 0 : 1), xs(rows + spare, d, even ? d : d + 1, even ? 0 : 1), d_x(tokens, d, d + 2),
            y(tokens, d, even ? d : d + 5, even ? 0 : 3), weight(tokens, k, k + 1), d_ys(rows + spare, d), d_weight(tokens, k, k + 2);
        x.integers(1, 3), weight.integers(2, 3);
        auto const space = test::on();
        moe::dispatch(space, x.mat(), p.plan, xs.mat());
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < d; ++c) REQUIRE(xs(r, c) == x(p.plan.token(r), c));
        for (index_t r = rows; r < rows + spare; ++r)
          for (index_t c = 0; c < d; ++c) REQUIRE(std::isnan(double(xs(r, c))));  // not touched
        xs.integers(3, 3);
        moe::dispatch_backward(space, xs.mat(), p.plan, k, d_x.mat());
        moe::combine(space, xs.mat(), weight.mat(), p.plan, y.mat());
        moe::combine_backward(space, x.mat(), xs.mat(), weight.mat(), p.plan, d_ys.mat(), d_weight.mat());
        for (index_t t = 0; t < tokens; ++t) {
          std::vector<double> sum(std::size_t(d), 0.0), weighted(sum);
          for (index_t j = 0; j < k; ++j) {
            int const r = p.plan.position(t * k + j);
            double dot = 0;
            for (index_t c = 0; r >= 0 && c < d; ++c) {
              sum[std::size_t(c)] += double(xs(r, c));
              weighted[std::size_t(c)] += double(weight(t, j)) * double(xs(r, c));
              dot += double(x(t, c)) * double(xs(r, c));
              REQUIRE(double(d_ys(r, c)) == double(weight(t, j)) * double(x(t, c)));
            }
            REQUIRE(d_weight(t, j) == T(dot));
          }
          for (index_t c = 0; c < d; ++c) {
            REQUIRE(double(d_x(t, c)) == sum[std::size_t(c)]);
            REQUIRE(double(y(t, c)) == weighted[std::size_t(c)]);
          }
        }
        auto const expected = d_ys.values(), expected_weight = d_weight.values();
        d_weight.poison();
        for (index_t r = rows; r < rows + spare; ++r)
          for (index_t c = 0; c < d; ++c) REQUIRE(std::isnan(double(d_ys(r, c))));
        test::array<T> in_place = xs;  // d_ys may be ys
        moe::combine_backward(space, x.mat(), in_place.mat(), weight.mat(), p.plan, in_place.mat(), d_weight.mat());
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < d; ++c) REQUIRE(in_place(r, c) == expected[std::size_t(r * d + c)]);
        CHECK(d_weight.values() == expected_weight);
      }
}

TEST_CASE("dispatch and combine: gradients agree with finite differences") {
  constexpr index_t tokens = 6, k = 2, experts = 4, d = 5;
  auto const expert = random_experts(tokens, k, experts, 9);
  for (index_t capacity : {0, 2}) {
    planned const p(expert, experts, capacity);
    index_t const rows = p.rows_needed();
    auto const space = test::on();
    test::array<double> x(tokens, d), xs(rows, d), weight(tokens, k), y(tokens, d), c(tokens, d), cs(rows, d);
    test::array<double> d_ys(rows, d), d_weight(tokens, k), d_x(tokens, d);
    x.normal(1), xs.normal(2), weight.normal(3), c.normal(4), cs.normal(5);
    auto const dot = [](auto const& a, auto const& b) {
      double sum = 0;
      for (index_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
      return sum;
    };
    auto const combined = [&] {
      moe::combine(space, xs.mat(), weight.mat(), p.plan, y.mat());
      return dot(c, y);
    };
    moe::combine_backward(space, c.mat(), xs.mat(), weight.mat(), p.plan, d_ys.mat(), d_weight.mat());
    auto gradient = d_ys.values();
    std::fill(gradient.begin() + p.plan.rows() * d, gradient.end(), 0.0);  // what stands there is not touched
    test::check_gradient("combine ys", combined, xs.data(), xs.size(), gradient);
    test::check_gradient("combine weight", combined, weight.data(), weight.size(), d_weight.values());
    for (index_t s = 0; s < tokens * k; ++s)
      if (p.plan.position(s) < 0) CHECK(d_weight(s / k, s % k) == 0.0);
    moe::dispatch_backward(space, cs.mat(), p.plan, k, d_x.mat());
    for (index_t r = p.plan.rows(); r < rows; ++r) std::fill_n(&cs(r), d, 0.0);
    auto const dispatched = [&] {
      moe::dispatch(space, x.mat(), p.plan, xs.mat());
      return dot(cs, xs);
    };
    test::check_gradient("dispatch x", dispatched, x.data(), x.size(), d_x.values());
  }
}

TEST_CASE_TEMPLATE("dispatch and combine: the same bits for every execution, alone or in a batch", T, float, double, bf16) {
  constexpr index_t tokens = test::on_cuda ? 40 : 300, k = 4, experts = 6, d = 77;
  auto const expert = random_experts(tokens, k, experts, 3);
  std::optional<std::vector<T>> first[4];
  test::for_each_execution([&](test::space const& space, int execution) {
    planned const p(expert, experts, 0, space);
    index_t const gap = execution % 3;  // rows that are, and are not, vectors
    test::array<T> x(tokens, d, d + 3 + gap), ys(tokens * k, d, d + 3 + gap, gap), weight(tokens, k), y(tokens, d), d_x(tokens, d);
    test::array<T> d_ys(tokens * k, d), d_weight(tokens, k);
    x.normal(1), ys.normal(2), weight.normal(3);
    moe::combine(space, ys.mat(), weight.mat(), p.plan, y.mat());
    moe::dispatch_backward(space, ys.mat(), p.plan, k, d_x.mat());
    moe::combine_backward(space, x.mat(), ys.mat(), weight.mat(), p.plan, d_ys.mat(), d_weight.mat());
    std::vector<T> const now[] = {y.values(), d_x.values(), d_ys.values(), d_weight.values()};
    for (int i = 0; i < 4; ++i) {
      if (!first[i]) first[i] = now[i];
      CHECK(test::same_bits(*first[i], now[i]));
    }
    for (index_t t = 0; t < tokens; t += 37) {  // one token alone, its rows moved together
      test::array<int> e1(1, k);
      std::copy_n(&expert(t), k, e1.data());
      planned const alone(e1, experts, 0);
      test::array<T> x1(1, d), ys1(k, d), weight1(1, k), y1(1, d), d_x1(1, d), d_ys1(k, d), d_weight1(1, k);
      std::copy_n(&x(t), d, x1.data());
      std::copy_n(&weight(t), k, weight1.data());
      for (index_t j = 0; j < k; ++j) std::copy_n(&ys(p.plan.position(t * k + j)), d, &ys1(alone.plan.position(j)));
      moe::combine(space, ys1.mat(), weight1.mat(), alone.plan, y1.mat());
      moe::dispatch_backward(space, ys1.mat(), alone.plan, k, d_x1.mat());
      moe::combine_backward(space, x1.mat(), ys1.mat(), weight1.mat(), alone.plan, d_ys1.mat(), d_weight1.mat());
      CHECK(std::memcmp(&y(t), y1.data(), d * sizeof(T)) == 0);
      CHECK(std::memcmp(&d_x(t), d_x1.data(), d * sizeof(T)) == 0);
      CHECK(std::memcmp(&d_weight(t), d_weight1.data(), k * sizeof(T)) == 0);
      for (index_t j = 0; j < k; ++j)
        CHECK(std::memcmp(&d_ys(p.plan.position(t * k + j)), &d_ys1(alone.plan.position(j)), d * sizeof(T)) == 0);
    }
  });
}

TEST_CASE_TEMPLATE("combine: NaN is seen, a dropped choice is not", T, float, double, bf16) {
  test::array<int> const expert({0, 1, 0, 1}, 2, 2);
  planned const p(expert, 2, 1);  // token 1 is dropped altogether
  test::array<T> ys(4, 3), weight(2, 2), y(2, 3), d_y(2, 3), d_ys(4, 3), d_weight(2, 2), d_x(2, 3);
  ys.fill(T(1.0f)), weight.fill(T(0.0f)), d_y.fill(T(1.0f));
  ys(1, 2) = test::quiet_nan<T>();
  weight(1, 0) = test::quiet_nan<T>();
  auto const space = test::on();
  moe::combine(space, ys.mat(), weight.mat(), p.plan, y.mat());
  CHECK(y(0, 0) == T(0.0f));
  CHECK(std::isnan(double(y(0, 2))));  // also below a weight of 0
  for (index_t c = 0; c < 3; ++c) CHECK(y(1, c) == T(0.0f));
  moe::dispatch_backward(space, ys.mat(), p.plan, 2, d_x.mat());
  CHECK(std::isnan(double(d_x(0, 2))));
  for (index_t c = 0; c < 3; ++c) CHECK(d_x(1, c) == T(0.0f));
  moe::combine_backward(space, d_y.mat(), ys.mat(), weight.mat(), p.plan, d_ys.mat(), d_weight.mat());
  CHECK(d_weight(0, 0) == T(3.0f));
  CHECK(std::isnan(double(d_weight(0, 1))));
  CHECK(d_weight(1, 0) == T(0.0f));
  CHECK(d_weight(1, 1) == T(0.0f));
}

TEST_CASE("dispatch: wrong arguments") {
  using test::contains;
  using test::error_of;
  auto const space = test::on();
  test::array<int> e(3, 2);
  e.fill(3), e(1, 1) = 0;
  planned const p(e, 4, 0);
  test::array<float> x(3, 5), x2(2, 5), x4(3, 4), ys(6, 5), few(5, 5), w(3, 2), w3(3, 3), y(3, 5);
  x.fill(0), ys.fill(0), w.fill(0);
  CHECK(contains(error_of([&] { moe::dispatch(space, x.mat(), p.plan, few.mat()); }), "dispatch: xs has 5 rows, the plan has 6"));
  CHECK(contains(error_of([&] { moe::dispatch(space, x4.mat(), p.plan, ys.mat()); }), "dispatch: xs has 5 columns, needs 4"));
  test::array<float> x5(5, 5);
  CHECK(contains(error_of([&] { moe::dispatch(space, x5.mat(), p.plan, ys.mat()); }), "dispatch: plan is for 6 choices, x has 5 tokens"));
  CHECK(contains(error_of([&] { moe::dispatch_backward(space, ys.mat(), p.plan, 3, y.mat()); }), "dispatch_backward: plan is for 2 choices per token, there are 3"));
  // As many choices, divided otherwise between tokens and k: the plan's rows would be somebody else's.
  test::array<float> w2(2, 3);
  w2.fill(0);
  CHECK(contains(error_of([&] { moe::dispatch(space, x2.mat(), p.plan, ys.mat()); }), "dispatch: plan is for 6 choices, x has 2 tokens"));
  CHECK(contains(error_of([&] { moe::dispatch_backward(space, ys.mat(), p.plan, 3, x2.mat()); }), "plan is for 2 choices per token, there are 3"));
  CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w2.mat(), p.plan, x2.mat()); }), "plan is for 2 choices per token, there are 3"));
  CHECK(contains(error_of([&] { moe::dispatch_backward(space, few.mat(), p.plan, 2, y.mat()); }), "dispatch_backward: d_xs has 5 rows"));
  CHECK(contains(error_of([&] { moe::dispatch_backward(space, ys.mat(), p.plan, 2, x4.mat()); }), "dispatch_backward: d_xs has 5 columns, needs 4"));
  CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w3.mat(), p.plan, y.mat()); }), "combine: plan is for 2 choices per token, there are 3"));
  CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w.mat(), p.plan, x2.mat()); }), "combine: weight has 3 rows, y has 2"));
  CHECK(contains(error_of([&] { moe::combine(space, few.mat(), w.mat(), p.plan, y.mat()); }), "combine: ys has 5 rows, the plan has 6"));
  CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w.mat(), p.plan, x4.mat()); }), "combine: ys has 5 columns, needs 4"));
  auto const backward = [&](auto& d_y, auto& rows, auto& d_rows, auto& d_w) {
    return error_of([&] { moe::combine_backward(space, d_y.mat(), rows.mat(), w.mat(), p.plan, d_rows.mat(), d_w.mat()); });
  };
  CHECK(backward(x, ys, ys, w).empty());
  CHECK(contains(backward(x2, ys, ys, w), "combine_backward: weight has 3 rows, d_y has 2"));
  CHECK(contains(backward(x, few, ys, w), "combine_backward: ys has 5 rows"));
  CHECK(contains(backward(x, ys, few, w), "combine_backward: d_ys has 5 rows"));
  CHECK(contains(backward(x4, ys, ys, w), "combine_backward: ys has 5 columns, needs 4"));
  CHECK(contains(backward(x, ys, ys, w3), "combine_backward: d_weight is [3, 3], weight is [3, 2]"));
  moe::dispatch_plan const nothing;
  CHECK(contains(error_of([&] { (void)nothing.rows(); }), "dispatch_plan: offsets has 0 entries for 0 experts"));
  CHECK(contains(error_of([&] { moe::dispatch(space, x.mat(), nothing, ys.mat()); }), "dispatch: plan"));
  CHECK(contains(error_of([&] { moe::dispatch_backward(space, ys.mat(), nothing, 2, y.mat()); }), "dispatch_backward: plan"));
  CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w.mat(), nothing, y.mat()); }), "combine: plan"));
  if constexpr (!test::on_cuda) {  // the host does not look into the memory of a device
    for (int row : {-2, 6}) {
      p.plan.position(4) = row;
      auto const message = ": plan.position[4] is " + std::to_string(row) + ", needs to be in [-1, 6)";
      CHECK(contains(error_of([&] { moe::dispatch_backward(space, ys.mat(), p.plan, 2, y.mat()); }), "dispatch_backward" + message));
      CHECK(contains(error_of([&] { moe::combine(space, ys.mat(), w.mat(), p.plan, y.mat()); }), "combine" + message));
      CHECK(contains(backward(x, ys, ys, w), "combine_backward" + message));
    }
    p.plan.token(1) = 3;
    CHECK(contains(error_of([&] { moe::dispatch(space, x.mat(), p.plan, ys.mat()); }), "dispatch: plan.token[1] is 3, needs to be in [0, 3)"));
    test::array<float> many(8, 5);
    p.plan.offsets(4) = 7;
    CHECK(contains(error_of([&] { moe::dispatch(space, x.mat(), p.plan, many.mat()); }), "dispatch: plan has 7 rows of 6 choices"));
  }
}

TEST_CASE("combine: float weights beside rows of bf16 are not rounded, nor is their gradient") {
  auto const expert = random_experts(9, 2, 3, 1);
  auto const p = planned(expert, 3, 0);
  test::array<bf16> ys(18, 21), y(9, 21), d_y(9, 21), d_ys(18, 21);
  test::array<float> weight(9, 2), d_weight(9, 2);
  ys.normal(1), weight.normal(2), d_y.normal(3);
  moe::combine(test::on(), ys.mat(), weight.mat(), p.plan, y.mat());
  moe::combine_backward(test::on(), d_y.mat(), ys.mat(), weight.mat(), p.plan, d_ys.mat(), d_weight.mat());
  bool beyond_bf16 = false;
  for (index_t t = 0; t < 9; ++t) {
    index_t const r[] = {p.plan.position(2 * t), p.plan.position(2 * t + 1)};
    double dot[] = {0, 0};
    for (index_t c = 0; c < 21; ++c) {
      CHECK(y(t, c) == bf16(std::fma(weight(t, 1), float(ys(r[1], c)), weight(t, 0) * float(ys(r[0], c)))));
      for (index_t j = 0; j < 2; ++j) {
        CHECK(d_ys(r[j], c) == bf16(weight(t, j) * float(d_y(t, c))));
        dot[j] += double(d_y(t, c)) * double(ys(r[j], c));
      }
    }
    for (index_t j = 0; j < 2; ++j) {
      CHECK(std::abs(double(d_weight(t, j)) - dot[j]) < 1e-5 * (1 + std::abs(dot[j])));
      beyond_bf16 = beyond_bf16 || float(bf16(d_weight(t, j))) != d_weight(t, j);
    }
  }
  CHECK(beyond_bf16);
}
