#include <moe/nn/rms_norm.hpp>

#include <test/nn/norm_check.hpp>

using namespace test;

namespace {
template <class T>
struct problem : norm_operands<T> {
  using norm_operands<T>::norm_operands;
  void forward(auto const& s, array<T>& to) { moe::rms_norm(s, this->x.mat(), this->w.vec(), this->eps, to.mat(), this->rstd.vec()); }
  void forward(auto const& s) { forward(s, this->y); }
  void backward(auto const& s, array<T>& to) {
    scratch memory(moe::rms_norm_backward_scratch_bytes<T>(s, this->x.rows(), this->x.columns()));
    auto a = memory.get();
    moe::rms_norm_backward(s, this->d_y.mat(), this->x.mat(), this->w.vec(), this->rstd.vec(), to.mat(), this->d_w.vec(), a);
  }
  void backward(auto const& s) { backward(s, this->d_x); }
  norm_row exact(index_t t) const {
    norm_row row{{}, 0};
    index_t const d = this->x.columns();
    for (index_t c = 0; c < d; ++c) row.rstd += double(this->x(t, c)) * double(this->x(t, c));
    row.rstd = 1 / std::sqrt(row.rstd / double(d) + double(this->eps));
    for (index_t c = 0; c < d; ++c) row.y.push_back(double(this->x(t, c)) * row.rstd * double(this->w(c)));
    return row;
  }
  std::vector<norm_weight<T>> weights() { return {{"weight", &this->w, &this->d_w}}; }
  std::vector<double> outputs() const { return numbers_of(this->y, this->d_x, this->d_w, this->rstd); }
};
}  // namespace

TEST_CASE("rms_norm: reference values") {
  problem<double> p(1, 4);
  p.x = array<double>({1, -2, 3, 0.5}, 1, 4);
  p.w.fill(1);
  p.forward(on());
  double const expected[] = {0.529812199, -1.059624398, 1.589436598, 0.2649061};
  for (int c = 0; c < 4; ++c) CHECK(std::abs(p.y(0, c) - expected[c]) < 1e-9);
}

TEST_CASE_TEMPLATE("rms_norm: agrees with the formula for any shape, strided and unaligned", T, float, double, bf16) {
  check_norm_formula<problem, T>(std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 2e-6 : 1e-2, 1e-3);
}

TEST_CASE("rms_norm: gradients") { check_norm_gradients<problem>(); }

TEST_CASE_TEMPLATE("rms_norm: the same bits however it runs, for any strides, in place; a row alone as in a batch", T, float, double, bf16) {
  check_norm_bits<problem, T>();
}

TEST_CASE_TEMPLATE("rms_norm: every space has the same bits where sums are exact", T, float, double, bf16) {
  check_norm_spaces<problem, T>([](problem<T>& p) { p.rstd.fill(2); });
}

TEST_CASE_TEMPLATE("rms_norm_backward: adds to d_weight", T, float, double, bf16) { check_norm_adds_to_gradients<problem, T>(); }

TEST_CASE("rms_norm_backward: d_weight is exact where the sums are, over several chunks") {
  for (index_t tokens : {1, 63, 64, 65, 128, 300}) {
    problem<double> p(tokens, 5);
    p.x.integers(1), p.d_y.integers(2), p.d_w.integers(3), p.rstd.fill(2);
    std::vector<double> expected = p.d_w.values();
    for (index_t t = 0; t < tokens; ++t)
      for (index_t c = 0; c < 5; ++c) expected[static_cast<std::size_t>(c)] += p.d_y(t, c) * p.x(t, c) * 2;
    p.backward(on());
    CHECK(p.d_w.values() == expected);
  }
}

TEST_CASE_TEMPLATE("rms_norm: extremes, zeros, NaN", T, float, double) {
  T const big = std::numeric_limits<T>::max();
  problem<T> p(5, 20);
  p.w.fill(1);
  for (index_t c = 0; c < 20; ++c) p.x(0, c) = c % 2 == 0 ? big : -big, p.x(1, c) = 0, p.x(2, c) = T(1e-30) * T(c), p.x(3, c) = big / T(1e9);
  p.x(4, 19) = quiet_nan<T>();
  p.forward(on());
  for (index_t c = 0; c < 20; ++c) {
    CHECK(p.y(0, c) == doctest::Approx(c % 2 == 0 ? 1.0 : -1.0).epsilon(1e-5));
    CHECK(p.y(1, c) == 0);
    CHECK(p.y(2, c) == doctest::Approx(double(p.x(2, c)) / std::sqrt(1e-5)).epsilon(1e-5));
    CHECK(p.y(3, c) == doctest::Approx(1.0).epsilon(1e-5));
    CHECK(std::isnan(p.y(4, c)));
  }
  problem<T> infinite(1, 20);
  infinite.x(0, 3) = std::numeric_limits<T>::infinity();
  infinite.forward(on());
  CHECK(std::isnan(infinite.y(0, 3)));
  check_norm_nan_gradient<problem, T>();
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
TEST_CASE_TEMPLATE("rms_norm: touches nothing outside its operands", T, float, double, bf16) {
  check_norm_guarded<T>([](auto x, auto d_y, auto y, auto w, auto d_w) {
    array<moe::accumulator<T>> rstd(x.rows());
    moe::rms_norm<T>(on(), x, w, 1, y, rstd.vec());
    scratch memory(moe::rms_norm_backward_scratch_bytes<T>(on(), x.rows(), w.size()));
    auto a = memory.get();
    moe::rms_norm_backward<T>(on(), d_y, x, w, rstd.vec(), y, d_w, a);
  });
}
#endif

TEST_CASE("rms_norm: nothing happens with no tokens or columns; errors name the argument") {
  check_norm_nothing<problem>();

  problem<float> p(3, 4);
  array<float> five(5), wide(3, 5), two(2);
  space const where = on();
  CHECK(error_of([&] { moe::rms_norm(where, p.x.mat(), five.vec(), 1e-5f, p.y.mat(), p.rstd.vec()); }) == "rms_norm: weight has 5 elements, needs 4");
  CHECK(error_of([&] { moe::rms_norm(where, p.x.mat(), p.w.vec(), 1e-5f, wide.mat(), p.rstd.vec()); }) == "rms_norm: y is [3, 5], needs [3, 4]");
  CHECK(error_of([&] { moe::rms_norm(where, p.x.mat(), p.w.vec(), 1e-5f, p.y.mat(), two.vec()); }) == "rms_norm: rstd has 2 elements, needs 3");
  for (float eps : {-1e-5f, quiet_nan<float>(), std::numeric_limits<float>::infinity()})
    CHECK(contains(error_of([&] { moe::rms_norm(where, p.x.mat(), p.w.vec(), eps, p.y.mat(), p.rstd.vec()); }), "rms_norm: eps is "));
  p.forward(on());
  scratch s(16);
  auto a = s.get();
  auto const backward = [&](array<float>& d_y, array<float>& w, array<float>& rstd, array<float>& d_x, array<float>& d_w) {
    return error_of([&] { moe::rms_norm_backward(where, d_y.mat(), p.x.mat(), w.vec(), rstd.vec(), d_x.mat(), d_w.vec(), a); });
  };
  CHECK(backward(wide, p.w, p.rstd, p.d_x, p.d_w) == "rms_norm_backward: d_y is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, five, p.rstd, p.d_x, p.d_w) == "rms_norm_backward: weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, two, p.d_x, p.d_w) == "rms_norm_backward: rstd has 2 elements, needs 3");
  CHECK(backward(p.d_y, p.w, p.rstd, wide, p.d_w) == "rms_norm_backward: d_x is [3, 5], needs [3, 4]");
  CHECK(backward(p.d_y, p.w, p.rstd, p.d_x, five) == "rms_norm_backward: d_weight has 5 elements, needs 4");
  CHECK(backward(p.d_y, p.w, p.rstd, p.d_x, p.d_w) ==
        "rms_norm_backward: scratch has 16 bytes left, needs " + std::to_string(moe::rms_norm_backward_scratch_bytes<float>(where, 3, 4)));
}
