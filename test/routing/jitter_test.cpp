#include <moe/routing/jitter.hpp>

#include <algorithm>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::index_t;
constexpr moe::random_stream noise{7, moe::random_purpose::routing_noise, 3};

/// The contract, an element at a time.
template <class T>
T jittered(T x, double epsilon, index_t place) {
  double const u = noise.uniform(static_cast<std::uint64_t>(place));
  using A = moe::accumulator<T>;
  return T(A(x) * static_cast<A>(std::fma(epsilon, 2 * u - 1, 1.0)));
}
}  // namespace

TEST_CASE_TEMPLATE("jitter: the factor of each place, for every execution, strided and in place", T, float, double, bf16) {
  for (index_t tokens : {0, 1, 5, 70})
    for (index_t columns : {0, 1, 7, 8, 9, 33}) {
      test::array<T> x(tokens, columns, columns + 3, 1);
      x.normal(2);
      test::for_each_execution([&](test::space const& space, int) {
        test::array<T> y(tokens, columns, columns + 1), same = x;
        moe::jitter<T>(space, x.mat(), 0.25, noise, y.mat());
        moe::jitter<T>(space, same.mat(), 0.25, noise, same.mat());
        space.wait();
        std::vector<T> expected;
        for (index_t i = 0; i < x.size(); ++i) expected.push_back(jittered(x(i / columns, i % columns), 0.25, i));
        CHECK(test::same_bits(y.values(), expected));
        CHECK(test::same_bits(same.values(), expected));
      });
    }
}

TEST_CASE("jitter: factors fill [1 - epsilon, 1 + epsilon), their mean is 1, and other steps and layers draw others") {
  constexpr index_t n = test::on_cuda ? 2000 : 20000;
  test::array<double> one(n / 10, 10), y(n / 10, 10), z(n / 10, 10);
  one.fill(1);
  auto const space = test::on();
  moe::jitter<double>(space, one.mat(), 0.01, noise, y.mat());
  moe::random_stream other = noise;
  ++other.step;
  moe::jitter<double>(space, one.mat(), 0.01, other, z.mat());
  space.wait();
  auto const factors = y.values();
  double sum = 0;
  index_t equal = 0;
  for (index_t i = 0; i < n; ++i) sum += factors[std::size_t(i)], equal += y.data()[i] == z.data()[i];
  CHECK(*std::min_element(factors.begin(), factors.end()) >= 0.99);
  CHECK(*std::min_element(factors.begin(), factors.end()) < 0.9901);
  CHECK(*std::max_element(factors.begin(), factors.end()) < 1.01);
  CHECK(*std::max_element(factors.begin(), factors.end()) > 1.0099);
  CHECK(std::abs(sum / double(n) - 1) <= 4 * 0.01 / std::sqrt(3.0 * double(n)));
  CHECK(equal == 0);
}

TEST_CASE("jitter: the gradient is the same call, as finite differences say") {
  test::array<double> x(3, 5), y(3, 5), c(3, 5), d(3, 5);
  x.normal(1), c.normal(2);
  auto const space = test::on();
  auto const loss = [&] {
    moe::jitter<double>(space, x.mat(), 0.3, noise, y.mat());
    space.wait();
    double sum = 0;
    for (index_t i = 0; i < 15; ++i) sum += c.data()[i] * y.data()[i];
    return sum;
  };
  moe::jitter<double>(space, c.mat(), 0.3, noise, d.mat());
  space.wait();
  test::check_gradient("jitter x", loss, x.data(), 15, d.values(), {.step = 1e-3, .relative = 1e-10});
}

TEST_CASE_TEMPLATE("jitter: epsilon 0 copies; NaN and infinity stay; wrong arguments", T, float, bf16) {
  test::array<T> x(2, 9), y(2, 9), wide(2, 10);
  x.normal(1), wide.fill(T(0.0f));
  x(0, 3) = test::quiet_nan<T>(), x(1, 8) = T(-std::numeric_limits<float>::infinity());
  auto const space = test::on();
  moe::jitter<T>(space, x.mat(), 0, noise, y.mat());
  space.wait();
  CHECK(test::same_bits(x.values(), y.values()));
  moe::jitter<T>(space, x.mat(), 0.1, noise, y.mat());
  space.wait();
  CHECK(std::isnan(double(y(0, 3))));
  CHECK(double(y(1, 8)) == -std::numeric_limits<double>::infinity());
  y.fill(T(5.0f));
  for (double epsilon : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK(test::contains(test::error_of([&] { moe::jitter<T>(space, x.mat(), epsilon, noise, y.mat()); }), "needs to be in [0, 1)"));
  CHECK(test::contains(test::error_of([&] { moe::jitter<T>(space, x.mat(), 0.1, noise, wide.mat()); }), "jitter: out is [2, 10], needs [2, 9]"));
  for (T v : y.values()) CHECK(v == T(5.0f));
}
