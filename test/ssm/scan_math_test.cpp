#include <moe/ssm/detail/scan_math.hpp>

#include "test/support.hpp"

using namespace test;
namespace detail = moe::detail;

namespace {
/// Calls f(x) for floats of every size: each 997th bit pattern, NaN and infinities among them.
template <class F>
void for_floats(F const& f) {
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 997) f(__builtin_bit_cast(float, static_cast<std::uint32_t>(bits)));
  for (float x : {0.0f, -0.0f, 20.0f, 128.0f, 127.99999f, -149.5f, -150.0f, -150.5f, -151.0f, -151.5f, quiet_nan<float>()}) f(x);
  for (float x = std::numeric_limits<float>::infinity(); float e : {x, -x}) f(e);
}
template <class Vector, class Scalar>
void check_same_bits(Vector const& vector, Scalar const& scalar) {
  using V = moe::simd<float>;
  std::uint64_t different = 0;
  for_floats([&](float x) {
    V lanes = V::all(1.5f);  // among others, in each lane
    int const lane = static_cast<int>(__builtin_bit_cast(std::uint32_t, x) % V::width);
    lanes.v[lane] = x;
    float const a = vector(lanes)[lane], b = scalar(x);
    different += !(a != a && b != b) && __builtin_bit_cast(std::uint32_t, a) != __builtin_bit_cast(std::uint32_t, b);
  });
  CHECK(different == 0);
}
}  // namespace

TEST_CASE("scan_math: a lane of the vector functions has the bits of the scalar ones") {
  check_same_bits([](auto x) { return detail::exp2(x); }, [](float x) { return detail::exp2_scalar(x); });
  check_same_bits([](auto x) { return detail::softplus(x); }, [](float x) { return detail::softplus_scalar(x); });
  auto const slope = [](auto x) {
    decltype(x) y;
    detail::softplus(x, &y);
    return y;
  };
  check_same_bits(slope, [](float x) { return detail::softplus_slope_scalar(x); });
  using V = moe::simd<float>;
  for (float dt : {0.0f, 0.013f, 1e4f, 0x1p-140f})
    check_same_bits([=](V x) { return detail::decay(V::all(dt), x); }, [=](float x) { return detail::decay_scalar(dt, x); });
}

TEST_CASE("scan_math: 2^x and ln(1 + e^x) are close to what they are, also where they are tiny") {
  double worst = 0, near_0 = 0, soft = 0;
  for (int i = -126 * 4096; i < 128 * 4096; ++i) {
    float const x = static_cast<float>(i) / 4096;
    double const error = std::abs(double(detail::exp2_scalar(x)) / std::exp2(double(x)) - 1);
    worst = std::max(worst, error);
    if (std::abs(x) < 0.05f) near_0 = std::max(near_0, error);
    if (x > -87) soft = std::max(soft, std::abs(double(detail::softplus_scalar(x)) / std::log1p(std::exp(double(x))) - 1));
  }
  CHECK(worst < 1.8e-7);
  CHECK(near_0 < 7.5e-8);
  CHECK(soft < 2.5e-7);
  CHECK(detail::exp2_scalar(0.0f) == 1);
  CHECK(detail::exp2_scalar(-1e30f) == 0);
  CHECK(detail::exp2_scalar(-149.0f) == 0x1p-149f);
  CHECK(detail::softplus_scalar(-1e30f) == 0);
  CHECK(detail::softplus_slope_scalar(-1e30f) == 0);
}

TEST_CASE_TEMPLATE("scan_math: softplus is the identity above 20, its slope 1", T, float, double) {
  T const above = std::nextafter(T(20), T(21));
  CHECK(detail::softplus_scalar(above) == above);
  CHECK(detail::softplus_slope_scalar(above) == 1);
  CHECK(detail::softplus(moe::simd<T>::all(above))[0] == above);
  CHECK(detail::softplus_scalar(T(1e4)) == T(1e4));
  CHECK(std::abs(detail::softplus_scalar(T(0)) - T(0.6931471805599453)) < T(1e-7));
}

TEST_CASE_TEMPLATE("scan_math: rounded_product is rounded on its own, whatever sum follows", T, float, double) {
  moe::random_stream const random{5, moe::random_purpose::test, 1};
  using V = moe::simd<T>;
  for (std::uint64_t i = 0; i < 3000; i += 2) {
    V const a = V::all(static_cast<T>(random.normal(i))), b = V::all(static_cast<T>(random.normal(i + 1)));
    T volatile const rounded = a[0] * b[0];
    REQUIRE((detail::rounded_product(a, b) - V::all(rounded))[0] == T(0));
  }
}
