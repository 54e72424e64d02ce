#include <moe/routing/load.hpp>

#include <moe/routing/biased_topk.hpp>

#include "test/support.hpp"

namespace {
using moe::dyn;
using moe::index_t;

moe::load_summary summary(std::vector<index_t> const& counts) {
  return moe::summary_of(moe::vec(counts.data(), static_cast<index_t>(counts.size())));
}
}  // namespace

TEST_CASE("summary_of: by hand") {
  auto const s = summary({2, 1, 3, 0, 2});
  CHECK((s.total == 8 && s.smallest == 0 && s.largest == 3 && s.dead == 1));
  CHECK(std::abs(s.max_violation - 0.875) <= 1e-15);
  CHECK(std::abs(s.entropy - (2 * 0.25 * std::log(4.0) + 0.125 * std::log(8.0) - 0.375 * std::log(0.375))) <= 1e-15);
}

TEST_CASE("summary_of: edges") {
  auto const none = summary({});
  CHECK((none.total == 0 && none.smallest == 0 && none.largest == 0 && none.dead == 0 && none.max_violation == 0 && none.entropy == 0));
  auto const idle = summary({0, 0, 0});
  CHECK((idle.total == 0 && idle.smallest == 0 && idle.largest == 0 && idle.dead == 3 && idle.max_violation == 0 && idle.entropy == 0));
  auto const one = summary({7});
  CHECK((one.total == 7 && one.smallest == 7 && one.largest == 7 && one.dead == 0 && one.max_violation == 0 && one.entropy == 0));
  auto const even = summary({3, 3, 3, 3});
  CHECK((even.smallest == 3 && even.largest == 3 && even.dead == 0 && even.max_violation == 0));
  CHECK(std::abs(even.entropy - std::log(4.0)) <= 1e-15);
  auto const all = summary({0, 9, 0, 0});
  CHECK((all.smallest == 0 && all.largest == 9 && all.dead == 3 && all.max_violation == 3 && all.entropy == 0));
  CHECK(summary({5, 2, 2}).smallest == 2);
  CHECK(summary({2, 5, 0}).smallest == 0);
}

TEST_CASE("summary_of: what a router chose, counted by hand, with ties and NaN") {
  constexpr index_t experts = 6;
  constexpr moe::biased_topk_config C{.k = 2};
  for (index_t tokens : {0, 1, 40}) {
    test::array<float> logits(tokens, experts), w(tokens, 2);
    test::array<int> e(tokens, 2);
    logits.integers(3, 1);  // full of ties
    for (index_t t = 0; t < tokens; t += 3) logits(t, t % experts) = test::quiet_nan<float>();
    moe::biased_topk<C>(moe::cpu{}, logits.mat(), {}, moe::tensor<float, dyn, 2>(w.mat()), moe::tensor<int, dyn, 2>(e.mat()));
    std::vector<index_t> counts(experts);
    for (int id : e.values()) ++counts[std::size_t(id)];
    auto const s = summary(counts);
    index_t dead = 0, largest = 0, smallest = 2 * tokens;
    for (index_t n : counts) dead += n == 0 ? 1 : 0, largest = n > largest ? n : largest, smallest = n < smallest ? n : smallest;
    CHECK((s.total == 2 * tokens && s.dead == dead && s.largest == largest && s.smallest == smallest));
    CHECK(s.max_violation == (tokens == 0 ? 0 : double(largest) * experts / double(2 * tokens) - 1));
  }
}

TEST_CASE("summary_of: wrong arguments") {
  using test::contains;
  CHECK(contains(test::error_of([] { summary({1, -1}); }), "summary_of: load[1] is -1"));
  constexpr index_t most = std::numeric_limits<index_t>::max();
  CHECK(contains(test::error_of([] { summary({most, 1}); }), "summary_of: loads add up to more than 64 bits hold, at entry 1"));
  CHECK(summary({most - 1, 1}).total == most);
}
