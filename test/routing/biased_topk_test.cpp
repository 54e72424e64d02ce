#include <moe/routing/biased_topk.hpp>

#include <algorithm>
#include <numeric>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::biased_topk_config;
using moe::dyn;
using moe::index_t;
using moe::score_function;

constexpr double infinity = std::numeric_limits<double>::infinity();

template <biased_topk_config C, class T>
void run(test::array<T> const& logits, std::type_identity_t<test::array<T>> const* bias, test::array<T>& weight, test::array<int>& expert,
         test::space const& space = test::on()) {
  moe::biased_topk<C>(space, logits.mat(), bias ? bias->vec() : moe::vector_view<T const>(), moe::tensor<T, dyn, C.k>(weight.mat()),
                      moe::tensor<int, dyn, C.k>(expert.mat()));
}
template <biased_topk_config C, class T>
void run_backward(test::array<T> const& logits, test::array<T> const& weight, test::array<int> const& expert, test::array<T> const& d_weight,
                  test::array<T>& d_logits, test::space const& space = test::on()) {
  moe::biased_topk_backward<C>(space, logits.mat(), weight.mat(), expert.mat(), d_weight.mat(), d_logits.mat());
}

/// As the operator rounds them for sigmoid, so that ties are the same; for softmax in double.
template <biased_topk_config C, class A, class T>
std::vector<double> scores(T const* row, index_t experts) {
  std::vector<double> s;
  double top = -infinity, sum = 0;
  for (index_t e = 0; e < experts; ++e) top = std::max(top, double(row[e]));
  for (index_t e = 0; e < experts; ++e) sum += std::exp(double(row[e]) - top);
  for (index_t e = 0; e < experts; ++e)
    s.push_back(C.score == score_function::sigmoid ? double(A(1) / (A(1) + moe::exp_scalar(-A(row[e])))) : std::exp(double(row[e]) - top) / sum);
  return s;
}
bool ranks_first(double x, double y) { return std::isnan(x) ? !std::isnan(y) : x > y; }

/// By sorting groups and experts with the order of the contract.
template <biased_topk_config C, class A, class T>
std::vector<int> first_experts(std::vector<double> const& s, T const* bias) {
  auto const n = static_cast<int>(s.size()), size = n / C.groups;
  std::vector<double> candidate, group;
  for (int e = 0; e < n; ++e) candidate.push_back(bias ? double(A(s[std::size_t(e)]) + A(bias[e])) : s[std::size_t(e)]);
  for (int g = 0; g < C.groups; ++g) {
    std::vector<double> of(candidate.begin() + g * size, candidate.begin() + (g + 1) * size);
    std::sort(of.begin(), of.end(), ranks_first);
    group.push_back(bias && size > 1 ? double(A(of[0]) + A(of[1])) : of[0]);
  }
  std::vector<int> kept(std::size_t(C.groups)), chosen;
  std::iota(kept.begin(), kept.end(), 0);
  std::stable_sort(kept.begin(), kept.end(), [&](int a, int b) { return ranks_first(group[std::size_t(a)], group[std::size_t(b)]); });
  kept.resize(C.kept_groups);
  for (int e = 0; e < n; ++e)
    if (std::find(kept.begin(), kept.end(), e / size) != kept.end()) chosen.push_back(e);
  std::stable_sort(chosen.begin(), chosen.end(), [&](int a, int b) { return ranks_first(candidate[std::size_t(a)], candidate[std::size_t(b)]); });
  chosen.resize(C.k);
  return chosen;
}

template <class T>
double tolerance() {
  return std::is_same_v<T, double> ? 1e-14 : std::is_same_v<T, float> ? 2e-6 : 1.0 / 256;
}

template <biased_topk_config C, class T>
void check_row(T const* row, std::vector<double> const& s, int const* expert, T const* weight, T const* d_weight, T const* d_row) {
  double total = 0, mean = 0;
  for (int j = 0; j < C.k; ++j) total += s[std::size_t(expert[j])];
  std::vector<double> w, expected(s.size());
  for (int j = 0; j < C.k; ++j) {
    w.push_back(C.scale * s[std::size_t(expert[j])] / (C.renormalise ? total : 1));
    CHECK(std::abs(double(weight[j]) - w.back()) <= C.scale * tolerance<T>());
    mean += w.back() * double(d_weight[j]);
  }
  bool const sigmoid = C.score == score_function::sigmoid;
  for (std::size_t e = 0; e < s.size(); ++e) {  // d_s, then through the score
    double d_score = 0;
    for (std::size_t j = 0; j < w.size(); ++j)
      if (std::size_t(expert[j]) == e) d_score = C.renormalise ? (C.scale * double(d_weight[j]) - mean) / total : C.scale * double(d_weight[j]);
    expected[e] = sigmoid ? d_score * s[e] / (1 + std::exp(double(row[e]))) : s[e] * d_score;
  }
  if (!sigmoid) {
    double const sum = std::accumulate(expected.begin(), expected.end(), 0.0);
    for (std::size_t e = 0; e < s.size(); ++e) expected[e] -= s[e] * sum;
  }
  for (std::size_t e = 0; e < s.size(); ++e) CHECK(std::abs(double(d_row[e]) - expected[e]) <= 4 * C.scale * tolerance<T>());
}

enum class biases { none, normal, negative, ties };

template <biased_topk_config C, class T>
void compare(index_t tokens, index_t experts, biases kind) {
  CAPTURE(tokens);
  CAPTURE(experts);
  CAPTURE(C.k);
  CAPTURE(C.groups);
  using A = moe::accumulator<T>;
  test::array<T> logits(tokens, experts, experts + 3, 1), bias(experts), weight(tokens, C.k, C.k + 2, 3), d_weight(tokens, C.k);
  test::array<T> d_logits(tokens, experts, experts + 1, 1);
  test::array<int> expert(tokens, C.k, C.k + 1);
  if (kind == biases::ties) logits.integers(7, 2), bias.integers(8, 1);
  else logits.normal(8), bias.normal(10, 0.1);
  for (index_t e = 0; kind == biases::negative && e < experts; ++e) bias(e) = T(float(bias(e)) - 3);
  d_weight.normal(9);
  auto const* const b = kind == biases::none ? nullptr : &bias;
  run<C>(logits, b, weight, expert);
  run_backward<C>(logits, weight, expert, d_weight, d_logits);
  for (index_t t = 0; t < tokens; ++t) {
    auto const s = scores<C, A>(&logits(t), experts);
    auto const chosen = first_experts<C, A>(s, b ? b->data() : static_cast<T const*>(nullptr));
    if (C.score == score_function::sigmoid || std::is_same_v<T, double>)  // softmax: the double candidates are not those that float compares
      for (std::size_t j = 0; j < chosen.size(); ++j) CHECK(expert(t, index_t(j)) == chosen[j]);
    check_row<C>(&logits(t), s, &expert(t), &weight(t), &d_weight(t), &d_logits(t));
  }
}
}  // namespace

TEST_CASE_TEMPLATE("biased_topk: sigmoid scores with a bias", T, float, double) {
  test::array<T> const logits({T(1), T(2), T(0.5), T(-1)}, 1, 4), bias({T(0), T(-0.3), T(0), T(0.6)}, 4, 1);
  test::array<T> w(1, 2);
  test::array<int> e(1, 2);
  run<biased_topk_config{.scale = 2.5}>(logits, &bias, w, e);
  CHECK(e.values() == std::vector<int>{3, 0});
  CHECK(std::abs(double(w(0, 0)) - .672353553) <= 5e-7);
  CHECK(std::abs(double(w(0, 1)) - 1.827646447) <= 5e-7);
  run<biased_topk_config{.renormalise = false}>(logits, nullptr, w, e);
  CHECK(e.values() == std::vector<int>{1, 0});
  CHECK(std::abs(double(w(0, 0)) - .880797078) <= 2e-7);
  CHECK(std::abs(double(w(0, 1)) - .731058579) <= 2e-7);
  run<biased_topk_config{.score = score_function::softmax, .renormalise = false}>(logits, &bias, w, e);  // of .224, .609, .136, .030
  CHECK(e.values() == std::vector<int>{3, 1});
  CHECK(std::abs(double(w(0, 0)) - .030343229) <= 2e-7);
  CHECK(std::abs(double(w(0, 1)) - .609460038) <= 2e-7);
}

TEST_CASE_TEMPLATE("biased_topk: limited to the best groups", T, float, double) {
  test::array<T> const logits({T(.2), T(1), T(-.5), T(.8), T(2), T(-2), T(.1), T(.3)}, 1, 8);
  test::array<T> const bias({T(0), T(0), T(.4), T(0), T(-.3), T(0), T(.2), T(.1)}, 8, 1);
  test::array<T> w(1, 3);
  test::array<int> e(1, 3);
  constexpr biased_topk_config c{.k = 3, .scale = 2.5, .groups = 4, .kept_groups = 2};
  run<c>(logits, &bias, w, e);
  CHECK(e.values() == std::vector<int>{2, 6, 3});
  CHECK(std::abs(double(w(0, 0)) - .592687616) <= 1e-6);
  CHECK(std::abs(double(w(0, 1)) - .824146082) <= 1e-6);
  CHECK(std::abs(double(w(0, 2)) - 1.083166302) <= 1e-6);
  run<c>(logits, nullptr, w, e);  // the largest of each: 1, .8, 2, .3
  CHECK(e.values() == std::vector<int>{4, 1, 0});
}

TEST_CASE_TEMPLATE("biased_topk: agrees with a sort, forward and backward", T, float, double, bf16) {
  for (index_t tokens : test::on_cuda ? std::vector<index_t>{0, 3} : std::vector<index_t>{0, 1, 5, 17})
    for (biases kind : {biases::none, biases::normal, biases::negative, biases::ties}) {
      for (index_t experts : test::on_cuda ? std::vector<index_t>{8, 33, 129} : std::vector<index_t>{8, 9, 15, 16, 17, 33, 64, 200}) {
        compare<biased_topk_config{.k = 2}, T>(tokens, experts, kind);
        if constexpr (!test::on_cuda) {  // that both spaces have the same numbers is a test of its own below
          compare<biased_topk_config{.k = 1, .renormalise = false}, T>(tokens, experts, kind);
          compare<biased_topk_config{.k = 8, .scale = 2.5}, T>(tokens, experts, kind);
          compare<biased_topk_config{.k = 3, .renormalise = false, .scale = 0.5}, T>(tokens, experts, kind);
        }
      }
      for (index_t size : test::on_cuda ? std::vector<index_t>{8, 37} : std::vector<index_t>{2, 3, 8, 16, 19, 31, 33, 37}) {
        compare<biased_topk_config{.k = 4, .score = score_function::softmax, .groups = 8, .kept_groups = 4}, T>(tokens, 8 * size, kind);
        if constexpr (!test::on_cuda) {
          compare<biased_topk_config{.k = 4, .groups = 8, .kept_groups = 4}, T>(tokens, 8 * size, kind);
          compare<biased_topk_config{.k = 2, .groups = 3, .kept_groups = 1}, T>(tokens, 3 * size, kind);
          compare<biased_topk_config{.k = 3, .renormalise = false, .groups = 4, .kept_groups = 4}, T>(tokens, 4 * size, kind);
        }
      }
      compare<biased_topk_config{.k = 2, .score = score_function::softmax, .renormalise = false, .scale = 1.5}, T>(tokens, 40, kind);
      compare<biased_topk_config{.k = 5, .groups = 32, .kept_groups = 31}, T>(tokens, 32, kind);  // groups of one
    }
  compare<biased_topk_config{.k = 2}, T>(2, 530, biases::normal);
  if constexpr (!test::on_cuda) {
    compare<biased_topk_config{.k = 2, .score = score_function::softmax}, T>(5, 21, biases::normal);
    compare<biased_topk_config{.k = 1, .renormalise = false}, T>(3, 1, biases::normal);
    compare<biased_topk_config{.k = 3}, T>(3, 3, biases::normal);
    compare<biased_topk_config{.k = 33}, T>(2, 40, biases::normal);
    compare<biased_topk_config{.k = 4, .groups = 8, .kept_groups = 4}, T>(3, 600, biases::normal);
    compare<biased_topk_config{.k = 4, .groups = 8, .kept_groups = 4}, T>(3, 1032, biases::normal);  // more than are held
  }
}

TEST_CASE_TEMPLATE("biased_topk: softmax without a bias is topk", T, float, double, bf16) {
  test::array<T> logits(19, 33), w(19, 4), w2(19, 4);
  test::array<int> e(19, 4), e2(19, 4);
  logits.normal(5);
  auto const check = [&]<bool renormalise>() {
    run<biased_topk_config{.k = 4, .score = score_function::softmax, .renormalise = renormalise}>(logits, nullptr, w, e);
    moe::topk<moe::topk_config{.k = 4, .renormalise = renormalise}>(moe::cpu{}, logits.mat(), moe::tensor<T, dyn, 4>(w2.mat()),
                                                                    moe::tensor<int, dyn, 4>(e2.mat()));
    CHECK(e.values() == e2.values());
    for (index_t i = 0; i < w.size(); ++i) CHECK(std::abs(double(w.data()[i]) - double(w2.data()[i])) <= tolerance<T>());
    if (!renormalise && !test::on_cuda) CHECK(w.values() == w2.values());
  };
  check.template operator()<true>();
  check.template operator()<false>();
}

TEST_CASE_TEMPLATE("biased_topk: ties choose the lowest experts and groups", T, float, double, bf16) {
  test::array<T> logits(2, 64), bias(64), w(2, 4);
  test::array<int> e(2, 4);
  logits.fill(T(-3.0f)), bias.fill(T(0.5f));
  auto const check = [&]<biased_topk_config C>() {
    for (auto const* b : {&bias, static_cast<test::array<T>*>(nullptr)}) {
      run<C>(logits, b, w, e);
      CHECK(e.values() == std::vector<int>{0, 1, 2, 3, 0, 1, 2, 3});
      for (T y : w.values()) CHECK(y == T(0.25f));
    }
  };
  check.template operator()<biased_topk_config{.k = 4}>();
  check.template operator()<biased_topk_config{.k = 4, .groups = 16, .kept_groups = 3}>();
  check.template operator()<biased_topk_config{.k = 4, .score = score_function::softmax}>();
  check.template operator()<biased_topk_config{.k = 4, .score = score_function::softmax, .groups = 16, .kept_groups = 3}>();
  logits.fill(T(40.0f)), logits(1, 0) = T(50.0f);  // sigmoids that round to the same number are a tie
  run<biased_topk_config{.k = 4}>(logits, nullptr, w, e);
  CHECK(e.values() == std::vector<int>{0, 1, 2, 3, 0, 1, 2, 3});
  logits.fill(T(0.0f)), bias.fill(T(-0.5f));  // sums of -0 and 0
  bias(1) = T(0.0f), bias(2) = T(0.0f);
  run<biased_topk_config{.k = 4}>(logits, &bias, w, e);
  CHECK(e.values() == std::vector<int>{1, 2, 0, 3, 1, 2, 0, 3});
}

TEST_CASE_TEMPLATE("biased_topk: NaN and infinities", T, float, double, bf16) {
  T const nan = test::quiet_nan<T>(), inf = T(infinity), low = T(-infinity), one = T(1.0f), zero = T(0.0f);
  test::array<T> const logits({one, nan, inf, zero, one, zero,  //
                               zero, one, inf, low, one, zero,  //
                               low, low, low, low, low, low},
                              3, 6);
  test::array<T> w(3, 3), d(3, 3), d_logits(3, 6), bias(6);
  test::array<int> e(3, 3);
  bias.fill(zero);
  auto const seen = [&](index_t t, index_t j) { return std::isnan(double(w(t, j))); };
  for (auto const* b : {&bias, static_cast<test::array<T>*>(nullptr)}) {
    run<biased_topk_config{.k = 3}>(logits, b, w, e);
    CHECK(e.values() == std::vector<int>{1, 2, 0, 2, 1, 4, 0, 1, 2});
    for (index_t t : {0, 2})
      for (index_t j = 0; j < 3; ++j) CHECK(seen(t, j));
    CHECK(std::abs(double(w(1, 0)) - 1 / (1 + 2 / (1 + std::exp(-1.0)))) <= tolerance<T>());
    d.fill(one);
    run_backward<biased_topk_config{.k = 3}>(logits, w, e, d, d_logits);
    for (index_t t : {0, 2})
      for (index_t j = 0; j < 3; ++j) CHECK(std::isnan(double(d_logits(t, e(t, j)))));
    run<biased_topk_config{.k = 3, .renormalise = false}>(logits, b, w, e);
    CHECK(e.values() == std::vector<int>{1, 2, 0, 2, 1, 4, 0, 1, 2});
    CHECK((seen(0, 0) && w(0, 1) == one && !seen(0, 2) && w(2, 0) == zero));
    run<biased_topk_config{.k = 3, .groups = 3, .kept_groups = 2}>(logits, b, w, e);  // a NaN keeps its group
    CHECK((e(0, 0) == 1 && e(0, 1) == 2 && e(0, 2) == 0 && seen(0, 0)));
    run<biased_topk_config{.k = 3, .score = score_function::softmax, .renormalise = false}>(logits, b, w, e);
    for (index_t t = 0; t < 3; ++t)
      for (index_t j = 0; j < 3; ++j) CHECK((seen(t, j) && e(t, j) == j));  // all of such a row are NaN: a tie
  }
}

TEST_CASE_TEMPLATE("biased_topk: a NaN is seen wherever it stands among many groups", T, float, bf16) {
  constexpr index_t experts = test::on_cuda ? 640 : 1032, size = experts / 8;
  constexpr biased_topk_config C{.k = 2, .groups = 8, .kept_groups = 2};
  test::array<T> logits(1, experts), bias(experts), w(1, 2);
  test::array<int> e(1, 2);
  bias.fill(T(-2.0f));
  for (index_t g = 0; g < 8; ++g) {
    logits.normal(1);
    logits(0, g * size + 3 * g) = test::quiet_nan<T>();
    run<C>(logits, &bias, w, e);
    CHECK((e(0, 0) == g * size + 3 * g && std::isnan(double(w(0, 0)))));
  }
}

TEST_CASE_TEMPLATE("biased_topk: a bias that is not finite", T, float, double, bf16) {
  T const nan = test::quiet_nan<T>(), inf = T(infinity), low = T(-infinity);
  constexpr index_t tokens = 18, experts = 12;
  test::array<T> logits(tokens, experts), w(tokens, 2), bias(experts);
  test::array<int> e(tokens, 2);
  logits.normal(3);
  bias.fill(low);  // only two are left, then one
  bias(3) = bias(9) = T(0.0f);
  auto const check = [&]<biased_topk_config C>(bool second) {
    run<C>(logits, &bias, w, e);
    for (index_t t = 0; t < tokens; ++t) {
      bool const later = !second && double(logits(t, 9)) > double(logits(t, 3));
      CHECK(e(t, 0) == (later ? 9 : 3));
      CHECK(e(t, 1) == (later ? 3 : second ? (C.groups > 1 ? 2 : 0) : 9));
      CHECK(double(w(t, 0)) + double(w(t, 1)) > 0.98);
    }
  };
  check.template operator()<biased_topk_config{}>(false);
  bias(9) = low;
  check.template operator()<biased_topk_config{}>(true);
  bias(2) = T(-1e30f);
  check.template operator()<biased_topk_config{.groups = 6, .kept_groups = 1}>(true);
  bias(5) = inf, bias(8) = nan;
  run<biased_topk_config{}>(logits, &bias, w, e);
  for (index_t t = 0; t < tokens; ++t) CHECK((e(t, 0) == 8 && e(t, 1) == 5 && std::isnan(double(w(t, 0))) && std::isnan(double(w(t, 1)))));
  run<biased_topk_config{.renormalise = false}>(logits, &bias, w, e);
  for (index_t t = 0; t < tokens; ++t) CHECK((std::isnan(double(w(t, 0))) && double(w(t, 1)) > 0));
  run<biased_topk_config{.score = score_function::softmax, .groups = 3, .kept_groups = 2}>(logits, &bias, w, e);
  for (index_t t = 0; t < tokens; ++t) CHECK((e(t, 0) == 8 && e(t, 1) == 5 && std::isnan(double(w(t, 0)))));
}

TEST_CASE("biased_topk: weights agree with finite differences") {
  auto const check = []<biased_topk_config C>(index_t tokens, index_t experts) {
    test::array<double> logits(tokens, experts), bias(experts), c(tokens, C.k), w(tokens, C.k), d_logits(tokens, experts);
    test::array<int> e(tokens, C.k);
    logits.normal(11), c.normal(12), bias.normal(13, 0.2);
    run<C>(logits, &bias, w, e);
    run_backward<C>(logits, w, e, c, d_logits);
    auto const selection = e.values();
    auto const loss = [&] {
      run<C>(logits, &bias, w, e);
      REQUIRE(e.values() == selection);
      double sum = 0;
      for (index_t i = 0; i < w.size(); ++i) sum += c.data()[i] * w.data()[i];
      return sum;
    };
    auto const analytic = d_logits.values();
    test::check_gradient("biased_topk logits", loss, logits.data(), logits.size(), analytic);
  };
  using enum score_function;
  check.operator()<biased_topk_config{.k = 2, .scale = 2.5}>(5, 7);
  check.operator()<biased_topk_config{.k = 3, .renormalise = false}>(3, 16);
  check.operator()<biased_topk_config{.k = 2, .score = softmax}>(3, 17);
  check.operator()<biased_topk_config{.k = 4, .score = softmax, .renormalise = false, .scale = 0.7}>(3, 9);
  check.operator()<biased_topk_config{.k = 3, .scale = 2.5, .groups = 4, .kept_groups = 2}>(4, 12);
  check.operator()<biased_topk_config{.k = 3}>(3, 3);
}

TEST_CASE_TEMPLATE("biased_topk: a renormalised single weight is the scale and its gradient 0", T, float, double, bf16) {
  auto const check = []<score_function S>() {
    constexpr biased_topk_config C{.k = 1, .score = S, .scale = 2.5};
    test::array<T> logits(6, 10), w(6, 1), c(6, 1), d(6, 10);
    test::array<int> e(6, 1);
    logits.normal(1), c.normal(2);
    run<C>(logits, nullptr, w, e);
    run_backward<C>(logits, w, e, c, d);
    for (T x : w.values()) CHECK(x == T(2.5f));
    for (T x : d.values()) CHECK(x == T(0.0f));
  };
  check.template operator()<score_function::sigmoid>();
  check.template operator()<score_function::softmax>();
}

TEST_CASE_TEMPLATE("biased_topk: the same bits for every execution, alone or in a batch", T, float, double, bf16) {
  constexpr index_t tokens = test::on_cuda ? 10 : 700, experts = 40;
  auto const check = [&]<biased_topk_config C>(bool lost) {
    test::array<T> logits(tokens, experts, experts + 2, 1), bias(experts), c(tokens, C.k);
    logits.normal(3), c.normal(4), bias.normal(5, 0.1);
    if (lost)
      for (index_t t = 1; t < tokens; t += 4) logits(t, t % experts) = test::quiet_nan<T>();
    std::vector<T> weights, gradients;
    std::vector<int> experts_of;
    test::for_each_execution([&](test::space const& space, int i) {
      test::array<T> w(tokens, C.k), d(tokens, experts);
      test::array<int> e(tokens, C.k);
      run<C>(logits, &bias, w, e, space);
      run_backward<C>(logits, w, e, c, d, space);
      if (i == 0) weights = w.values(), gradients = d.values(), experts_of = e.values();
      CHECK(test::same_bits(weights, w.values()));
      CHECK(test::same_bits(gradients, d.values()));
      CHECK(experts_of == e.values());
    });
    for (index_t t = 0; t < tokens; t += test::on_cuda ? 3 : 99) {
      if (lost && t % 4 == 1) continue;
      test::array<T> row(1, experts), c1(1, C.k), w(1, C.k), d(1, experts);
      test::array<int> e(1, C.k);
      std::copy_n(&logits(t), experts, row.data());
      std::copy_n(&c(t), C.k, c1.data());
      run<C>(row, &bias, w, e);
      run_backward<C>(row, w, e, c1, d);
      CHECK(std::memcmp(w.data(), &weights[std::size_t(t * C.k)], sizeof(T) * C.k) == 0);
      CHECK(std::memcmp(e.data(), &experts_of[std::size_t(t * C.k)], sizeof(int) * C.k) == 0);
      CHECK(std::memcmp(d.data(), &gradients[std::size_t(t * experts)], sizeof(T) * experts) == 0);
    }
  };
  for (bool lost : {false, true}) {
    check.template operator()<biased_topk_config{.k = 4}>(lost);
    check.template operator()<biased_topk_config{.k = 4, .groups = 5, .kept_groups = 2}>(lost);
    check.template operator()<biased_topk_config{.k = 4, .score = score_function::softmax, .renormalise = false}>(lost);
  }
}

// Where the other operand is the CPU operator itself: with sigmoid scores the bits do not depend on the space.
#if defined(MOE_TEST_CUDA)
namespace {
template <class T>
bool same_values(std::vector<T> const& a, std::vector<T> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) same = a[i] == b[i] || (a[i] != a[i] && b[i] != b[i]);
  return same;
}

template <biased_topk_config C, class T>
void check_against_cpu(test::array<T> const& logits, test::array<T> const& bias, test::space const& space, index_t offset = 0) {
  index_t const tokens = logits.rows(), experts = logits.columns();
  test::array<T> w(tokens, C.k), v(tokens, C.k, C.k + offset, offset), c(tokens, C.k), d_w(tokens, experts), d_v(tokens, experts);
  test::array<int> e(tokens, C.k), f(tokens, C.k, C.k + offset, offset);
  for (bool biased : {false, true}) {
    auto const b = biased ? bias.vec() : moe::vector_view<T const>();
    moe::biased_topk<C>(moe::cpu{}, logits.mat(), b, moe::tensor<T, dyn, C.k>(w.mat()), moe::tensor<int, dyn, C.k>(e.mat()));
    moe::biased_topk<C>(space, logits.mat(), b, moe::tensor<T, dyn, C.k>(v.mat()), moe::tensor<int, dyn, C.k>(f.mat()));
    CHECK(e.values() == f.values());
    CHECK(same_values(w.values(), v.values()));
    c.normal(3);
    moe::biased_topk_backward<C>(moe::cpu{}, logits.mat(), w.mat(), e.mat(), c.mat(), d_w.mat());
    moe::biased_topk_backward<C>(space, logits.mat(), w.mat(), e.mat(), c.mat(), d_v.mat());
    CHECK(same_values(d_w.values(), d_v.values()));
  }
}
}  // namespace

TEST_CASE_TEMPLATE("biased_topk: sigmoid scores, the bits of the CPU, for every execution and stride", T, float, double, bf16) {
  constexpr biased_topk_config three{.k = 3, .scale = 2.5}, limited{.k = 3, .groups = 5, .kept_groups = 2}, many{.k = 40, .renormalise = false};
  T const inf = T(infinity), low = T(-infinity), nan = test::quiet_nan<T>(), zero = T(0.0f), minus_zero = T(-0.0f), one = T(1.0f);
  T const values[] = {zero, minus_zero, one, one, T(-2.0f), inf, low, nan};
  test::array<T> few(30, 35), bias(35), lost(35);
  for (index_t t = 0; t < 30; ++t)  // rows of few distinct values; the first ones are all equal
    for (index_t e = 0; e < 35; ++e) few(t, e) = values[t < 8 ? t : (e * (t + 1) + t * t) % (t < 20 ? 5 : 8)];
  bias.integers(3, 2), lost.normal(4);
  lost(3) = nan, lost(17) = inf, lost(18) = low;
  test::for_each_execution([&](test::space const& space, int i) {
    check_against_cpu<three>(few, i % 2 == 0 ? bias : lost, space);
    check_against_cpu<limited>(few, i % 2 == 0 ? lost : bias, space);
    index_t const sizes[] = {5, 35, 160, 515};
    test::array<T> logits(3, sizes[i % 4], sizes[i % 4] + 3, 1), b(sizes[i % 4]);
    logits.normal(static_cast<std::uint64_t>(i), 3.0), b.normal(7, 0.2);
    check_against_cpu<three>(logits, b, space, 1);
    if (sizes[i % 4] > 5) check_against_cpu<limited>(logits, b, space, 2);
    if (sizes[i % 4] > 40) check_against_cpu<many>(logits, b, space);
  });
}

TEST_CASE("biased_topk_backward: an expert out of range, which cannot be checked, is skipped") {
  test::array<float> logits(1, 3), w(1, 2), c(1, 2), d(1, 3);
  test::array<int> e({3, 1}, 1, 2);
  logits.normal(1), w.fill(0.5f), c.normal(2);
  for (int id : {3, -1, std::numeric_limits<int>::min()}) {
    e(0, 0) = id;
    run_backward<biased_topk_config{.k = 2}>(logits, w, e, c, d);
    CHECK((d(0, 0) == 0 && d(0, 2) == 0));
  }
}
#endif

TEST_CASE("biased_topk: wrong arguments") {
  using test::contains;
  using test::error_of;
  auto const space = test::on();
  constexpr biased_topk_config C{.k = 2}, limited{.k = 3, .groups = 2, .kept_groups = 1};
  test::array<float> logits(3, 4), few(3, 1), odd(3, 5), w(3, 2), w3(3, 3), w2(2, 2), d(3, 4), d2(3, 5), bias(5);
  test::array<int> e(3, 2), e3(3, 3), e2(2, 2);
  logits.fill(0), w.fill(0), odd.fill(0), bias.fill(0);
  auto const forward = [&](auto const& l, auto const& weight, auto const& expert, moe::vector_view<float const> b = {}) {
    return error_of([&] { moe::biased_topk<C>(space, l.mat(), b, moe::tensor<float, dyn, 2>(weight), moe::tensor<int, dyn, 2>(expert)); });
  };
  CHECK(contains(forward(few, w.mat(), e.mat()), "biased_topk: k = 2 of 1 experts"));
  CHECK(contains(forward(logits, w2.mat(), e.mat()), "biased_topk: weight has 2 rows, logits has 3"));
  CHECK(contains(forward(logits, w.mat(), e2.mat()), "biased_topk: expert has 2 rows, logits has 3"));
  CHECK(contains(forward(logits, w.mat(), e.mat(), bias.vec()), "biased_topk: bias has 5 entries, logits has 4 experts"));
  auto const in_groups = [&](auto const& l) {
    return error_of([&] { moe::biased_topk<limited>(space, l.mat(), {}, moe::tensor<float, dyn, 3>(w3.mat()), moe::tensor<int, dyn, 3>(e3.mat())); });
  };
  CHECK(contains(in_groups(odd), "biased_topk: 5 experts in 2 groups"));
  CHECK(contains(in_groups(logits), "biased_topk: k = 3 of 2 experts, those of 1 groups"));
  auto const backward = [&](auto const& weight, auto const& expert, auto const& d_weight, auto const& d_logits) {
    return error_of([&] { moe::biased_topk_backward<C>(space, logits.mat(), weight.mat(), expert.mat(), d_weight.mat(), d_logits); });
  };
  for (int i = 0; i < 6; ++i) e.data()[i] = i % 2;
  CHECK(backward(w, e, w, d.mat()).empty());
  CHECK(contains(backward(w2, e, w, d.mat()), "biased_topk_backward: weight has 2 rows"));
  CHECK(contains(backward(w, e2, w, d.mat()), "biased_topk_backward: expert has 2 rows"));
  CHECK(contains(backward(w, e, w2, d.mat()), "biased_topk_backward: d_weight has 2 rows, logits has 3"));
  CHECK(contains(backward(w, e, w, d2.mat()), "biased_topk_backward: d_logits is [3, 5], logits is [3, 4]"));
  if constexpr (test::on_cuda) return;  // no look at device memory
  e(2, 1) = 4;
  CHECK(contains(backward(w, e, w, d.mat()), "biased_topk_backward: expert[2, 1] = 4, needs to be in [0, 4)"));
  e(2, 1) = e(2, 0);
  CHECK(contains(backward(w, e, w, d.mat()), "biased_topk_backward: row 2 of expert names an expert twice"));
}
