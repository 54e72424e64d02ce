#include <moe/nn/layer_norm.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
using A = moe::accumulator<T>;

template <class T>
struct problem {
  array<T> x, w, b, y, d_y, d_x, d_w, d_b;
  array<A<T>> mean, rstd;
  A<T> eps = A<T>(1e-5);
  problem(index_t tokens, index_t d, index_t gap = 0, index_t offset = 0)
      : x(tokens, d, d + gap, offset), w(d, 1, 0, offset), b(d, 1, 0, offset), y(tokens, d, d + gap, offset), d_y(tokens, d, d + gap, offset),
        d_x(tokens, d, d + gap, offset), d_w(d, 1, 0, offset), d_b(d, 1, 0, offset), mean(tokens), rstd(tokens) {
    x.normal(1), w.normal(2), b.normal(5), d_y.normal(3), d_w.normal(4), d_b.normal(6);
  }
  void forward(int threads = 2) { moe::layer_norm(moe::cpu{threads}, x.mat(), w.vec(), b.vec(), eps, y.mat(), mean.vec(), rstd.vec()); }
  void backward(int threads = 2) {
    scratch s(moe::layer_norm_backward_scratch_bytes<T>(moe::cpu{}, x.rows(), x.columns()));
    auto a = s.get();
    moe::layer_norm_backward(moe::cpu{threads}, d_y.mat(), x.mat(), w.vec(), mean.vec(), rstd.vec(), d_x.mat(), d_w.vec(), d_b.vec(), a);
  }
};
}  // namespace

TEST_CASE_TEMPLATE("layer_norm: agrees with the formula for any shape, strided and unaligned", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 5e-6 : 1e-2;
  for (index_t d : {1, 3, 7, 8, 9, 16, 31, 33, 64, 65, 130})
    for (index_t tokens : {0, 1, 5}) {
      problem<T> p(tokens, d, d % 3, tokens % 2);
      p.forward();
      for (index_t t = 0; t < tokens; ++t) {
        double sum = 0, squares = 0;
        for (index_t c = 0; c < d; ++c) sum += double(p.x(t, c));
        double const mean = sum / double(d);
        for (index_t c = 0; c < d; ++c) squares += (double(p.x(t, c)) - mean) * (double(p.x(t, c)) - mean);
        double const r = 1 / std::sqrt(squares / double(d) + double(p.eps));
        for (index_t c = 0; c < d; ++c) {
          double const y = (double(p.x(t, c)) - mean) * r * double(p.w(c)) + double(p.b(c));
          CHECK(std::abs(double(p.y(t, c)) - y) <= tolerance * (std::abs(y) + 1));
        }
      }
    }
}

TEST_CASE("layer_norm: gradients") {
  for (index_t tokens : {1, 3, 70}) {
    index_t const d = tokens == 70 ? 4 : 13;
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
    p.d_w.fill(0), p.d_b.fill(0);
    p.backward();
    check_gradient("weight", loss, p.w.data(), d, p.d_w.values());
    check_gradient("bias", loss, p.b.data(), d, p.d_b.values());
    for (index_t t = 0; t < tokens; ++t)
      check_gradient("x", loss, &p.x(t, 0), d, std::vector<double>(&p.d_x(t, 0), &p.d_x(t, 0) + d), {.step = 1e-4, .relative = 1e-7});
  }
}

TEST_CASE("layer_norm_backward: d_weight and d_bias are exact where the sums are, over several chunks") {
  for (index_t tokens : {1, 63, 64, 65, 128, 300}) {
    problem<double> p(tokens, 5);
    p.x.integers(1), p.d_y.integers(2), p.d_w.integers(3), p.d_b.integers(4), p.rstd.fill(2), p.mean.fill(-1);
    std::vector<double> weight = p.d_w.values(), bias = p.d_b.values();
    for (index_t t = 0; t < tokens; ++t)
      for (index_t c = 0; c < 5; ++c) {
        weight[static_cast<std::size_t>(c)] += p.d_y(t, c) * (p.x(t, c) + 1) * 2;
        bias[static_cast<std::size_t>(c)] += p.d_y(t, c);
      }
    p.backward();
    CHECK(p.d_w.values() == weight);
    CHECK(p.d_b.values() == bias);
  }
}

TEST_CASE_TEMPLATE("layer_norm: the same bits for any number of threads and any strides; a row alone; in place", T, float, double, bf16) {
  index_t const tokens = 200, d = 83;
  problem<T> expected(tokens, d);
  expected.forward(1), expected.backward(1);
  for (int threads : thread_counts) {
    problem<T> p(tokens, d, threads, threads % 4);
    p.forward(threads), p.backward(threads);
    CHECK(same_bits(p.y.values(), expected.y.values()));
    CHECK(same_bits(p.d_x.values(), expected.d_x.values()));
    CHECK(same_bits(p.d_w.values(), expected.d_w.values()));
    CHECK(same_bits(p.d_b.values(), expected.d_b.values()));
    CHECK(same_bits(p.mean.values(), expected.mean.values()));
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
  problem<T> p(tokens, d);
  p.forward();
  scratch s;
  auto a = s.get();
  moe::layer_norm_backward(moe::cpu{2}, p.d_y.mat(), p.x.mat(), p.w.vec(), p.mean.vec(), p.rstd.vec(), p.d_y.mat(), p.d_w.vec(), p.d_b.vec(), a);
  CHECK(same_bits(p.d_y.values(), expected.d_x.values()));
  moe::layer_norm(moe::cpu{2}, p.x.mat(), p.w.vec(), p.b.vec(), p.eps, p.x.mat(), p.mean.vec(), p.rstd.vec());
  CHECK(same_bits(p.x.values(), expected.y.values()));
}

TEST_CASE_TEMPLATE("layer_norm: extremes, constants, NaN", T, float, double) {
  T const big = std::numeric_limits<T>::max();
  problem<T> p(4, 20);
  p.w.fill(1);
  for (index_t c = 0; c < 20; ++c) p.x(0, c) = c % 2 == 0 ? big : -big, p.x(1, c) = 3, p.x(2, c) = c % 2 == 0 ? big : 0;
  p.x(3, 19) = quiet_nan<T>();
  p.forward();
  for (index_t c = 0; c < 20; ++c) {
    double const sign = c % 2 == 0 ? 1.0 : -1.0;
    CHECK(double(p.y(0, c)) - double(p.b(c)) == doctest::Approx(sign).epsilon(1e-5));
    CHECK(p.y(1, c) == p.b(c));
    CHECK(double(p.y(2, c)) - double(p.b(c)) == doctest::Approx(sign).epsilon(1e-5));
    CHECK(std::isnan(p.y(3, c)));
  }
  problem<T> infinite(1, 20);
  infinite.x(0, 3) = std::numeric_limits<T>::infinity();
  infinite.forward();
  for (index_t c = 0; c < 20; ++c) CHECK(std::isnan(infinite.y(0, c)));
  problem<T> q(70, 20);
  q.forward();
  q.d_y(69, 7) = quiet_nan<T>();
  q.backward();
  for (index_t c = 0; c < 20; ++c) {
    CHECK(std::isnan(q.d_x(69, c)));
    CHECK(!std::isnan(q.d_x(68, c)));
    CHECK(std::isnan(q.d_w(c)) == (c == 7));
    CHECK(std::isnan(q.d_b(c)) == (c == 7));
  }
}

TEST_CASE("layer_norm: nothing happens with no tokens; errors name the argument") {
  problem<float> none(0, 4);
  auto const before = none.d_w.values();
  none.forward(), none.backward();
  CHECK(same_bits(none.d_w.values(), before));

  problem<float> p(3, 4);
  array<float> five(5), wide(3, 5), two(2);
  moe::cpu const cpu{1};
  auto const forward = [&](array<float>& w, array<float>& b, array<float>& y, array<float>& mean, array<float>& rstd, float eps = 1e-5f) {
    return error_of([&] { moe::layer_norm(cpu, p.x.mat(), w.vec(), b.vec(), eps, y.mat(), mean.vec(), rstd.vec()); });
  };
  CHECK(forward(five, p.b, p.y, p.mean, p.rstd) == "layer_norm: weight has 5 elements, needs 4");
  CHECK(forward(p.w, five, p.y, p.mean, p.rstd) == "layer_norm: bias has 5 elements, needs 4");
  CHECK(forward(p.w, p.b, wide, p.mean, p.rstd) == "layer_norm: y is [3, 5], needs [3, 4]");
  CHECK(forward(p.w, p.b, p.y, two, p.rstd) == "layer_norm: mean has 2 elements, needs 3");
  CHECK(forward(p.w, p.b, p.y, p.mean, two) == "layer_norm: rstd has 2 elements, needs 3");
  for (float eps : {-1e-5f, quiet_nan<float>(), std::numeric_limits<float>::infinity()})
    CHECK(contains(forward(p.w, p.b, p.y, p.mean, p.rstd, eps), "layer_norm: eps is "));
  p.forward();
  scratch s(16);
  auto a = s.get();
  using V = array<float>;
  auto const backward = [&](V& d_y, V& w, V& mean, V& rstd, V& d_x, V& d_w, V& d_b) {
    return error_of([&] {
      moe::layer_norm_backward(cpu, d_y.mat(), p.x.mat(), w.vec(), mean.vec(), rstd.vec(), d_x.mat(), d_w.vec(), d_b.vec(), a);
    });
  };
  CHECK(backward(wide, p.w, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: d_y is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, five, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, two, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: mean has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.mean, two, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: rstd has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, wide, p.d_w, p.d_b) == "layer_norm_backward: d_x is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, five, p.d_b) == "layer_norm_backward: d_weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, p.d_w, five) == "layer_norm_backward: d_bias has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) == "arena: 64 bytes asked, 16 of 16 left");
}
