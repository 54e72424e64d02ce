#include <moe/optim/schedule.hpp>

#include <test/support.hpp>

using moe::warmup_cosine;

TEST_CASE("warmup_cosine: reference values") {
  warmup_cosine const s{1.0, 10, 100, 0.1};
  CHECK(s.at(0) == 0);
  CHECK(s.at(5) == 0.5);
  CHECK(s.at(10) == 1.0);
  CHECK(s.at(55) == doctest::Approx(0.55).epsilon(1e-15));
  CHECK(s.at(100) == 0.1);
  CHECK(s.at(101) == 0.1);
  CHECK(s.at(std::int64_t{1} << 62) == 0.1);
  warmup_cosine const quarter{2.0, 0, 4, 0.0};
  double const expected[] = {2.0, 1 + std::sqrt(0.5), 1.0, 1 - std::sqrt(0.5), 0.0};
  for (int t = 0; t <= 4; ++t) CHECK(std::abs(quarter.at(t) - expected[t]) <= 1e-15);
}

TEST_CASE("warmup_cosine: rises to the peak, then falls to the floor, each step a little") {
  warmup_cosine const s{3e-3, 37, 1000, 3e-4};
  for (int t = 1; t <= 37; ++t) CHECK(s.at(t) > s.at(t - 1));
  for (int t = 38; t <= 1000; ++t) {
    CHECK(s.at(t) < s.at(t - 1));
    CHECK(s.at(t - 1) - s.at(t) <= (3e-3 - 3e-4) * 0.5 * 3.1416 / 963);
  }
  CHECK(s.at(1) == 3e-3 * (1.0 / 37));
  CHECK((s.peak() == 3e-3 && s.floor() == 3e-4 && s.warmup() == 37 && s.total() == 1000));
}

TEST_CASE("warmup_cosine: the smallest run, and a constant rate") {
  warmup_cosine const one{1.0, 0, 1, 0.25};
  CHECK(one.at(0) == 1.0);
  CHECK(one.at(1) == 0.25);
  warmup_cosine const constant{0.5, 0, 10, 0.5};
  for (int t = 0; t < 12; ++t) CHECK(constant.at(t) == 0.5);
  warmup_cosine const nothing{0, 1, 10, 0};
  for (int t = 0; t < 12; ++t) CHECK(nothing.at(t) == 0);
}

TEST_CASE("warmup_cosine: nonsense is refused where it is made") {
  double const nan = test::quiet_nan<double>(), inf = std::numeric_limits<double>::infinity();
  auto const text = [](double peak, test::index_t warmup, test::index_t total, double floor) {
    return test::error_of([&] { warmup_cosine(peak, warmup, total, floor); });
  };
  CHECK(text(1, 0, 0, 0) == "warmup_cosine: total is 0 steps, needs at least 1");
  CHECK(text(1, 0, -3, 0) == "warmup_cosine: total is -3 steps, needs at least 1");
  CHECK(text(1, 101, 100, 0) == "warmup_cosine: warmup is 101 steps, needs to be in [0, total = 100)");
  CHECK(text(1, 100, 100, 0) == "warmup_cosine: warmup is 100 steps, needs to be in [0, total = 100)");
  CHECK(text(1, -1, 100, 0) == "warmup_cosine: warmup is -1 steps, needs to be in [0, total = 100)");
  for (double peak : {nan, inf, -inf, -1.0}) CHECK(test::contains(text(peak, 1, 100, 0), "warmup_cosine: peak is "));
  for (double floor : {nan, inf, -0.1, 1.5}) CHECK(test::contains(text(1, 1, 100, floor), "warmup_cosine: floor is "));
  CHECK(test::error_of([] { (void)warmup_cosine(1, 1, 10, 0).at(-1); }) == "warmup_cosine: step is -1, needs to be at least 0");
  CHECK(text(1, 99, 100, 1).empty());
}

TEST_CASE("any_schedule: another schedule's numbers; the peak where the schedule says it") {
  struct falling {
    std::vector<double> rates;  // not trivial: copies must share or copy it
    double at(test::index_t t) const { return rates[static_cast<std::size_t>(t)]; }
  };
  static_assert(moe::learning_rate_schedule<warmup_cosine> && moe::learning_rate_schedule<falling> && moe::learning_rate_schedule<moe::any_schedule>);
  static_assert(!moe::learning_rate_schedule<double>);
  warmup_cosine const cosine{3e-3, 37, 1000, 3e-4};
  moe::any_schedule any = cosine;
  for (int t = 0; t <= 1001; ++t) CHECK(any.at(t) == cosine.at(t));
  CHECK(any.peak() == 3e-3);
  moe::any_schedule const copy = any;
  any = falling{{3, 2, 1}};
  CHECK((any.at(0) == 3 && any.at(2) == 1 && any.peak() == 0));
  CHECK(copy.at(37) == 3e-3);
  CHECK(test::error_of([&] { (void)copy.at(-1); }) == "warmup_cosine: step is -1, needs to be at least 0");
}
