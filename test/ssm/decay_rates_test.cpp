#include <moe/ssm/decay_rates.hpp>

#include <test/support.hpp>

using namespace test;

TEST_CASE_TEMPLATE("decay_rates: minus the exponential, for any shape, strided and unaligned", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  for_each_execution([](space const& s, int i) {
    for (index_t rows : {0, 1, 37})
      for (index_t columns : {0, 1, 15, 16, 17}) {
        array<T> logs(rows, columns, columns + i % 2, 1);
        array<A> rates(rows, columns, columns + 3);
        logs.normal(3, 2);
        moe::decay_rates<T>(s, logs.mat(), rates.mat());
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < columns; ++c) {
            CHECK(rates(r, c) == -moe::exp_scalar(static_cast<A>(logs(r, c))));
            CHECK(std::abs(double(rates(r, c)) + std::exp(double(logs(r, c)))) <= 4e-7 * std::exp(double(logs(r, c))));
          }
      }
  });
}

TEST_CASE_TEMPLATE("decay_rates_backward: adds the product with the rate", A, float, double) {
  for_each_execution([](space const& s, int) {
    array<A> rate(5, 17, 19), d_rate(5, 17), d_log(5, 17, 18, 1);
    rate.normal(1), d_rate.normal(2), d_log.normal(3);
    auto const before = d_log;
    moe::decay_rates_backward<A>(s, rate.mat(), d_rate.mat(), d_log.mat());
    for (index_t r = 0; r < 5; ++r)
      for (index_t c = 0; c < 17; ++c) CHECK(d_log(r, c) == moe::madd(d_rate(r, c), rate(r, c), before(r, c)));
  });
}

TEST_CASE("decay_rates: the gradient is that of the formula; NaN and the ends of the range stay visible") {
  array<double> logs(2, 3), rates(2, 3), c(2, 3), d(2, 3);
  logs.normal(1), c.normal(2), d.fill(0);
  auto const loss = [&] {
    moe::decay_rates<double>(on(), logs.mat(), rates.mat());
    double sum = 0;
    for (int i = 0; i < 6; ++i) sum += c.data()[i] * rates.data()[i];
    return sum;
  };
  loss();
  moe::decay_rates_backward<double>(on(), rates.mat(), c.mat(), d.mat());
  check_gradient("log_rate", loss, logs.data(), 6, d.values());
  logs(0, 0) = quiet_nan<double>(), logs(0, 1) = 1000, logs(0, 2) = -1000;
  loss();
  CHECK(std::isnan(rates(0, 0)));
  CHECK(rates(0, 1) == -std::numeric_limits<double>::infinity());
  CHECK(rates(0, 2) == 0);
}

TEST_CASE("decay_rates: other shapes are refused") {
  array<float> a(2, 3), b(2, 4);
  CHECK(error_of([&] { moe::decay_rates<float>(on(), a.mat(), b.mat()); }) == "decay_rates: log_rate is [2, 3], needs [2, 4]");
  CHECK(error_of([&] { moe::decay_rates_backward<float>(on(), b.mat(), a.mat(), a.mat()); }) == "decay_rates_backward: rate is [2, 4], needs [2, 3]");
  CHECK(error_of([&] { moe::decay_rates_backward<float>(on(), a.mat(), b.mat(), a.mat()); }) ==
        "decay_rates_backward: d_rate is [2, 4], needs [2, 3]");
}
