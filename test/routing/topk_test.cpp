#include <moe/routing/topk.hpp>

#include <algorithm>
#include <numeric>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::dyn;
using moe::index_t;
using moe::topk_config;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The k first experts of a row, by a sort with the order of the contract.
template <class T>
std::vector<int> first_experts(T const* row, index_t experts, int k) {
  std::vector<int> e(static_cast<std::size_t>(experts));
  std::iota(e.begin(), e.end(), 0);
  std::stable_sort(e.begin(), e.end(), [&](int a, int b) {
    double const x = double(row[a]), y = double(row[b]);
    return std::isnan(x) ? !std::isnan(y) : x > y;
  });
  e.resize(static_cast<std::size_t>(k));
  return e;
}

/// Softmax at the chosen experts, in double.
template <class T>
std::vector<double> softmax_at(T const* row, index_t experts, std::vector<int> const& chosen, bool renormalise) {
  double sum = 0;
  double const top = double(row[chosen[0]]);
  if (renormalise)
    for (int e : chosen) sum += std::exp(double(row[e]) - top);
  else
    for (index_t e = 0; e < experts; ++e) sum += std::exp(double(row[e]) - top);
  std::vector<double> w;
  for (int e : chosen) w.push_back(std::exp(double(row[e]) - top) / sum);
  return w;
}

template <class T>
double tolerance() {
  return std::is_same_v<T, double> ? 1e-14 : std::is_same_v<T, float> ? 2e-6 : 1.0 / 256;
}

template <topk_config C, class T>
void run(test::array<T> const& logits, test::array<T>& weight, test::array<int>& expert, test::space const& space = test::on()) {
  moe::topk<C>(space, logits.mat(), moe::tensor<T, dyn, C.k>(weight.mat()), moe::tensor<int, dyn, C.k>(expert.mat()));
}

template <topk_config C, class T>
void run_backward(test::array<T> const& logits, test::array<T> const& weight, test::array<int> const& expert, test::array<T> const& d_weight,
                  test::array<T>& d_logits, test::space const& space = test::on()) {
  moe::topk_backward<C>(space, logits.mat(), weight.mat(), expert.mat(), d_weight.mat(), d_logits.mat());
}

template <topk_config C, class T>
void compare(index_t tokens, index_t experts, int bound) {
  CAPTURE(tokens);
  CAPTURE(experts);
  CAPTURE(C.k);
  CAPTURE(C.renormalise);
  test::array<T> logits(tokens, experts, experts + 3, 1), weight(tokens, C.k, C.k + 2, 3), d_weight(tokens, C.k);
  test::array<T> d_logits(tokens, experts, experts + 1, 1);
  test::array<int> expert(tokens, C.k, C.k + 1);
  if (bound > 0) logits.integers(7, bound);  // full of ties
  else logits.normal(8);
  d_weight.normal(9);
  run<C>(logits, weight, expert);
  run_backward<C>(logits, weight, expert, d_weight, d_logits);
  for (index_t t = 0; t < tokens; ++t) {
    auto const chosen = first_experts(&logits(t), experts, C.k);
    auto const w = softmax_at(&logits(t), experts, chosen, C.renormalise);
    std::vector<int> all(static_cast<std::size_t>(experts));
    std::iota(all.begin(), all.end(), 0);
    std::vector<double> expected(all.size()), p = softmax_at(&logits(t), experts, all, false);
    double s = 0;
    for (std::size_t j = 0; j < chosen.size(); ++j) {
      CHECK(expert(t, index_t(j)) == chosen[j]);
      CHECK(std::abs(double(weight(t, index_t(j))) - w[j]) <= tolerance<T>());
      s += w[j] * double(d_weight(t, index_t(j)));
    }
    for (std::size_t e = 0; e < expected.size(); ++e) expected[e] = C.renormalise ? 0 : -s * p[e];
    for (std::size_t j = 0; j < chosen.size(); ++j) expected[std::size_t(chosen[j])] = w[j] * (double(d_weight(t, index_t(j))) - s);
    for (std::size_t e = 0; e < expected.size(); ++e) CHECK(std::abs(double(d_logits(t, index_t(e))) - expected[e]) <= 4 * tolerance<T>());
  }
}
}  // namespace

TEST_CASE_TEMPLATE("topk: gates of Mixtral and of OLMoE", T, float, double) {
  test::array<T> const logits({T(1), T(2), T(0.5), T(-1)}, 1, 4);
  test::array<T> w(1, 2);
  test::array<int> e(1, 2);
  run<topk_config{.k = 2}>(logits, w, e);
  CHECK(e.values() == std::vector<int>{1, 0});
  CHECK(std::abs(double(w(0, 0)) - .731058579) <= 1e-7);
  CHECK(std::abs(double(w(0, 1)) - .268941421) <= 1e-7);
  run<topk_config{.k = 2, .renormalise = false}>(logits, w, e);
  CHECK(e.values() == std::vector<int>{1, 0});
  CHECK(std::abs(double(w(0, 0)) - .609460038) <= 1e-7);
  CHECK(std::abs(double(w(0, 1)) - .224207818) <= 1e-7);
}

TEST_CASE_TEMPLATE("topk: agrees with a sort, forward and backward", T, float, double, bf16) {
  for (index_t tokens : test::on_cuda ? std::vector<index_t>{0, 5} : std::vector<index_t>{0, 1, 5, 17})
    for (index_t experts : test::on_cuda ? std::vector<index_t>{8, 31, 32, 33, 65} : std::vector<index_t>{8, 9, 15, 16, 17, 31, 33, 64, 128, 200})
      for (int bound : {0, 1, 3}) {
        compare<topk_config{.k = 1, .renormalise = true}, T>(tokens, experts, bound);
        compare<topk_config{.k = 1, .renormalise = false}, T>(tokens, experts, bound);
        compare<topk_config{.k = 4, .renormalise = true}, T>(tokens, experts, bound);
        compare<topk_config{.k = 8, .renormalise = false}, T>(tokens, experts, bound);
      }
  compare<topk_config{.k = 1, .renormalise = false}, T>(3, 1, 0);
  compare<topk_config{.k = 3, .renormalise = true}, T>(3, 3, 0);
  compare<topk_config{.k = 33, .renormalise = true}, T>(2, 40, 0);
}

TEST_CASE_TEMPLATE("topk: all ties choose the lowest experts with equal weights", T, float, double, bf16) {
  for (T x : {T(0.0f), T(-3.0f), T(1e30f)}) {
    test::array<T> logits(2, 64), w(2, 4);
    test::array<int> e(2, 4);
    logits.fill(x);
    run<topk_config{.k = 4}>(logits, w, e);
    CHECK(e.values() == std::vector<int>{0, 1, 2, 3, 0, 1, 2, 3});
    for (T y : w.values()) CHECK(y == T(0.25f));
    run<topk_config{.k = 4, .renormalise = false}>(logits, w, e);
    for (T y : w.values()) CHECK(y == T(1.0f / 64));
  }
  test::array<T> zeros(1, 4), w(1, 4);  // -0 and 0 are a tie
  test::array<int> e(1, 4);
  zeros(0, 0) = T(-0.0f), zeros(0, 1) = T(0.0f), zeros(0, 2) = T(-0.0f), zeros(0, 3) = T(0.0f);
  run<topk_config{.k = 4}>(zeros, w, e);
  CHECK(e.values() == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE_TEMPLATE("topk: NaN ranks first and is seen, infinities give valid experts", T, float, double, bf16) {
  T const nan = test::quiet_nan<T>(), minus_nan = T(-std::numeric_limits<float>::quiet_NaN());
  T const inf = T(infinity), low = T(-infinity), one = T(1.0f), big = T(3e38f);
  test::array<T> const logits({big, nan, inf, nan, one,  //
                               one, inf, big, inf, one,  //
                               low, low, low, low, low,  //
                               low, one, low, low, low,  //
                               big, minus_nan, one, one, low},
                              5, 5);
  test::array<T> w(5, 3), d(5, 3), d_logits(5, 5);
  test::array<int> e(5, 3);
  auto const check = [&]<topk_config C>() {
    run<C>(logits, w, e);
    CHECK(e.values() == std::vector<int>{1, 3, 2, 1, 3, 2, 0, 1, 2, 1, 0, 2, 1, 0, 2});
    for (index_t t : {0, 1, 2, 4})
      for (index_t j = 0; j < 3; ++j) CHECK(std::isnan(double(w(t, j))));
    CHECK(w(3, 0) == one);
    CHECK(w(3, 1) == T(0.0f));
    CHECK(w(3, 2) == T(0.0f));
    d.fill(one);
    run_backward<C>(logits, w, e, d, d_logits);
    for (index_t t : {0, 1, 2, 4})
      for (index_t j = 0; j < 3; ++j) CHECK(std::isnan(double(d_logits(t, e(t, j)))));
    for (index_t c = 0; c < 5; ++c) CHECK(d_logits(3, c) == T(0.0f));
  };
  check.template operator()<topk_config{.k = 3}>();
  check.template operator()<topk_config{.k = 3, .renormalise = false}>();
}

TEST_CASE_TEMPLATE("topk: rows that are not finite leave those beside them alone", T, float, double, bf16) {
  constexpr index_t tokens = 35, experts = 21;
  T const values[] = {test::quiet_nan<T>(), T(infinity), T(-infinity), T(-0.0f), T(0.0f)};
  test::array<T> logits(tokens, experts), w(tokens, 3), w1(1, 3);
  test::array<int> e(tokens, 3), e1(1, 3);
  logits.normal(2);
  for (index_t t = 1; t < tokens; t += 3)
    for (index_t i = 0; i < 6; ++i) logits(t, (i * i + t) % experts) = values[(t + i) % 5];
  run<topk_config{.k = 3}>(logits, w, e);
  for (index_t t = 0; t < tokens; ++t) {
    auto const chosen = first_experts(&logits(t), experts, 3);
    CHECK(std::equal(chosen.begin(), chosen.end(), &e(t)));
    test::array<T> row(1, experts);
    std::copy_n(&logits(t), experts, row.data());
    run<topk_config{.k = 3}>(row, w1, e1);
    CHECK(std::equal(e1.data(), e1.data() + 3, &e(t)));
    bool const lost = !(std::abs(double(logits(t, chosen[0]))) < infinity);
    for (index_t j = 0; j < 3; ++j) CHECK((lost ? std::isnan(double(w(t, j))) && std::isnan(double(w1(0, j))) : w(t, j) == w1(0, j)));
  }
}

TEST_CASE("topk: weights agree with finite differences") {
  auto const check = []<topk_config C>(index_t tokens, index_t experts) {
    test::array<double> logits(tokens, experts), c(tokens, C.k), w(tokens, C.k), d_logits(tokens, experts);
    test::array<int> e(tokens, C.k);
    logits.normal(11), c.normal(12);
    run<C>(logits, w, e);
    run_backward<C>(logits, w, e, c, d_logits);
    auto const selection = e.values();
    auto const loss = [&] {
      run<C>(logits, w, e);
      REQUIRE(e.values() == selection);
      double sum = 0;
      for (index_t i = 0; i < w.size(); ++i) sum += c.data()[i] * w.data()[i];
      return sum;
    };
    auto const analytic = d_logits.values();
    test::check_gradient("topk logits", loss, logits.data(), logits.size(), analytic);
    if (!C.renormalise) return;
    for (index_t t = 0; t < tokens; ++t)
      for (index_t x = 0; x < experts; ++x)
        if (std::find(&e(t), &e(t) + C.k, int(x)) == &e(t) + C.k) CHECK(d_logits(t, x) == 0.0);
  };
  check.operator()<topk_config{.k = 2}>(5, 7);
  check.operator()<topk_config{.k = 4}>(3, 16);
  check.operator()<topk_config{.k = 1, .renormalise = false}>(4, 9);
  check.operator()<topk_config{.k = 4, .renormalise = false}>(3, 17);
  check.operator()<topk_config{.k = 3, .renormalise = false}>(3, 3);
}

TEST_CASE_TEMPLATE("topk: a renormalised single weight is 1 and its gradient 0", T, float, double, bf16) {
  test::array<T> logits(6, 10), w(6, 1), c(6, 1), d(6, 10);
  test::array<int> e(6, 1);
  logits.normal(1), c.normal(2);
  run<topk_config{.k = 1}>(logits, w, e);
  run_backward<topk_config{.k = 1}>(logits, w, e, c, d);
  for (T x : w.values()) CHECK(x == T(1.0f));
  for (T x : d.values()) CHECK(x == T(0.0f));
}

TEST_CASE_TEMPLATE("topk: the same bits for every execution, alone or in a batch", T, float, double, bf16) {
  constexpr index_t tokens = test::on_cuda ? 16 : 700, experts = 37;
  auto const check = [&]<topk_config C>() {
    test::array<T> logits(tokens, experts, experts + 2, 1), c(tokens, C.k);
    logits.normal(3), c.normal(4);
    std::vector<T> weights, gradients;
    std::vector<int> experts_of;
    test::for_each_execution([&](test::space const& space, int i) {
      test::array<T> w(tokens, C.k), d(tokens, experts);
      test::array<int> e(tokens, C.k);
      run<C>(logits, w, e, space);
      run_backward<C>(logits, w, e, c, d, space);
      if (i == 0) weights = w.values(), gradients = d.values(), experts_of = e.values();
      CHECK(test::same_bits(weights, w.values()));
      CHECK(test::same_bits(gradients, d.values()));
      CHECK(experts_of == e.values());
    });
    for (index_t t = 0; t < tokens; t += test::on_cuda ? 7 : 99) {
      test::array<T> row(1, experts), c1(1, C.k), w(1, C.k), d(1, experts);
      test::array<int> e(1, C.k);
      std::copy_n(&logits(t), experts, row.data());
      std::copy_n(&c(t), C.k, c1.data());
      run<C>(row, w, e);
      run_backward<C>(row, w, e, c1, d);
      CHECK(std::memcmp(w.data(), &weights[std::size_t(t * C.k)], sizeof(T) * C.k) == 0);
      CHECK(std::memcmp(e.data(), &experts_of[std::size_t(t * C.k)], sizeof(int) * C.k) == 0);
      CHECK(std::memcmp(d.data(), &gradients[std::size_t(t * experts)], sizeof(T) * experts) == 0);
    }
  };
  check.template operator()<topk_config{.k = 4}>();
  check.template operator()<topk_config{.k = 4, .renormalise = false}>();
}

// Where the other operand is the CPU operator itself: the bits of a renormalised softmax and of its gradient do not depend on the space.
#if defined(MOE_TEST_CUDA)
namespace {
/// Equal, or both NaN.
template <class T>
bool same_values(std::vector<T> const& a, std::vector<T> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) same = a[i] == b[i] || (a[i] != a[i] && b[i] != b[i]);
  return same;
}

template <topk_config C, moe::topk_tuning P = moe::topk_tuning{}, class T>
void check_against_cpu(test::array<T> const& logits, test::space const& space, index_t stride = 0, index_t offset = 0) {
  index_t const tokens = logits.rows(), experts = logits.columns();
  test::array<T> w(tokens, C.k), v(tokens, C.k, stride, offset), c(tokens, C.k), d_w(tokens, experts), d_v(tokens, experts, experts + offset, offset);
  test::array<int> e(tokens, C.k), f(tokens, C.k, stride, offset);
  moe::topk<C>(moe::cpu{}, logits.mat(), moe::tensor<T, dyn, C.k>(w.mat()), moe::tensor<int, dyn, C.k>(e.mat()));
  moe::topk<C, P>(space, logits.mat(), moe::tensor<T, dyn, C.k>(v.mat()), moe::tensor<int, dyn, C.k>(f.mat()));
  CHECK(e.values() == f.values());
  CHECK(same_values(w.values(), v.values()));
  c.normal(3);
  moe::topk_backward<C>(moe::cpu{}, logits.mat(), w.mat(), e.mat(), c.mat(), d_w.mat());
  moe::topk_backward<C>(space, logits.mat(), w.mat(), e.mat(), c.mat(), d_v.mat());
  CHECK(same_values(d_w.values(), d_v.values()));
}
}  // namespace

TEST_CASE_TEMPLATE("topk: renormalised, the bits of the CPU, for every execution, tuning and stride", T, float, double, bf16) {
  constexpr topk_config one{.k = 1}, three{.k = 3}, many{.k = 40};
  T const inf = T(std::numeric_limits<float>::infinity()), nan = test::quiet_nan<T>(), zero = T(0.0f), minus_zero = T(-0.0f),
          minus_nan = T(-std::numeric_limits<float>::quiet_NaN());
  T const values[] = {zero, minus_zero, T(1.0f), T(1.0f), T(-2.0f), inf, T(-std::numeric_limits<float>::infinity()), nan, minus_nan};
  test::array<T> few(40, 35);
  for (index_t t = 0; t < 40; ++t)  // rows of few distinct values; the first ones are all equal
    for (index_t e = 0; e < 35; ++e) few(t, e) = values[t < 9 ? t : (e * (t + 1) + t * t) % (t < 20 ? 5 : 9)];
  test::for_each_execution([&](test::space const& space, int i) {
    check_against_cpu<three>(few, space);
    index_t const sizes[] = {3, 31, 32, 33, 65};
    test::array<T> logits(i % 2 == 0 ? 9 : 5, sizes[i % 5], sizes[i % 5] + 3, 1);
    logits.normal(static_cast<std::uint64_t>(i), 3.0);
    check_against_cpu<one>(logits, space, 5, 1);
    check_against_cpu<three, moe::topk_tuning{.warps = 1}>(logits, space, 7, 3);
    if (sizes[i % 5] >= 40) check_against_cpu<many>(logits, space);
  });
}

TEST_CASE("topk_backward: an expert out of range, which cannot be checked, is skipped") {
  test::array<float> logits(1, 3), w(1, 2), c(1, 2), d(1, 3);
  test::array<int> e({3, 1}, 1, 2);
  logits.normal(1), w.fill(0.5f), c.normal(2);
  for (int id : {3, -1, std::numeric_limits<int>::min()}) {
    e(0, 0) = id;
    run_backward<topk_config{.k = 2}>(logits, w, e, c, d);
    CHECK((d(0, 0) == 0 && d(0, 2) == 0));
  }
}
#endif

TEST_CASE("topk_backward: an expert named twice is found wherever it stands, its rows together or apart") {
  if constexpr (test::on_cuda) return;
  constexpr index_t tokens = 21, experts = 9;
  auto const check = [&]<topk_config C>() {
    test::array<float> const logits(std::vector<float>(tokens * experts), tokens, experts), w(std::vector<float>(tokens * C.k), tokens, C.k);
    test::array<float> d(tokens, experts);
    for (index_t stride : {C.k, C.k + 1}) {
      test::array<int> e(tokens, C.k, stride);
      for (index_t t = 0; t < tokens; ++t)
        for (index_t j = 0; j < C.k; ++j) e(t, j) = static_cast<int>((t + j) % experts);
      auto const message = [&] { return test::error_of([&] { run_backward<C>(logits, w, e, w, d); }); };
      CHECK(message().empty());
      for (index_t t = 0; t < tokens; ++t)
        for (index_t j = 1; j < C.k; ++j)
          for (index_t i = 0; i < j; ++i) {
            int const kept = std::exchange(e(t, j), e(t, i));
            CHECK(test::contains(message(), "topk_backward: row " + std::to_string(t) + " of expert names an expert twice"));
            e(t, j) = kept;
          }
    }
  };
  check.operator()<topk_config{.k = 1}>();
  check.operator()<topk_config{.k = 2}>();
  check.operator()<topk_config{.k = 3}>();
  check.operator()<topk_config{.k = 4}>();
  check.operator()<topk_config{.k = 8}>();
}

TEST_CASE("topk: wrong arguments") {
  using test::contains;
  using test::error_of;
  auto const space = test::on();
  test::array<float> logits(3, 4), few(3, 1), w(3, 2), w2(2, 2), d(3, 4), d2(3, 5);
  test::array<int> e(3, 2), e2(2, 2);
  logits.fill(0), w.fill(0);
  auto const forward = [&](auto const& l, auto const& weight, auto const& expert) {
    return error_of([&] { moe::topk<topk_config{.k = 2}>(space, l.mat(), moe::tensor<float, dyn, 2>(weight), moe::tensor<int, dyn, 2>(expert)); });
  };
  CHECK(contains(forward(few, w.mat(), e.mat()), "topk: k = 2 of 1 experts"));
  CHECK(contains(forward(logits, w2.mat(), e.mat()), "topk: weight has 2 rows, logits has 3"));
  CHECK(contains(forward(logits, w.mat(), e2.mat()), "topk: expert has 2 rows, logits has 3"));
  auto const backward = [&](auto const& weight, auto const& expert, auto const& d_weight, auto const& d_logits) {
    return error_of([&] {
      moe::topk_backward<topk_config{.k = 2}>(space, logits.mat(), weight.mat(), expert.mat(), d_weight.mat(), d_logits);
    });
  };
  for (int i = 0; i < 6; ++i) e.data()[i] = i % 2;
  CHECK(backward(w, e, w, d.mat()).empty());
  CHECK(contains(backward(w2, e, w, d.mat()), "topk_backward: weight has 2 rows"));
  CHECK(contains(backward(w, e2, w, d.mat()), "topk_backward: expert has 2 rows"));
  CHECK(contains(backward(w, e, w2, d.mat()), "topk_backward: d_weight has 2 rows, logits has 3"));
  CHECK(contains(backward(w, e, w, d2.mat()), "topk_backward: d_logits is [3, 5], logits is [3, 4]"));
  if constexpr (test::on_cuda) return;  // no look at device memory
  e(2, 1) = 4;
  CHECK(contains(backward(w, e, w, d.mat()), "topk_backward: expert[2, 1] = 4, needs to be in [0, 4)"));
  e(2, 1) = -1;
  CHECK(contains(backward(w, e, w, d.mat()), "expert[2, 1] = -1"));
  e(2, 1) = e(2, 0);
  CHECK(contains(backward(w, e, w, d.mat()), "topk_backward: row 2 of expert names an expert twice"));
}
