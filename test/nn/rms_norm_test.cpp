#include <moe/nn/rms_norm.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
using A = moe::accumulator<T>;

/// The operands of one problem, rows `gap` elements further apart than they are long, `offset` elements off alignment.
template <class T>
struct problem {
  array<T> x, w, y, d_y, d_x, d_w;
  array<A<T>> rstd;
  A<T> eps = A<T>(1e-5);
  problem(index_t tokens, index_t d, index_t gap = 0, index_t offset = 0)
      : x(tokens, d, d + gap, offset), w(d, 1, 0, offset), y(tokens, d, d + gap, offset), d_y(tokens, d, d + gap, offset),
        d_x(tokens, d, d + gap, offset), d_w(d, 1, 0, offset), rstd(tokens) {
    x.normal(1), w.normal(2), d_y.normal(3), d_w.normal(4);
  }
  void forward(int threads = 2) { moe::rms_norm(moe::cpu{threads}, x.mat(), w.vec(), eps, y.mat(), rstd.vec()); }
  void backward(int threads = 2) {
    scratch s(moe::rms_norm_backward_scratch_bytes<T>(moe::cpu{}, x.rows(), x.columns()));
    auto a = s.get();
    moe::rms_norm_backward(moe::cpu{threads}, d_y.mat(), x.mat(), w.vec(), rstd.vec(), d_x.mat(), d_w.vec(), a);
  }
};
}  // namespace

TEST_CASE("rms_norm: reference values") {
  problem<double> p(1, 4);
  p.x = array<double>({1, -2, 3, 0.5}, 1, 4);
  p.w.fill(1);
  p.forward();
  double const expected[] = {0.529812199, -1.059624398, 1.589436598, 0.2649061};
  for (int c = 0; c < 4; ++c) CHECK(std::abs(p.y(0, c) - expected[c]) < 1e-9);
}

TEST_CASE_TEMPLATE("rms_norm: agrees with the formula for any shape, strided and unaligned", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 2e-6 : 1e-2;
  for (index_t d : {1, 3, 7, 8, 9, 16, 31, 33, 64, 65, 130})
    for (index_t tokens : {0, 1, 5}) {
      problem<T> p(tokens, d, d % 3, tokens % 2);
      p.forward();
      for (index_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (index_t c = 0; c < d; ++c) sum += double(p.x(t, c)) * double(p.x(t, c));
        double const r = 1 / std::sqrt(sum / double(d) + double(p.eps));
        CHECK(std::abs(double(p.rstd(t)) - r) <= (std::is_same_v<T, double> ? 1e-14 : 1e-6) * r);
        for (index_t c = 0; c < d; ++c) {
          double const y = double(p.x(t, c)) * r * double(p.w(c));
          CHECK(std::abs(double(p.y(t, c)) - y) <= tolerance * (std::abs(y) + 1e-3));
        }
      }
    }
}

TEST_CASE("rms_norm: gradients") {
  for (index_t tokens : {1, 3, 70}) {
    index_t const d = tokens == 70 ? 3 : 13;
    problem<double> p(tokens, d, 2, 1);
    array<double> const c = p.d_y;
    auto const loss = [&] {
      p.forward();
      double l = 0;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t i = 0; i < d; ++i) l += c(t, i) * p.y(t, i);
      return l;
    };
    loss();
    p.d_w.fill(0);
    p.backward();
    check_gradient("weight", loss, p.w.data(), d, p.d_w.values());
    for (index_t t = 0; t < tokens; ++t)
      check_gradient("x", loss, &p.x(t, 0), d, std::vector<double>(&p.d_x(t, 0), &p.d_x(t, 0) + d), {.step = 1e-4, .relative = 1e-7});
  }
}

TEST_CASE_TEMPLATE("rms_norm_backward: adds to d_weight, overwrites d_x, also in place of d_y", T, float, double, bf16) {
  problem<T> p(9, 21), q(9, 21), r(9, 21);
  p.forward(), q.forward(), r.forward();
  p.d_w.fill(T(0.0f));
  p.backward();
  q.d_w.fill(T(1.0f));
  q.backward();
  for (index_t c = 0; c < 21; ++c)
    CHECK(std::abs(double(q.d_w(c)) - 1 - double(p.d_w(c))) <= (std::is_same_v<T, bf16> ? 0.1 : 1e-5) * (1 + std::abs(double(p.d_w(c)))));
  scratch s;
  auto a = s.get();
  moe::rms_norm_backward(moe::cpu{2}, r.d_y.mat(), r.x.mat(), r.w.vec(), r.rstd.vec(), r.d_y.mat(), r.d_w.vec(), a);
  CHECK(same_bits(r.d_y.values(), p.d_x.values()));
  problem<T> in_place(9, 21);
  moe::rms_norm(moe::cpu{2}, in_place.x.mat(), in_place.w.vec(), in_place.eps, in_place.x.mat(), in_place.rstd.vec());
  CHECK(same_bits(in_place.x.values(), p.y.values()));
}

TEST_CASE_TEMPLATE("rms_norm: the same bits for any number of threads and any strides; a row alone as in a batch", T, float, double, bf16) {
  index_t const tokens = 200, d = 83;
  problem<T> expected(tokens, d);
  expected.forward(1), expected.backward(1);
  for (int threads : thread_counts) {
    problem<T> p(tokens, d, threads, threads % 4);
    p.forward(threads), p.backward(threads);
    CHECK(same_bits(p.y.values(), expected.y.values()));
    CHECK(same_bits(p.d_x.values(), expected.d_x.values()));
    CHECK(same_bits(p.d_w.values(), expected.d_w.values()));
    CHECK(same_bits(p.rstd.values(), expected.rstd.values()));
  }
  for (index_t t : {0, 63, 64, 199}) {
    problem<T> one(1, d);
    for (index_t c = 0; c < d; ++c) one.x(0, c) = expected.x(t, c), one.d_y(0, c) = expected.d_y(t, c);
    one.forward(), one.backward();
    for (index_t c = 0; c < d; ++c) {
      CHECK(double(one.y(0, c)) == double(expected.y(t, c)));
      CHECK(double(one.d_x(0, c)) == double(expected.d_x(t, c)));
    }
  }
}

TEST_CASE("rms_norm_backward: d_weight is exact where the sums are, over several chunks") {
  for (index_t tokens : {1, 63, 64, 65, 128, 300}) {
    problem<double> p(tokens, 5);
    p.x.integers(1), p.d_y.integers(2), p.d_w.integers(3), p.rstd.fill(2);
    std::vector<double> expected = p.d_w.values();
    for (index_t t = 0; t < tokens; ++t)
      for (index_t c = 0; c < 5; ++c) expected[static_cast<std::size_t>(c)] += p.d_y(t, c) * p.x(t, c) * 2;
    p.backward();
    CHECK(p.d_w.values() == expected);
  }
}

TEST_CASE_TEMPLATE("rms_norm: extremes, zeros, NaN", T, float, double) {
  T const big = std::numeric_limits<T>::max();
  problem<T> p(5, 20);
  p.w.fill(1);
  for (index_t c = 0; c < 20; ++c) p.x(0, c) = c % 2 == 0 ? big : -big, p.x(1, c) = 0, p.x(2, c) = T(1e-30) * T(c), p.x(3, c) = big / T(1e9);
  p.x(4, 19) = quiet_nan<T>();
  p.forward();
  for (index_t c = 0; c < 20; ++c) {
    CHECK(p.y(0, c) == doctest::Approx(c % 2 == 0 ? 1.0 : -1.0).epsilon(1e-5));
    CHECK(p.y(1, c) == 0);
    CHECK(p.y(2, c) == doctest::Approx(double(p.x(2, c)) / std::sqrt(1e-5)).epsilon(1e-5));
    CHECK(p.y(3, c) == doctest::Approx(1.0).epsilon(1e-5));
    CHECK(std::isnan(p.y(4, c)));
  }
  problem<T> infinite(1, 20);
  infinite.x(0, 3) = std::numeric_limits<T>::infinity();
  infinite.forward();
  CHECK(std::isnan(infinite.y(0, 3)));
  problem<T> q(70, 20);
  q.forward();
  q.d_y(69, 7) = quiet_nan<T>();
  q.backward();
  for (index_t c = 0; c < 20; ++c) {
    CHECK(std::isnan(q.d_x(69, c)));
    CHECK(!std::isnan(q.d_x(68, c)));
    CHECK(std::isnan(q.d_w(c)) == (c == 7));
  }
}

TEST_CASE("rms_norm: nothing happens with no tokens; errors name the argument") {
  problem<float> none(0, 4);
  auto const before = none.d_w.values();
  none.forward(), none.backward();
  CHECK(same_bits(none.d_w.values(), before));

  problem<float> p(3, 4);
  array<float> five(5), wide(3, 5), two(2);
  moe::cpu const cpu{1};
  CHECK(error_of([&] { moe::rms_norm(cpu, p.x.mat(), five.vec(), 1e-5f, p.y.mat(), p.rstd.vec()); }) == "rms_norm: weight has 5 elements, needs 4");
  CHECK(error_of([&] { moe::rms_norm(cpu, p.x.mat(), p.w.vec(), 1e-5f, wide.mat(), p.rstd.vec()); }) == "rms_norm: y is [3, 5], needs [3, 4]");
  CHECK(error_of([&] { moe::rms_norm(cpu, p.x.mat(), p.w.vec(), 1e-5f, p.y.mat(), two.vec()); }) == "rms_norm: rstd has 2 elements, needs 3");
  for (float eps : {-1e-5f, quiet_nan<float>(), std::numeric_limits<float>::infinity()})
    CHECK(contains(error_of([&] { moe::rms_norm(cpu, p.x.mat(), p.w.vec(), eps, p.y.mat(), p.rstd.vec()); }), "rms_norm: eps is "));
  p.forward();
  scratch s(16);
  auto a = s.get();
  auto const backward = [&](array<float>& d_y, array<float>& w, array<float>& rstd, array<float>& d_x, array<float>& d_w) {
    return error_of([&] { moe::rms_norm_backward(cpu, d_y.mat(), p.x.mat(), w.vec(), rstd.vec(), d_x.mat(), d_w.vec(), a); });
  };
  CHECK(backward(wide, p.w, p.rstd, p.d_x, p.d_w) == "rms_norm_backward: d_y is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, five, p.rstd, p.d_x, p.d_w) == "rms_norm_backward: weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, two, p.d_x, p.d_w) == "rms_norm_backward: rstd has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.rstd, wide, p.d_w) == "rms_norm_backward: d_x is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, p.w, p.rstd, p.d_x, five) == "rms_norm_backward: d_weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.rstd, p.d_x, p.d_w) == "arena: 64 bytes asked, 16 of 16 left");
}
