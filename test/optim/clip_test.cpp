#include <moe/optim/clip.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
double norm_of(array<T> const& g, int threads = 2, scratch s = scratch(1 << 16)) {
  auto a = s.get();
  return moe::global_norm(moe::cpu{threads}, g.vec(), a);
}
}  // namespace

TEST_CASE("clip: reference values") {
  array<double> g({3, -4, 12}, 3, 1);
  CHECK(norm_of(g) == 13.0);
  double const scale = moe::clip_scale(norm_of(g), 1);
  CHECK(scale == doctest::Approx(0.076923071006).epsilon(1e-11));
  double const expected[] = {0.230769213, -0.307692284, 0.923076852};
  for (int i = 0; i < 3; ++i) CHECK(std::abs(scale * g(i) - expected[i]) < 1e-9);
  CHECK(moe::clip_scale(0.5, 1) == 1.0);
  CHECK(moe::clip_scale(0, 1) == 1.0);
  CHECK(moe::clip_scale(1e30, std::numeric_limits<double>::infinity()) == 1.0);
}

TEST_CASE_TEMPLATE("global_norm: exact integers, any length, any threads, aligned or not", T, float, double, bf16) {
  for (index_t n : {0, 1, 3, 7, 8, 31, 32, 33, 100, 16383, 16384, 16385, 50000}) {
    array<T> g(n, 1, 0, n % 3);
    g.integers(static_cast<std::uint64_t>(n) + 1);
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += static_cast<double>(g(i)) * static_cast<double>(g(i));
    for (int threads : thread_counts) CHECK(norm_of(g, threads) == std::sqrt(sum));
  }
}

TEST_CASE_TEMPLATE("global_norm: the same bits for any number of threads", T, float, double, bf16) {
  array<T> g(100000), shifted(100000, 1, 0, 1);
  g.normal(7), shifted.normal(7);
  double sum = 0;
  for (T x : g.values()) sum += static_cast<double>(x) * static_cast<double>(x);
  CHECK(norm_of(g) == doctest::Approx(std::sqrt(sum)).epsilon(1e-13));
  for (int threads : thread_counts) {
    CHECK(norm_of(g, threads) == norm_of(g, 1));
    CHECK(norm_of(shifted, threads) == norm_of(g, 1));
  }
}

TEST_CASE("global_norm: extremes of float do not overflow; what is not finite shows") {
  array<float> g(40000);
  g.fill(std::numeric_limits<float>::max());
  CHECK(norm_of(g) == doctest::Approx(200.0 * 3.4028234663852886e38).epsilon(1e-12));
  g.fill(std::numeric_limits<float>::denorm_min());
  CHECK(norm_of(g) == doctest::Approx(200.0 * 1.401298464324817e-45).epsilon(1e-12));
  for (index_t where : {0, 5, 16384, 39999}) {
    for (double bad : {quiet_nan<double>(), std::numeric_limits<double>::infinity()}) {
      g.fill(1);
      g(where) = static_cast<float>(bad);
      double const norm = norm_of(g);
      CHECK(!(norm <= std::numeric_limits<double>::max()));
      CHECK((norm != norm) == (bad != bad));
      CHECK(std::isnan(moe::clip_scale(norm, 1)));
    }
  }
}

TEST_CASE("clip: errors") {
  CHECK(error_of([] { (void)moe::clip_scale(1, 0); }) == "clip_scale: max_norm is 0, needs to be above 0");
  CHECK(error_of([] { (void)moe::clip_scale(1, -1); }) == "clip_scale: max_norm is -1, needs to be above 0");
  CHECK(contains(error_of([] { (void)moe::clip_scale(1, quiet_nan<double>()); }), "clip_scale: max_norm is nan"));
  array<float> g(40000);
  g.fill(1);
  CHECK(moe::global_norm_scratch_bytes(moe::cpu{}, 40000) == 64);
  CHECK(moe::global_norm_scratch_bytes(moe::cpu{}, 0) == 0);
  CHECK(norm_of(g, 2, scratch(64)) == 200.0);
  CHECK(contains(error_of([&] { (void)norm_of(g, 2, scratch(63)); }), "arena: 64 bytes asked, 63 of 63 left"));
}
