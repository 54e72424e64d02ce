#include <moe/mix/token_mixing.hpp>

#include <algorithm>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::index_t;
using moe::token_groups;

constexpr moe::mixing_weight_gradient_config adding{.accumulate = true};

/// Everything around the experts of one batch. `odd`: rows that start at any element.
template <class T>
struct batch {
  using A = moe::accumulator<T>;
  token_groups groups;
  test::array<T> x, mixed, y;
  test::array<A> weight, d_weight;
  batch(token_groups const& g, index_t experts, index_t d, index_t odd = 0)
      : groups(g), x(g.tokens(), d, odd > 0 ? d + odd : 0, odd), mixed(experts * g.count(), d, odd > 0 ? d + 2 * odd : 0, odd),
        y(g.tokens(), d, odd > 0 ? d + odd : 0, odd), weight(g.tokens(), experts, odd > 0 ? experts + odd : 0, odd),
        d_weight(g.tokens(), experts, odd > 0 ? experts + 3 : 0, odd) {}
  index_t experts() const { return weight.columns(); }

  void mix(test::space const& s = test::on()) { moe::mix_tokens(s, x.mat(), weight.mat(), groups, mixed.mat()), s.wait(); }
  void redistribute(test::space const& s = test::on()) { moe::redistribute_tokens(s, mixed.mat(), weight.mat(), groups, y.mat()), s.wait(); }
  template <moe::mixing_weight_gradient_config C = moe::mixing_weight_gradient_config{}>
  void gradient(test::space const& s = test::on()) {
    moe::mixing_weight_gradient<C>(s, x.mat(), mixed.mat(), groups, d_weight.mat()), s.wait();
  }
  /// f(group, member's row of x, expert, expert's row of mixed)
  template <class F>
  void each(F const& f) const {
    for (index_t g = 0; g < groups.count(); ++g)
      for (index_t i = 0; i < groups.size; ++i)
        for (index_t e = 0; e < experts(); ++e) f(groups.row(g, i), e, e * groups.count() + g);
  }
};

struct extents {
  token_groups groups;
  index_t experts, d;
};
/// Sizes around every tile: 12 outputs of a register block, 64 of a packed one, 64 inputs to a pass, 32 and 128 columns, 4 x 4 dot products, 32 experts.
std::vector<extents> some_extents() {
  std::vector<extents> all;
  for (index_t d : {0, 1, 3, 4, 8, 15, 16, 17, 31, 32, 33, 64, 127, 130}) all.push_back({moe::groups_of({6, 2}, 3), 5, d});
  for (index_t experts : {0, 1, 2, 4, 7, 8, 12, 13, 16, 17, 33}) all.push_back({moe::groups_of({4, 2}, 4), experts, 24});
  for (index_t size : {1, 2, 5, 11, 12, 16, 17, 32}) all.push_back({moe::groups_of({size * 2, 2}, size), 3, 19});
  all.push_back({moe::groups_of({0, 5}, 4), 3, 8});
  all.push_back({moe::groups_of({4, 0}, 4), 3, 8});
  all.push_back({moe::one_group(0), 3, 8});
  all.push_back({moe::one_group(9), 1, 40});
  all.push_back({moe::groups_of({33, 2}, 33), 40, 20});
  all.push_back({moe::groups_of({1, 3}, 1), 4, 520});
  if (test::on_cuda) return all;
  for (index_t size : {63, 64, 65, 129}) all.push_back({moe::groups_of({size, 2}, size), size % 64 + 3, 36});
  for (index_t experts : {63, 64, 65, 130}) all.push_back({moe::groups_of({6, 3}, 3), experts, 130});
  for (index_t d : {255, 256, 257, 511, 512, 513, 1100}) all.push_back({moe::groups_of({10, 2}, 5), 6, d});
  all.push_back({moe::groups_of({64, 1}, 32), 32, 512});
  all.push_back({moe::groups_of({70, 1}, 70), 66, 300});  // several passes, blocks and parts of columns at once
  return all;
}
}  // namespace

TEST_CASE_TEMPLATE("token mixing: exact on small integers, whatever the extents and strides", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  for (extents const& n : some_extents())
    for (index_t odd : {0, 1}) {
      CAPTURE(n.groups.size);
      CAPTURE(n.experts);
      CAPTURE(n.d);
      CAPTURE(odd);
      batch<T> b(n.groups, n.experts, n.d, odd);
      b.x.integers(1, 3), b.weight.integers(2, 3);
      b.mix();
      std::vector<double> mixed(std::size_t(b.mixed.size())), y(std::size_t(b.y.size())), d_weight(std::size_t(b.weight.size()));
      b.each([&](index_t t, index_t e, index_t m) {
        for (index_t c = 0; c < n.d; ++c) mixed[std::size_t(m * n.d + c)] += double(b.weight(t, e)) * double(b.x(t, c));
      });
      auto const got = b.mixed.values();
      for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == T(mixed[i]));
      b.mixed.integers(3, 3);
      b.redistribute(), b.gradient();
      b.each([&](index_t t, index_t e, index_t m) {
        for (index_t c = 0; c < n.d; ++c) {
          y[std::size_t(t * n.d + c)] += double(b.weight(t, e)) * double(b.mixed(m, c));
          d_weight[std::size_t(t * n.experts + e)] += double(b.x(t, c)) * double(b.mixed(m, c));
        }
      });
      auto const got_y = b.y.values();
      for (std::size_t i = 0; i < got_y.size(); ++i) REQUIRE(got_y[i] == T(y[i]));
      auto const got_d = b.d_weight.values();
      for (std::size_t i = 0; i < got_d.size(); ++i) REQUIRE(got_d[i] == A(d_weight[i]));
      b.template gradient<adding>();
      auto const twice = b.d_weight.values();
      for (std::size_t i = 0; i < twice.size(); ++i) REQUIRE(twice[i] == A(2 * d_weight[i]));
    }
}

TEST_CASE_TEMPLATE("token mixing: each output is one chain of madd, experts and members ascending", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  if (test::on_cuda && std::is_same_v<T, bf16>) return;  // tensor cores: below
  for (extents const& n : {extents{moe::groups_of({24, 2}, 12), 13, 37}, extents{moe::groups_of({2, 3}, 1), 5, 32},
                           extents{moe::one_group(test::on_cuda ? 40 : 150), 70, 33}}) {
    index_t const d = n.d;
    batch<T> b(n.groups, n.experts, d, 1);
    b.x.normal(1), b.weight.normal(2);
    b.mix();
    auto const chain = [](A w, T v, A sum) { return moe::madd(w, static_cast<A>(v), sum); };
    std::vector<A> mixed(std::size_t(b.mixed.size())), y(std::size_t(b.y.size()));
    b.each([&](index_t t, index_t e, index_t m) {
      for (index_t c = 0; c < d; ++c) mixed[std::size_t(m * d + c)] = chain(b.weight(t, e), b.x(t, c), mixed[std::size_t(m * d + c)]);
    });
    auto const got = b.mixed.values();
    for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == T(mixed[i]));
    b.redistribute();
    b.each([&](index_t t, index_t e, index_t m) {
      for (index_t c = 0; c < d; ++c) y[std::size_t(t * d + c)] = chain(b.weight(t, e), b.mixed(m, c), y[std::size_t(t * d + c)]);
    });
    auto const got_y = b.y.values();
    for (std::size_t i = 0; i < got_y.size(); ++i) REQUIRE(got_y[i] == T(y[i]));
  }
}

TEST_CASE_TEMPLATE("token mixing: within rounding of the sums in double", T, float, double, bf16) {
  double const unit = std::is_same_v<T, double> ? 1e-15 : 4e-7, rounding = std::is_same_v<T, bf16> ? 1.0 / 256 : 0.0;
  index_t const d = test::on_cuda ? 70 : 700, experts = 12;
  batch<T> b(moe::groups_of({20, 2}, 10), experts, d);
  b.x.normal(1), b.weight.normal(2);
  b.mix();
  std::vector<double> sum(std::size_t(b.mixed.size())), size(sum), y(std::size_t(b.y.size())), y_size(y);
  b.each([&](index_t t, index_t e, index_t m) {
    double dot = 0, magnitude = 0;
    for (index_t c = 0; c < d; ++c) {
      double const w = double(b.weight(t, e));
      sum[std::size_t(m * d + c)] += w * double(b.x(t, c)), size[std::size_t(m * d + c)] += std::abs(w * double(b.x(t, c)));
      y[std::size_t(t * d + c)] += w * double(b.mixed(m, c)), y_size[std::size_t(t * d + c)] += std::abs(w * double(b.mixed(m, c)));
      dot += double(b.x(t, c)) * double(b.mixed(m, c)), magnitude += std::abs(double(b.x(t, c)) * double(b.mixed(m, c)));
    }
    b.d_weight(t, e) = 0;
    if (t % 3 == 0 && e == 1) b.gradient();
    if (t % 3 == 0 && e == 1) CHECK(std::abs(double(b.d_weight(t, e)) - dot) <= 10 * unit * magnitude);
  });
  b.redistribute();
  auto const got = b.mixed.values(), got_y = b.y.values();
  for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(std::abs(double(got[i]) - sum[i]) <= 10 * unit * size[i] + rounding * std::abs(sum[i]));
  for (std::size_t i = 0; i < got_y.size(); ++i) REQUIRE(std::abs(double(got_y[i]) - y[i]) <= 10 * unit * y_size[i] + rounding * std::abs(y[i]));
}

namespace {
/// The bits of every execution and stride, on dirty outputs, and of a group of its own.
template <class T>
void check_bits(token_groups const& groups, index_t experts, index_t d) {
  index_t const size = groups.size, g = 3;
  std::vector<T> mixed, y;
  std::vector<moe::accumulator<T>> d_weight;
  test::for_each_execution([&](test::space const& s, int i) {
    batch<T> b(groups, experts, d, i);
    b.x.normal(1), b.weight.normal(2);
    b.mix(s), b.redistribute(s), b.gradient(s);
    if (i == 0) mixed = b.mixed.values(), y = b.y.values(), d_weight = b.d_weight.values();
    CHECK(test::same_bits(mixed, b.mixed.values()));
    CHECK(test::same_bits(y, b.y.values()));
    CHECK(test::same_bits(d_weight, b.d_weight.values()));
  });
  batch<T> all(groups, experts, d), one(moe::groups_of({size, 1}, size), experts, d, 2);  // a group of its own: one tile instead of many
  all.x.normal(1), all.weight.normal(2);
  for (index_t i = 0; i < size; ++i) {
    std::copy_n(&all.x(groups.row(g, i)), d, &one.x(i));
    std::copy_n(&all.weight(groups.row(g, i)), experts, &one.weight(i));
  }
  one.mix(), one.redistribute(), one.gradient();
  for (index_t e = 0; e < experts; ++e) CHECK(std::equal(&one.mixed(e), &one.mixed(e) + d, &mixed[std::size_t((e * groups.count() + g) * d)]));
  for (index_t i = 0; i < size; ++i) {
    CHECK(std::equal(&one.y(i), &one.y(i) + d, &y[std::size_t(groups.row(g, i) * d)]));
    CHECK(std::equal(&one.d_weight(i), &one.d_weight(i) + experts, &d_weight[std::size_t(groups.row(g, i) * experts)]));
  }
}
}  // namespace

TEST_CASE_TEMPLATE("token mixing: the same bits for every execution and stride, on dirty outputs, and whatever the other groups hold", T, float,
                   double, bf16) {
  check_bits<T>(moe::groups_of({test::on_cuda ? 10 : 40, 6}, 5), 7, test::on_cuda ? 68 : 560);
  check_bits<T>(moe::groups_of({40, 2}, 20), 35, test::on_cuda ? 140 : 300);  // outputs of several warps, from several parts of the group
}

namespace {
/// i-th element scale * sin(k (i + 1)), row-major: what the vectors are made of.
std::vector<double> filler(index_t n, double k, double scale) {
  std::vector<double> v(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) v[std::size_t(i)] = scale * std::sin(k * double(i + 1));
  return v;
}
/// Sums with indices written out: c[i, j] (+)= sum_k a(i, k) b(k, j).
template <class F, class G>
void product(double* c, index_t m, index_t n, index_t depth, F const& a, G const& b) {
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j)
      for (index_t k = 0; k < depth; ++k) c[i * n + j] += a(i, k) * b(k, j);
}

/// The whole layer for 4 sequences of 2 tokens of width 3 and 2 experts of width 4, its controller and experts in plain loops.
struct layer {
  static constexpr index_t tokens = 8, d = 3, experts = 2, f = 4;
  batch<double> b;
  double temperature;
  std::vector<double> controller = filler(d * experts, 1.1, 0.5), w1 = filler(experts * d * f, 0.9, 0.5), w2 = filler(experts * f * d, 1.3, 0.5);
  test::array<double> logits{tokens, experts}, hidden, out;

  layer(index_t group, double t = 1)
      : b(moe::groups_of({4, 2}, group), experts, d), temperature(t), hidden(b.mixed.rows(), f), out(b.mixed.rows(), d) {
    auto const x = filler(tokens * d, 0.7, 1);
    std::copy(x.begin(), x.end(), b.x.data());
  }
  double in(index_t e, index_t i, index_t h) const { return w1[std::size_t((e * d + i) * f + h)]; }
  double back(index_t e, index_t h, index_t i) const { return w2[std::size_t((e * f + h) * d + i)]; }
  index_t expert_of(index_t row) const { return row / b.groups.count(); }

  void weights() {
    logits.fill(0);
    product(
        logits.data(), tokens, experts, d, [&](index_t t, index_t c) { return b.x(t, c); },
        [&](index_t c, index_t e) { return controller[std::size_t(c * experts + e)]; });
    moe::group_softmax(test::on(), logits.mat(), b.groups, temperature, b.weight.mat());
    test::on().wait();
  }
  void forward_experts() {
    b.mix();
    hidden.fill(0), out.fill(0);
    for (index_t r = 0; r < b.mixed.rows(); ++r) {
      index_t const e = expert_of(r);
      product(
          &hidden(r), 1, f, d, [&](index_t, index_t c) { return b.mixed(r, c); }, [&](index_t c, index_t h) { return in(e, c, h); });
      product(
          &out(r), 1, d, f, [&](index_t, index_t h) { return std::max(hidden(r, h), 0.0); }, [&](index_t h, index_t c) { return back(e, h, c); });
    }
    moe::redistribute_tokens(test::on(), out.mat(), b.weight.mat(), b.groups, b.y.mat());
    test::on().wait();
  }
  void forward() { weights(), forward_experts(); }
};
double sum(test::array<double> const& x) {
  double s = 0;
  for (double v : x.values()) s += v;
  return s;
}
double sum_of_squares(test::array<double> const& x) {
  double s = 0;
  for (double v : x.values()) s += v * v;
  return s;
}
#define CHECK_NEAR(a, b) CHECK(std::abs((a) - (b)) < 1e-9)
}  // namespace

TEST_CASE("token mixing: vectors computed elsewhere, forward") {
  layer l(2);
  l.forward();
  double const merge[2][2] = {{0.574137449, 0.505046533}, {0.425862551, 0.494953467}};
  for (index_t i = 0; i < 2; ++i)
    for (index_t e = 0; e < 2; ++e) CHECK_NEAR(l.b.weight(2 * i, e), merge[i][e]);  // sequences 0 and 1 at position 0
  double const y00[] = {0.02178951, 0.002528891, -0.020436559}, y10[] = {0.01610326, -0.000330813, -0.016280244},
               y31[] = {0.030863502, 0.014008684, -0.023368888};
  for (index_t c = 0; c < 3; ++c) {
    CHECK_NEAR(l.b.y(0, c), y00[c]);
    CHECK_NEAR(l.b.y(2, c), y10[c]);
    CHECK_NEAR(l.b.y(7, c), y31[c]);
  }
  CHECK(sum(l.b.y) == doctest::Approx(-0.16927086440590922).epsilon(1e-13));
  CHECK(sum_of_squares(l.b.y) == doctest::Approx(0.009112859459945628).epsilon(1e-13));
  layer cold(2, 0.1);
  cold.forward();
  CHECK(sum(cold.b.y) == doctest::Approx(-0.15596507947060378).epsilon(1e-13));
  CHECK(sum_of_squares(cold.b.y) == doctest::Approx(0.017321021466095793).epsilon(1e-13));
  layer wide(4);
  wide.forward();
  CHECK(sum(wide.b.y) == doctest::Approx(-0.046237303342227795).epsilon(1e-13));
  CHECK(sum_of_squares(wide.b.y) == doctest::Approx(0.00030655881798399246).epsilon(1e-13));
}

TEST_CASE("token mixing: vectors computed elsewhere, routing that is all or nothing") {
  layer l(2);
  l.weights();
  for (index_t g = 0; g < l.b.groups.count(); ++g)
    for (index_t e = 0; e < 2; ++e) {
      double &first = l.b.weight(l.b.groups.row(g, 0), e), &second = l.b.weight(l.b.groups.row(g, 1), e);
      bool const larger = first > second;
      first = larger, second = !larger;
    }
  l.forward_experts();
  CHECK(sum(l.b.y) == doctest::Approx(-0.13390458178459486).epsilon(1e-13));
  CHECK(sum_of_squares(l.b.y) == doctest::Approx(0.023073694225328324).epsilon(1e-13));
}

TEST_CASE("token mixing: vectors computed elsewhere, backward") {
  layer l(2);
  l.forward();
  auto& b = l.b;
  test::array<double> d_y(8, 3), d_out(b.mixed.rows(), 3), d_mixed(b.mixed.rows(), 3), d_x(8, 3), d_logits(8, 2);
  auto const upstream = filler(24, 0.3, 1);
  std::copy(upstream.begin(), upstream.end(), d_y.data());
  moe::mix_tokens(test::on(), d_y.mat(), b.weight.mat(), b.groups, d_out.mat());
  moe::mixing_weight_gradient(test::on(), d_y.mat(), l.out.mat(), b.groups, b.d_weight.mat());
  test::on().wait();
  d_mixed.fill(0);
  for (index_t r = 0; r < d_mixed.rows(); ++r)
    for (index_t h = 0; h < l.f; ++h) {
      double d_hidden = 0;
      for (index_t c = 0; c < 3; ++c) d_hidden += d_out(r, c) * l.back(l.expert_of(r), h, c);
      for (index_t c = 0; l.hidden(r, h) > 0 && c < 3; ++c) d_mixed(r, c) += d_hidden * l.in(l.expert_of(r), c, h);
    }
  moe::mixing_weight_gradient<adding>(test::on(), b.x.mat(), d_mixed.mat(), b.groups, b.d_weight.mat());
  moe::redistribute_tokens(test::on(), d_mixed.mat(), b.weight.mat(), b.groups, d_x.mat());
  moe::group_softmax_backward(test::on(), b.weight.mat(), b.d_weight.mat(), b.groups, 1.0, d_logits.mat());
  test::on().wait();
  double d_controller[6] = {};
  product(
      d_controller, 3, 2, 8, [&](index_t c, index_t t) { return b.x(t, c); }, [&](index_t t, index_t e) { return d_logits(t, e); });
  product(
      d_x.data(), 8, 3, 2, [&](index_t t, index_t e) { return d_logits(t, e); },
      [&](index_t e, index_t c) { return l.controller[std::size_t(c * 2 + e)]; });
  double const expected[] = {0.016077425, 0.069920123, 0.009992174, 0.072762594, -0.000792552, 0.041383681};
  for (int i = 0; i < 6; ++i) CHECK_NEAR(d_controller[i], expected[i]);
  CHECK(sum(d_x) == doctest::Approx(0.2626310275644825).epsilon(1e-12));
  CHECK(sum_of_squares(d_x) == doctest::Approx(0.26277380279105333).epsilon(1e-12));
}

TEST_CASE("token mixing: a group sees neither other groups nor other positions, bit by bit") {
  layer base(2), other_group(2), later(2);
  for (index_t c = 0; c < 3; ++c) {
    for (index_t position : {0, 1}) other_group.b.x(2 * 2 + position, c) += 1;  // sequence 2
    for (index_t sequence : {0, 1, 2, 3}) later.b.x(2 * sequence + 1, c) += 1;  // position 1
  }
  base.forward(), other_group.forward(), later.forward();
  for (index_t c = 0; c < 3; ++c) {
    for (index_t row : {0, 1, 2, 3}) CHECK(other_group.b.y(row, c) == base.b.y(row, c));
    for (index_t row : {4, 6, 7}) CHECK(other_group.b.y(row, c) != base.b.y(row, c));
    for (index_t sequence : {0, 1, 2, 3}) {
      CHECK(later.b.y(2 * sequence, c) == base.b.y(2 * sequence, c));
      CHECK(later.b.y(2 * sequence + 1, c) != base.b.y(2 * sequence + 1, c));
    }
  }
}

TEST_CASE("token mixing: gradients agree with finite differences") {
  for (extents const& n : {extents{moe::groups_of({6, 2}, 3), 4, 5}, extents{moe::one_group(5), 3, 2}, extents{moe::groups_of({2, 2}, 1), 2, 3}}) {
    auto const& groups = n.groups;
    index_t const d = n.d;
    batch<double> b(groups, n.experts, d);
    test::array<double> u(b.mixed.rows(), d), v(groups.tokens(), d), d_x(groups.tokens(), d), d_mixed(b.mixed.rows(), d);
    b.x.normal(1), b.weight.normal(2), u.normal(3), v.normal(4);
    auto const dot = [](test::array<double> const& a, test::array<double> const& c) {
      double s = 0;
      for (index_t i = 0; i < a.size(); ++i) s += a.data()[i] * c.data()[i];
      return s;
    };
    auto const mixing = [&] { return b.mix(), dot(u, b.mixed); };
    moe::redistribute_tokens(test::on(), u.mat(), b.weight.mat(), groups, d_x.mat());
    moe::mixing_weight_gradient(test::on(), b.x.mat(), u.mat(), groups, b.d_weight.mat());
    test::on().wait();
    test::gradient_tolerance const tolerance{.step = 1e-3, .relative = 1e-9};
    test::check_gradient("x of mix_tokens", mixing, b.x.data(), b.x.size(), d_x.values(), tolerance);
    test::check_gradient("weight of mix_tokens", mixing, b.weight.data(), b.weight.size(), b.d_weight.values(), tolerance);
    auto const returning = [&] { return b.redistribute(), dot(v, b.y); };
    b.mixed.normal(5);
    moe::mix_tokens(test::on(), v.mat(), b.weight.mat(), groups, d_mixed.mat());
    moe::mixing_weight_gradient(test::on(), v.mat(), b.mixed.mat(), groups, b.d_weight.mat());
    test::on().wait();
    test::check_gradient("mixed of redistribute_tokens", returning, b.mixed.data(), b.mixed.size(), d_mixed.values(), tolerance);
    test::check_gradient("weight of redistribute_tokens", returning, b.weight.data(), b.weight.size(), b.d_weight.values(), tolerance);
  }
}

TEST_CASE_TEMPLATE("token mixing: NaN is seen by its group, also below a weight of 0, and by no other", T, float, double, bf16) {
  token_groups const groups = moe::groups_of({4, 2}, 2);
  batch<T> b(groups, 3, 20);
  b.x.integers(1), b.weight.fill(0);
  index_t const row = groups.row(2, 1);  // of group 2
  b.x(row, 19) = test::quiet_nan<T>();
  b.mix();
  for (index_t m = 0; m < b.mixed.rows(); ++m)
    for (index_t c = 0; c < 20; ++c) CHECK(std::isnan(double(b.mixed(m, c))) == (m % groups.count() == 2 && c == 19));
  b.redistribute();
  for (index_t t = 0; t < 8; ++t)
    for (index_t c = 0; c < 20; ++c) CHECK(std::isnan(double(b.y(t, c))) == (c == 19 && (t == row || t == groups.row(2, 0))));
  b.mixed.integers(2);
  b.gradient();
  for (index_t t = 0; t < 8; ++t)
    for (index_t e = 0; e < 3; ++e) CHECK(std::isnan(double(b.d_weight(t, e))) == (t == row));
  b.x.integers(1), b.weight(row, 1) = std::numeric_limits<moe::accumulator<T>>::quiet_NaN();
  b.mix(), b.redistribute();
  for (index_t m = 0; m < b.mixed.rows(); ++m) CHECK(std::isnan(double(b.mixed(m, 5))) == (m == groups.count() + 2));
}

TEST_CASE("token mixing: wrong arguments") {
  using test::contains;
  using test::error_of;
  token_groups const groups = moe::groups_of({4, 2}, 2);
  test::array<float> x(8, 5), few(6, 5), weight(8, 3), mixed(12, 5), narrow(12, 4);
  auto const mix = [&](auto& a, auto& w, token_groups const& g, auto& m) {
    return error_of([&] { moe::mix_tokens(test::on(), a.mat(), w.mat(), g, m.mat()); });
  };
  CHECK(contains(mix(few, weight, groups, mixed), "mix_tokens: x is [6, 5], needs [8, 5]"));
  CHECK(contains(mix(x, few, groups, mixed), "mix_tokens: weight is [6, 5], needs [8, 5]"));
  CHECK(contains(mix(x, weight, groups, narrow), "mix_tokens: mixed is [12, 4], needs [12, 5]"));
  CHECK(contains(mix(x, weight, groups, x), "mix_tokens: mixed is [8, 5], needs [12, 5]"));
  CHECK(contains(mix(x, weight, {4, 2, 3}, mixed), "mix_tokens: 4 sequences do not make whole groups of 3"));
  CHECK(contains(error_of([&] { moe::redistribute_tokens(test::on(), mixed.mat(), weight.mat(), groups, few.mat()); }),
                 "redistribute_tokens: y is [6, 5], needs [8, 5]"));
  CHECK(contains(error_of([&] { moe::redistribute_tokens(test::on(), narrow.mat(), weight.mat(), groups, x.mat()); }),
                 "redistribute_tokens: mixed is [12, 4], needs [12, 5]"));
  CHECK(contains(error_of([&] { moe::mixing_weight_gradient(test::on(), x.mat(), x.mat(), groups, weight.mat()); }),
                 "mixing_weight_gradient: mixed is [8, 5], needs [12, 5]"));
  CHECK(contains(error_of([&] { moe::mixing_weight_gradient(test::on(), few.mat(), mixed.mat(), groups, weight.mat()); }),
                 "mixing_weight_gradient: rows is [6, 5], needs [8, 5]"));
}
