#include <moe/routing/selection_bias.hpp>

#include <algorithm>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::index_t;

template <class T>
void update(test::array<index_t>& load, double rate, test::array<T>& bias, test::space const& space = test::on()) {
  moe::update_selection_bias(space, load.vec(), rate, bias.vec());
}
}  // namespace

TEST_CASE_TEMPLATE("update_selection_bias: moves against the load, and forgets it", T, float, double) {
  test::array<index_t> load(3);
  test::array<T> bias(3);
  bias.fill(T(0));
  for (int step = 1; step <= 3; ++step) {
    load(0) = 2, load(1) = 1, load(2) = 3;
    update(load, 0.001, bias);
    CHECK(load.values() == std::vector<index_t>{0, 0, 0});
    CHECK(bias(0) == T(0));
    CHECK(std::abs(double(bias(1)) - step * 0.001) <= 1e-9);
    CHECK(std::abs(double(bias(2)) + step * 0.001) <= 1e-9);
  }
}

TEST_CASE_TEMPLATE("update_selection_bias: whole numbers around a mean that is none", T, float, double, bf16) {
  for (index_t experts : {1, 2, 3, 7, 31, 32, 33, 70}) {
    CAPTURE(experts);
    test::array<index_t> load(experts);
    test::array<T> bias(experts);
    for (int seed = 0; seed < 20; ++seed) {
      moe::random_stream const random{std::uint64_t(seed), moe::random_purpose::test, 0};
      index_t total = 0;
      for (index_t e = 0; e < experts; ++e) total += load(e) = index_t(random.below(std::uint64_t(e), 4));
      bias.integers(std::uint64_t(seed));
      auto const before = bias.values();
      auto const loads = load.values();
      update(load, 0.5, bias);
      for (index_t e = 0; e < experts; ++e) {
        auto const u = std::size_t(e);
        index_t const excess = loads[u] * experts - total;
        CHECK(float(bias(e)) == float(before[u]) + (excess < 0 ? 0.5f : excess > 0 ? -0.5f : 0.0f));
        CHECK(load(e) == 0);
      }
    }
  }
}

TEST_CASE("update_selection_bias: edges") {
  test::array<index_t> load(4), none(0), one(1);
  test::array<float> bias({1, 2, -3, 0}, 4, 1), no(0), single(1);
  auto const before = bias.values();
  load.fill(0);
  update(load, 0.01, bias);  // no tokens
  load.fill(5);
  update(load, 0.01, bias);  // equal loads
  CHECK(test::same_bits(before, bias.values()));
  load(1) = 9;
  update(load, 0.0, bias);  // only forgets
  CHECK(test::same_bits(before, bias.values()));
  CHECK(load.values() == std::vector<index_t>{0, 0, 0, 0});
  update(none, 0.01, no);
  one(0) = 12, single(0) = 3;
  update(one, 0.01, single);
  CHECK((single(0) == 3 && one(0) == 0));
  constexpr index_t huge = std::numeric_limits<index_t>::max() / 4;  // products with the number of experts would not fit
  load.fill(huge), load(2) = huge - 1, load(3) = 7;
  bias.fill(0), bias(3) = test::quiet_nan<float>();
  update(load, 0.5, bias);
  CHECK((bias(0) == -0.5f && bias(1) == -0.5f && bias(2) == -0.5f && std::isnan(bias(3))));
}

TEST_CASE("update_selection_bias: the same bits for every execution") {
  constexpr index_t experts = 130;
  std::vector<float> first;
  test::for_each_execution([&](test::space const& space, int i) {
    test::array<index_t> load(experts);
    test::array<float> bias(experts);
    for (index_t e = 0; e < experts; ++e) load(e) = e * e % 17;
    bias.normal(1);
    update(load, 0.001, bias, space);
    if (i == 0) first = bias.values();
    CHECK(test::same_bits(first, bias.values()));
    for (index_t x : load.values()) CHECK(x == 0);
  });
}

TEST_CASE("update_selection_bias: wrong arguments") {
  using test::contains;
  test::array<index_t> load(3), other(4);
  test::array<float> bias(3);
  load.fill(1), other.fill(1), bias.fill(0);
  auto const message = [&](test::array<index_t>& l, double rate) { return test::error_of([&] { update(l, rate, bias); }); };
  CHECK(contains(message(other, 0.1), "update_selection_bias: load has 4 entries, bias has 3"));
  CHECK(contains(message(load, -0.1), "update_selection_bias: rate is -0.1, needs to be finite and not negative"));
  CHECK(contains(message(load, std::numeric_limits<double>::quiet_NaN()), "rate is nan"));
  CHECK(contains(message(load, std::numeric_limits<double>::infinity()), "rate is inf"));
  if constexpr (test::on_cuda) return;  // no look at device memory
  load(1) = -2;
  CHECK(contains(message(load, 0.1), "update_selection_bias: load[1] is -2"));
  load(0) = load(1) = std::numeric_limits<index_t>::max();
  CHECK(contains(message(load, 0.1), "update_selection_bias: loads add up to more than 64 bits hold, at entry 1"));
  CHECK((load(2) == 1 && bias(0) == 0));
}
