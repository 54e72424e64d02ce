#include <moe/routing/dispatch_plan.hpp>

#include <algorithm>

#include "test/routing/planned.hpp"

namespace {
using moe::index_t;
using test::planned;
using test::random_experts;

template <class T>
std::vector<T> list(moe::vector_view<T> v) {
  return {v.data(), v.data() + v.size()};
}

/// The contract word by word: for each expert all choices in slot order.
void check_plan(test::array<int> const& expert, index_t experts, index_t capacity, moe::dispatch_plan const& plan) {
  index_t const k = expert.columns(), slots = expert.rows() * k;
  std::vector<int> slot, token, position(std::size_t(slots), -1);
  std::vector<index_t> counts, offsets{0};
  index_t choices = 0;
  for (int e = 0; e < experts; ++e) {
    index_t count = 0;
    for (index_t s = 0; s < slots; ++s) {
      if (expert(s / k, s % k) != e) continue;
      if (++count > capacity && capacity > 0) continue;
      position[std::size_t(s)] = int(slot.size());
      slot.push_back(int(s)), token.push_back(int(s / k));
    }
    counts.push_back(count), offsets.push_back(index_t(slot.size())), choices += count;
  }
  CHECK(plan.rows() == index_t(slot.size()));
  CHECK(plan.dropped() == choices - index_t(slot.size()));
  slot.resize(std::size_t(slots), -1), token.resize(std::size_t(slots), -1);
  CHECK(list(plan.counts) == counts);
  CHECK(list(plan.offsets) == offsets);
  CHECK(list(plan.slot) == slot);
  CHECK(list(plan.token) == token);
  CHECK(list(plan.position) == position);
}
}  // namespace

TEST_CASE("make_dispatch: the published example") {
  test::array<int> const choices({2, 0, 0, 1, 2, 1, 0, 2, 0, 2}, 5, 2);
  planned const dropless(choices, 3, 0);
  CHECK(list(dropless.plan.slot) == std::vector<int>{1, 2, 6, 8, 3, 5, 0, 4, 7, 9});
  CHECK(list(dropless.plan.token) == std::vector<int>{0, 1, 3, 4, 1, 2, 0, 2, 3, 4});
  CHECK(list(dropless.plan.counts) == std::vector<index_t>{4, 2, 4});
  CHECK(list(dropless.plan.offsets) == std::vector<index_t>{0, 4, 6, 10});
  planned const capped(choices, 3, 3);
  CHECK(list(capped.plan.counts) == std::vector<index_t>{4, 2, 4});
  CHECK(list(capped.plan.offsets) == std::vector<index_t>{0, 3, 5, 8});
  CHECK(capped.plan.dropped() == 2);
  CHECK(capped.plan.position(8) == -1);
  CHECK(capped.plan.position(9) == -1);
  CHECK(list(capped.plan.slot) == std::vector<int>{1, 2, 6, 3, 5, 0, 4, 7, -1, -1});
}

TEST_CASE("make_dispatch: agrees with a search, for every execution") {
  struct {
    index_t tokens, k, experts, capacity;
  } const cases[] = {{0, 2, 5, 0},   {1, 1, 1, 0},      {1, 3, 64, 0},   {50, 2, 7, 0},     {50, 2, 7, 5},   {100, 4, 3, 1},    {30, 1, 1, 7},
                     {0, 2, 0, 0},   {7, 0, 4, 0},      {5, 2, 40, 0},   {65, 6, 9, 40},    {63, 4, 520, 0}, {130, 1, 1100, 1}, {200, 5, 33, 0},
                     {64, 20, 3, 0}, {2047, 2, 9, 200}, {2048, 2, 9, 0}, {2049, 2, 9, 455}, {6200, 3, 5, 0}};
  for (auto const& c : cases)
    test::for_each_execution([&](test::space const& space, int i) {
      if (test::on_cuda && c.tokens > 2000 && i > 0) return;
      CAPTURE(c.tokens);
      CAPTURE(c.k);
      CAPTURE(c.experts);
      CAPTURE(c.capacity);
      CAPTURE(i);
      auto const expert = random_experts(c.tokens, c.k, std::max<index_t>(c.experts, 1), 5);
      check_plan(expert, c.experts, c.capacity, planned(expert, c.experts, c.capacity, space).plan);
    });
  test::array<int> one(300, 2);
  one.fill(3);  // one expert with everything, the same expert twice in a row
  check_plan(one, 6, 0, planned(one, 6, 0).plan);
  check_plan(one, 6, 100, planned(one, 6, 100).plan);
}

TEST_CASE("make_dispatch: -1 is no choice: no row, counted nowhere, and not dropped") {
  struct {
    index_t tokens, k, experts, capacity;
  } const cases[] = {{3, 1, 2, 0},  {70, 2, 5, 0},  {70, 2, 5, 9},  {40, 15, 7, 0},  {40, 16, 7, 0},   {40, 17, 20, 3},
                     {33, 8, 8, 0}, {33, 64, 64, 5}, {9, 71, 40, 0}, {5000, 3, 4, 0}, {4097, 17, 17, 20}, {64, 4, 1, 0}};
  for (auto const& c : cases)
    for (std::uint64_t one_in : {2, 20})
      test::for_each_execution([&](test::space const& space, int i) {
        if (test::on_cuda && (c.tokens > 2000 || (i > 0 && c.k > 20))) return;
        CAPTURE(c.tokens);
        CAPTURE(c.k);
        CAPTURE(one_in);
        auto expert = random_experts(c.tokens, c.k, c.experts, 6);
        moe::random_stream const random{7};
        for (index_t s = 0; s < c.tokens * c.k; ++s)
          if (random.below(std::uint64_t(s), one_in) != 0) expert(s / c.k, s % c.k) = -1;
        check_plan(expert, c.experts, c.capacity, planned(expert, c.experts, c.capacity, space).plan);
      });
  for (index_t k : {2, 40}) {
    test::array<int> none(30, k);
    none.fill(-1);
    check_plan(none, 3, 0, planned(none, 3, 0).plan);
    check_plan(none, 0, 4, planned(none, 0, 4).plan);
  }
}

TEST_CASE("make_dispatch: where ids cannot be checked, one out of range is dropped and counted nowhere") {
  if constexpr (!test::on_cuda) return;  // elsewhere an error, below
  auto expert = random_experts(70, 3, 5, 1);
  for (index_t t : {0, 31, 64, 69}) expert(t, 1) = t == 31 ? -1 : t == 64 ? std::numeric_limits<int>::max() : 5;
  check_plan(expert, 5, 0, planned(expert, 5, 0).plan);
  check_plan(expert, 5, 30, planned(expert, 5, 30).plan);
  expert.fill(-7);
  check_plan(expert, 5, 0, planned(expert, 5, 0).plan);
}

TEST_CASE("make_dispatch: one id out of range is found wherever it stands, its rows together or apart") {
  if constexpr (test::on_cuda) return;
  constexpr index_t tokens = 19, k = 3, experts = 7;
  test::scratch scratch(1 << 16);
  planned const p(tokens, k, experts);
  for (index_t stride : {k, k + 2})
    for (index_t s = 0; s < tokens * k; ++s)
      for (int id : {-2, 7, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) {
        test::array<int> e(tokens, k, stride);
        e.fill(6), e(s / k, s % k) = id;
        auto const message = test::error_of([&] {
          auto a = scratch.get();
          moe::make_dispatch(test::on(), e.mat(), 0, p.plan, a);
        });
        CHECK(test::contains(message, "expert[" + std::to_string(s / k) + ", " + std::to_string(s % k) + "] = " + std::to_string(id)));
      }
}

TEST_CASE("make_dispatch: wrong arguments") {
  using test::contains;
  using test::error_of;
  auto const space = test::on();
  test::scratch scratch(1 << 16);
  auto const make = [&](test::array<int> const& e, index_t capacity, moe::dispatch_plan const& plan) {
    return error_of([&] {
      auto a = scratch.get();
      moe::make_dispatch(space, e.mat(), capacity, plan, a);
    });
  };
  planned const p(3, 2, 4), wrong(3, 1, 4);
  test::array<int> e(3, 2);
  e.fill(3);
  CHECK(contains(make(e, -1, p.plan), "make_dispatch: capacity is -1"));
  CHECK(contains(make(e, 0, wrong.plan), "make_dispatch: plan is for 1 choices per token, there are 2"));
  CHECK(contains(make(e, 0, planned(2, 2, 4).plan), "make_dispatch: plan is for 4 choices, there are 6"));
  CHECK(contains(make(e, 0, planned(2, 3, 4).plan), "make_dispatch: plan is for 3 choices per token, there are 2"));  // as many, but other tokens
  auto other = p.plan;
  other.offsets = moe::vec(p.plan.offsets.data(), 4);
  CHECK(contains(make(e, 0, other), "make_dispatch: plan.offsets has 4 entries for 4 experts"));
  for (int id : {-2, 4}) {
    e(1, 1) = id;
    auto const message = "make_dispatch: expert[1, 1] = " + std::to_string(id) + ", needs to be in [-1, 4)";
    if constexpr (!test::on_cuda) CHECK(contains(make(e, 0, p.plan), message));
  }
  CHECK(list(p.plan.position) == std::vector<int>(6, int(0xa5a5a5a5)));  // nothing was written
  int one = 0;
  CHECK(contains(error_of([&] {
                   auto a = scratch.get();
                   moe::make_dispatch(space, moe::mat(&one, index_t{1} << 31, 1), 0, p.plan, a);
                 }),
                 "choices can be numbered"));
  e(1, 1) = 0;
  moe::arena none(&one, 0);
  CHECK(contains(error_of([&] { moe::make_dispatch(space, e.mat(), 0, p.plan, none); }), "make_dispatch: scratch has 0 bytes left"));
  REQUIRE(make(e, 0, p.plan).empty());
}
