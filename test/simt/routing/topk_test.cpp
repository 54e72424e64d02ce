#include <moe/routing/topk.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::cpu;
using moe::cuda;
using moe::index_t;
using moe::topk_config;

template <int K, class T>
struct choice {
  test::array<T> weight;
  test::array<int> expert;
  explicit choice(index_t tokens, index_t stride = 0, index_t offset = 0) : weight(tokens, K, stride, offset), expert(tokens, K, stride, offset) {}
  moe::tensor<T, moe::dyn, K> w() { return weight.mat(); }
  moe::tensor<int, moe::dyn, K> e() { return expert.mat(); }
};

/// Equal, or both NaN.
template <class T>
bool same_values(std::vector<T> const& a, std::vector<T> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) same = a[i] == b[i] || (a[i] != a[i] && b[i] != b[i]);
  return same;
}

template <topk_config C, moe::topk_tuning P = moe::topk_tuning{}, class T>
void check_against_cpu(test::array<T> const& logits, index_t stride = 0, index_t offset = 0) {
  choice<C.k, T> expected(logits.rows()), got(logits.rows(), stride, offset);
  moe::topk<C>(cpu{}, logits.mat(), expected.w(), expected.e());
  moe::topk<C, P>(cuda{}, logits.mat(), got.w(), got.e());
  CHECK(got.expert.values() == expected.expert.values());
  if constexpr (C.renormalise) {
    CHECK(same_values(got.weight.values(), expected.weight.values()));
  } else {
    double const relative = std::is_same_v<T, double> ? 1e-15 : std::is_same_v<T, float> ? 1e-6 : 1e-2;  // another order of summation
    for (index_t t = 0; t < logits.rows(); ++t)
      for (int j = 0; j < C.k; ++j) {
        auto const a = static_cast<double>(got.weight(t, j)), b = static_cast<double>(expected.weight(t, j));
        CHECK(((a != a && b != b) || std::abs(a - b) <= relative * 8 * b));
      }
  }
}

constexpr topk_config one{.k = 1}, three{.k = 3}, many{.k = 40}, unnormalised{.k = 3, .renormalise = false};

}  // namespace

TEST_CASE_TEMPLATE("topk on the cuda space: the bits of the CPU operator, every shape and schedule", T, float, double, moe::bf16) {
  std::size_t schedule = 0;
  for (index_t tokens : {0, 1, 3, 4, 5, 9})
    for (index_t experts : {3, 4, 31, 32, 33, 65}) {
      simt::use(simt::schedules[schedule++ % std::size(simt::schedules)]);
      test::array<T> logits(tokens, experts, experts + 3, 1);
      logits.normal(static_cast<std::uint64_t>(schedule), 3.0);
      check_against_cpu<one>(logits, 5, 1);
      check_against_cpu<three>(logits);
      check_against_cpu<three, moe::topk_tuning{.warps = 1}>(logits, 7, 3);
      check_against_cpu<unnormalised>(logits);
      if (experts >= 40) check_against_cpu<many>(logits);
    }
  simt::use(simt::schedules[0]);

  test::array<T> logits(10, 37);
  logits.normal(7);
  choice<3, T> c(10);
  test::check_schedules(c.weight, [&] { moe::topk<three>(cuda{}, logits.mat(), c.w(), c.e()); });
  test::check_schedules(c.expert, [&] { moe::topk<three>(cuda{}, logits.mat(), c.w(), c.e()); });
  test::check_schedules(c.weight, [&] { moe::topk<unnormalised>(cuda{}, logits.mat(), c.w(), c.e()); });
}

TEST_CASE_TEMPLATE("topk on the cuda space: ties, NaN, infinities and signed zeros as on the CPU", T, float, double, moe::bf16) {
  T const inf = T(std::numeric_limits<float>::infinity()), nan = test::quiet_nan<T>(), zero = T(0.0f), minus_zero = T(-0.0f),
          minus_nan = T(-std::numeric_limits<float>::quiet_NaN());
  T const values[] = {zero, minus_zero, T(1.0f), T(1.0f), T(-2.0f), inf, T(-std::numeric_limits<float>::infinity()), nan, minus_nan};
  test::array<T> logits(40, 35);
  for (index_t t = 0; t < 40; ++t)  // rows of few distinct values; the first ones are all equal
    for (index_t e = 0; e < 35; ++e) logits(t, e) = values[t < 9 ? t : (e * (t + 1) + t * t) % (t < 20 ? 5 : 9)];
  for (simt::schedule const& s : simt::schedules) {
    simt::use(s);
    check_against_cpu<three>(logits);
    check_against_cpu<unnormalised>(logits);
  }
  simt::use(simt::schedules[0]);
}

TEST_CASE("topk on the cuda space: the errors of the CPU operator") {
  test::array<float> logits(4, 2), weight(4, 3), short_weight(3, 3);
  test::array<int> expert(4, 3);
  logits.fill(0);
  moe::tensor<float, moe::dyn, 3> const w = weight.mat(), v = short_weight.mat();
  moe::tensor<int, moe::dyn, 3> const e = expert.mat();
  CHECK(test::error_of([&] { moe::topk<three>(cuda{}, logits.mat(), w, e); }) == "topk: k = 3 of 2 experts");
  test::array<float> more(4, 5);
  CHECK(test::error_of([&] { moe::topk<three>(cuda{}, more.mat(), v, e); }) == "topk: weight has 3 rows, logits has 4");
}
