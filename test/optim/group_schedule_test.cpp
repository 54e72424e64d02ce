#include <moe/optim/group_schedule.hpp>

#include <test/support.hpp>

using moe::group_rate;
using moe::group_schedule;
using moe::parameter_group;
using moe::warmup_cosine;
using test::index_t;

namespace {
/// Schedules that are not the library's: only at(step).
struct constant {
  double lr;
  double at(index_t) const { return lr; }
};
struct frozen_until {
  index_t step;
  warmup_cosine then;
  double at(index_t t) const { return t < step ? 0 : then.at(t); }
};
struct table {
  std::vector<float> rates;
  float at(index_t t) const { return rates.at(static_cast<std::size_t>(t)); }
};

warmup_cosine const base{1e-3, 100, 1000, 1e-4};
}  // namespace

TEST_CASE("group_schedule: all groups are alike at first, bit for bit the schedule") {
  group_schedule const rates(base, 0.1);
  for (auto const g : moe::all_parameter_groups)
    for (index_t t : {0, 1, 50, 100, 101, 777, 1000, 5000}) CHECK(rates.at(g, t) == group_rate{base.at(t), 0.1});
  CHECK(group_schedule(base).at(parameter_group::ffn, 7).weight_decay == 0);
}

TEST_CASE("group_schedule: a scale, a schedule or a weight decay changes one group and no other") {
  constant const own{0.02};
  group_schedule const plain(base, 0.1);
  for (auto const changed : moe::all_parameter_groups) {
    auto const scaled = plain.scaled(changed, 0.3), replaced = plain.with_schedule(changed, own), decayed = plain.with_weight_decay(changed, 0.7);
    for (auto const g : moe::all_parameter_groups)
      for (index_t t : {0, 1, 100, 333, 1000}) {
        bool const same = g != changed;
        CHECK(scaled.at(g, t) == group_rate{same ? base.at(t) : 0.3 * base.at(t), 0.1});
        CHECK(replaced.at(g, t) == group_rate{same ? base.at(t) : 0.02, 0.1});
        CHECK(decayed.at(g, t) == group_rate{base.at(t), same ? 0.1 : 0.7});
        CHECK(plain.at(g, t) == group_rate{base.at(t), 0.1});  // the functions return copies
      }
  }
}

TEST_CASE("group_schedule: any schedule fits, and they can be mixed") {
  auto const rates = group_schedule(constant{0.5})
                         .with_schedule(parameter_group::expert, frozen_until{10, base})
                         .with_schedule(parameter_group::router, table{{0.0f, 0.25f, 0.5f}})
                         .scaled(parameter_group::norm, 0);
  CHECK(rates.at(parameter_group::attention, 3).lr == 0.5);
  CHECK(rates.at(parameter_group::expert, 9).lr == 0);
  CHECK(rates.at(parameter_group::expert, 10).lr == base.at(10));
  CHECK(rates.at(parameter_group::router, 1).lr == 0.25);
  CHECK(rates.at(parameter_group::router, 2).lr == 0.5);
  CHECK(rates.at(parameter_group::norm, 2).lr == 0);  // frozen
}

TEST_CASE("group_schedule: scales multiply, and stay when the schedule is replaced") {
  auto const g = parameter_group::embedding;
  auto const rates = group_schedule(constant{1}).scaled(g, 0.5).scaled(g, 8);
  CHECK(rates.at(g, 1).lr == 4);
  CHECK(rates.with_schedule(g, constant{3}).at(g, 1).lr == 12);
  CHECK(rates.with_schedule(g, constant{3}).scaled(g, 0.25).at(g, 1).lr == 3);
}

TEST_CASE("group_schedule: a copy outlives what it was made of") {
  auto const make = [] {
    table const local{{0.0f, 0.5f}};
    group_schedule const first(local);
    return first.scaled(parameter_group::ffn, 2);
  };
  CHECK(make().at(parameter_group::ffn, 1).lr == 1);
}

TEST_CASE("group_schedule: nonsense is refused where it is made") {
  double const nan = test::quiet_nan<double>(), inf = std::numeric_limits<double>::infinity();
  group_schedule const rates(base, 0.1);
  for (double bad : {nan, inf, -inf, -0.5}) {
    CHECK(test::contains(test::error_of([&] { group_schedule(base, bad); }), "group_schedule: the weight decay of embedding is "));
    CHECK(test::contains(test::error_of([&] { (void)rates.with_weight_decay(parameter_group::ssm, bad); }), "the weight decay of ssm is "));
    CHECK(test::contains(test::error_of([&] { (void)rates.scaled(parameter_group::ffn, bad); }), "group_schedule: the scale of ffn is "));
    CHECK(test::contains(test::error_of([&] { (void)rates.with_schedule(parameter_group::norm, constant{bad}); }),
                         "group_schedule: the learning rate of norm at step 1 is "));
    CHECK(test::contains(test::error_of([&] { group_schedule(constant{bad}); }), "the learning rate of embedding at step 1 is "));
  }
  CHECK_THROWS_AS((void)group_schedule(table{{0.0f}}), std::out_of_range);  // what the schedule itself throws
  CHECK(test::error_of([&] { (void)group_schedule(warmup_cosine(4, 10, 100, 0), 0.5); }) ==
        "group_schedule: the learning rate of embedding peaks at 4, which times its weight decay of 0.5 is 2, needs to be at most 1");
  CHECK(test::contains(test::error_of([&] { (void)rates.scaled(parameter_group::router, 2e4); }), "the learning rate of router peaks at 20"));
  CHECK(test::contains(test::error_of([&] { (void)rates.with_weight_decay(parameter_group::router, 1001); }), "needs to be at most 1"));
  CHECK(test::error_of([&] { (void)rates.scaled(parameter_group::router, 1e4); }).empty());  // exactly 1
  CHECK(test::contains(test::error_of([&] { (void)rates.scaled(static_cast<parameter_group>(10), 1); }), "10 is no group"));
  CHECK(test::contains(test::error_of([&] { (void)rates.at(static_cast<parameter_group>(-1), 1); }), "-1 is no group"));
}

TEST_CASE("group_schedule: a rate that turns into nonsense later is refused when asked for") {
  auto const rates = group_schedule(table{{0.0f, 0.5f, -0.5f, test::quiet_nan<float>()}});
  CHECK(rates.at(parameter_group::norm, 1).lr == 0.5);
  CHECK(test::error_of([&] { (void)rates.at(parameter_group::norm, 2); }) ==
        "group_schedule: the learning rate of norm at step 2 is -0.5, needs to be finite and not negative");
  CHECK(test::contains(test::error_of([&] { (void)rates.at(parameter_group::norm, 3); }), "at step 3 is "));
  CHECK(test::contains(test::error_of([&] { (void)group_schedule(base).at(parameter_group::norm, -1); }), "step is -1"));
}
