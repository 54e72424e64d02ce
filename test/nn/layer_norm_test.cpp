#include <moe/nn/layer_norm.hpp>

#include <test/nn/norm_check.hpp>

using namespace test;

namespace {
template <class T>
struct problem : norm_operands<T> {
  array<T> b;
  array<moe::accumulator<T>> d_b, mean;
  problem(index_t tokens, index_t d, index_t gap = 0, index_t offset = 0)
      : norm_operands<T>(tokens, d, gap, offset), b(d, 1, 0, offset), d_b(d, 1, 0, offset), mean(tokens) {
    b.normal(5), d_b.normal(6);
  }
  void forward(auto const& s, array<T>& to) {
    moe::layer_norm(s, this->x.mat(), this->w.vec(), b.vec(), this->eps, to.mat(), mean.vec(), this->rstd.vec());
  }
  void forward(auto const& s) { forward(s, this->y); }
  void backward(auto const& s, array<T>& to) {
    scratch memory(moe::layer_norm_backward_scratch_bytes<T>(s, this->x.rows(), this->x.columns()));
    auto a = memory.get();
    moe::layer_norm_backward(s, this->d_y.mat(), this->x.mat(), this->w.vec(), mean.vec(), this->rstd.vec(), to.mat(), this->d_w.vec(), d_b.vec(), a);
  }
  void backward(auto const& s) { backward(s, this->d_x); }
  norm_row exact(index_t t) const {
    norm_row row{{}, 0};
    index_t const d = this->x.columns();
    double average = 0;
    for (index_t c = 0; c < d; ++c) average += double(this->x(t, c)) / double(d);
    for (index_t c = 0; c < d; ++c) row.rstd += (double(this->x(t, c)) - average) * (double(this->x(t, c)) - average);
    row.rstd = 1 / std::sqrt(row.rstd / double(d) + double(this->eps));
    for (index_t c = 0; c < d; ++c) row.y.push_back((double(this->x(t, c)) - average) * row.rstd * double(this->w(c)) + double(b(c)));
    return row;
  }
  std::vector<norm_weight<T>> weights() { return {{"weight", &this->w, &this->d_w}, {"bias", &b, &d_b}}; }
  std::vector<double> outputs() const { return numbers_of(this->y, this->d_x, this->d_w, d_b, mean, this->rstd); }
};
}  // namespace

TEST_CASE_TEMPLATE("layer_norm: agrees with the formula for any shape, strided and unaligned", T, float, double, bf16) {
  check_norm_formula<problem, T>(std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 5e-6 : 1e-2, 1);
}

TEST_CASE("layer_norm: gradients") { check_norm_gradients<problem>(); }

TEST_CASE_TEMPLATE("layer_norm: the same bits however it runs, for any strides, in place; a row alone as in a batch", T, float, double, bf16) {
  check_norm_bits<problem, T>();
}

TEST_CASE_TEMPLATE("layer_norm: every space has the same bits where sums are exact", T, float, double, bf16) {
  check_norm_spaces<problem, T>([](problem<T>& p) { p.rstd.fill(2), p.mean.fill(-1); });
}

TEST_CASE_TEMPLATE("layer_norm_backward: adds to d_weight and d_bias", T, float, double, bf16) { check_norm_adds_to_gradients<problem, T>(); }

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
    p.backward(on());
    CHECK(p.d_w.values() == weight);
    CHECK(p.d_b.values() == bias);
  }
}

TEST_CASE_TEMPLATE("layer_norm: extremes, constants, NaN", T, float, double) {
  T const big = std::numeric_limits<T>::max();
  problem<T> p(5, 20);
  p.w.fill(1);
  for (index_t c = 0; c < 20; ++c) p.x(0, c) = c % 2 == 0 ? big : -big, p.x(1, c) = 3, p.x(2, c) = c % 2 == 0 ? big : 0;
  p.x(3, 19) = quiet_nan<T>();
  for (index_t c = 0; c < 20; ++c) p.x(4, c) = c < 10 ? big : -big;  // partial sums of both infinities
  p.forward(on());
  for (index_t c = 0; c < 20; ++c) {
    double const sign = c % 2 == 0 ? 1.0 : -1.0;
    CHECK(double(p.y(0, c)) - double(p.b(c)) == doctest::Approx(sign).epsilon(1e-5));
    CHECK(p.y(1, c) == p.b(c));
    CHECK(double(p.y(2, c)) - double(p.b(c)) == doctest::Approx(sign).epsilon(1e-5));
    CHECK(std::isnan(p.y(3, c)));
    CHECK(double(p.y(4, c)) - double(p.b(c)) == doctest::Approx(c < 10 ? 1.0 : -1.0).epsilon(1e-5));
  }
  problem<T> infinite(1, 20);
  infinite.x(0, 3) = std::numeric_limits<T>::infinity();
  infinite.forward(on());
  for (index_t c = 0; c < 20; ++c) CHECK(std::isnan(infinite.y(0, c)));
  check_norm_nan_gradient<problem, T>();
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
TEST_CASE_TEMPLATE("layer_norm: touches nothing outside its operands", T, float, double, bf16) {
  check_norm_guarded<T>([](auto x, auto d_y, auto y, auto w, auto d_w) {
    array<moe::accumulator<T>> rstd(x.rows()), mean(x.rows());
    moe::layer_norm<T>(on(), x, w, w, 1, y, mean.vec(), rstd.vec());
    scratch memory(moe::layer_norm_backward_scratch_bytes<T>(on(), x.rows(), w.size()));
    auto a = memory.get();
    moe::layer_norm_backward<T>(on(), d_y, x, w, mean.vec(), rstd.vec(), y, d_w, d_w, a);
  });
}
#endif

TEST_CASE("layer_norm: nothing happens with no tokens or columns; errors name the argument") {
  check_norm_nothing<problem>();

  problem<float> p(3, 4);
  array<float> five(5), wide(3, 5), two(2);
  space const where = on();
  auto const forward = [&](array<float>& w, array<float>& b, array<float>& y, array<float>& mean, array<float>& rstd, float eps = 1e-5f) {
    return error_of([&] { moe::layer_norm(where, p.x.mat(), w.vec(), b.vec(), eps, y.mat(), mean.vec(), rstd.vec()); });
  };
  CHECK(forward(five, p.b, p.y, p.mean, p.rstd) == "layer_norm: weight has 5 elements, needs 4");
  CHECK(forward(p.w, five, p.y, p.mean, p.rstd) == "layer_norm: bias has 5 elements, needs 4");
  CHECK(forward(p.w, p.b, wide, p.mean, p.rstd) == "layer_norm: y is [3, 5], needs [3, 4]");
  CHECK(forward(p.w, p.b, p.y, two, p.rstd) == "layer_norm: mean has 2 elements, needs 3");
  CHECK(forward(p.w, p.b, p.y, p.mean, two) == "layer_norm: rstd has 2 elements, needs 3");
  for (float eps : {-1e-5f, quiet_nan<float>(), std::numeric_limits<float>::infinity()})
    CHECK(contains(forward(p.w, p.b, p.y, p.mean, p.rstd, eps), "layer_norm: eps is "));
  p.forward(on());
  scratch s(16);
  auto a = s.get();
  using V = array<float>;
  auto const backward = [&](V& d_y, V& w, V& mean, V& rstd, V& d_x, V& d_w, V& d_b) {
    return error_of(
        [&] { moe::layer_norm_backward(where, d_y.mat(), p.x.mat(), w.vec(), mean.vec(), rstd.vec(), d_x.mat(), d_w.vec(), d_b.vec(), a); });
  };
  CHECK(backward(wide, p.w, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: d_y is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, five, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, two, p.rstd, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: mean has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.mean, two, p.d_x, p.d_w, p.d_b) == "layer_norm_backward: rstd has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, wide, p.d_w, p.d_b) == "layer_norm_backward: d_x is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, five, p.d_b) == "layer_norm_backward: d_weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, p.d_w, five) == "layer_norm_backward: d_bias has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.mean, p.rstd, p.d_x, p.d_w, p.d_b) ==
        "layer_norm_backward: scratch has 16 bytes left, needs " + std::to_string(moe::layer_norm_backward_scratch_bytes<float>(where, 3, 4)));
}
