#include <moe/core/math.hpp>

#include "test/support.hpp"

TEST_CASE_TEMPLATE("madd: one rounding where the instruction set has a fused operation, else a product and a sum", T, float, double) {
  moe::random_stream const random{5, moe::random_purpose::test, 0};
  for (std::uint64_t i = 0; i < 30000; i += 3) {
    T const a = static_cast<T>(random.normal(i)), b = static_cast<T>(random.normal(i + 1));
    T const c = i % 2 == 0 ? static_cast<T>(random.normal(i + 2)) : -a * b;  // odd: only the rounding error of the product is left
#if defined(MOE_HAS_FMA)
    REQUIRE(moe::madd(a, b, c) == std::fma(a, b, c));
#else
    T volatile const product = a * b;
    REQUIRE(moe::madd(a, b, c) == product + c);
#endif
  }
}

TEST_CASE_TEMPLATE("madd: NaN, infinity and signed zero as in IEEE arithmetic", T, float, double) {
  T const inf = std::numeric_limits<T>::infinity();
  CHECK(std::isnan(moe::madd(inf, T(0), T(1))));
  CHECK(std::isnan(moe::madd(T(1), inf, -inf)));
  CHECK(moe::madd(T(2), inf, T(1)) == inf);
  CHECK(std::isnan(moe::madd(T(0), T(0), test::quiet_nan<T>())));
  CHECK(std::signbit(moe::madd(T(-0.0), T(1), T(-0.0))));
}

TEST_CASE("madd: the product is exact where it is fused") {
#if defined(MOE_HAS_FMA)
  float const x = 1.0f + 0x1p-12f;
  CHECK(moe::madd(x, x, -1.0f - 0x1p-11f) == 0x1p-24f);
#endif
}

TEST_CASE_TEMPLATE("product: rounded on its own, whatever sum follows", T, float, double) {
  moe::random_stream const random{5, moe::random_purpose::test, 1};
  for (std::uint64_t i = 0; i < 3000; i += 2) {
    T const a = static_cast<T>(random.normal(i)), b = static_cast<T>(random.normal(i + 1));
    T volatile const rounded = a * b;
    REQUIRE(moe::product(a, b) - rounded == T(0));
    REQUIRE(moe::product(a, b) + T(1) == rounded + T(1));
  }
}

TEST_CASE("exp_scalar: special values") {
  float const inf = std::numeric_limits<float>::infinity();
  CHECK(moe::exp_scalar(0.0f) == 1.0f);
  CHECK(moe::exp_scalar(inf) == inf);
  CHECK(moe::exp_scalar(-inf) == 0.0f);
  CHECK(std::isnan(moe::exp_scalar(test::quiet_nan<float>())));
  CHECK(moe::exp_scalar(1.0) == std::exp(1.0));
}

TEST_CASE("log_scalar: within 1 ulp of the logarithm, over all magnitudes") {
  moe::random_stream const random{5, moe::random_purpose::test, 2};
  double worst = 0;
  auto const check = [&](double x) {
    double const y = moe::log_scalar(x);
    long double const expected = std::log(static_cast<long double>(x));
    double const size = std::abs(static_cast<double>(expected)), ulp = std::nextafter(size, 1e300) - size;
    double const error = static_cast<double>(std::abs(static_cast<long double>(y) - expected)) / ulp;
    if (!(error <= worst)) worst = error;
  };
  for (std::uint64_t i = 0; i < 20000; i += 2) {
    double const u = 1 + random.uniform(i), scale = std::ldexp(1.0, static_cast<int>(random.below(i + 1, 2090)) - 1070);
    check(u * scale);                // denormals too
    check(0.7 + 0.72 * (u - 1));     // where no power of two helps
    check(1 + (u - 1.5) * 0x1p-20);  // where it cancels
  }
  CHECK(worst < 1);
  double const inf = std::numeric_limits<double>::infinity();
  CHECK(moe::log_scalar(1) == 0);
  CHECK(moe::log_scalar(0) == -inf);
  CHECK(moe::log_scalar(inf) == inf);
  CHECK(std::isnan(moe::log_scalar(-1)));
  CHECK(std::isnan(moe::log_scalar(test::quiet_nan<double>())));
  CHECK(moe::log_scalar(2) == std::log(2.0));
}
