#include <moe/routing/expert_choice.hpp>

#include <algorithm>
#include <numeric>

#include "test/support.hpp"

namespace {
using moe::bf16;
using moe::dyn;
using moe::index_t;
using moe::token_groups;

template <class T, index_t E>
struct chosen {
  test::array<T> weight;
  test::array<int> expert;
  chosen(test::array<T> const& logits, token_groups pools, index_t capacity, test::space const& space = test::on())
      : weight(logits.rows(), E, E + 3, 1), expert(logits.rows(), E, E + 1) {
    expert.fill(77);  // an array begins with -1, which is no choice
    test::memory<std::byte> memory(moe::expert_choice_scratch_bytes<T, E>(space, pools), std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    moe::expert_choice<T, E>(space, logits.mat(), pools, capacity, weight.mat(), expert.mat(), scratch);
    space.wait();
  }
};

/// The order of the contract: larger first, NaN above all, then the earlier.
template <class T>
bool ranks_before(T a, index_t i, T b, index_t j) {
  bool const x = a != a, y = b != b;
  if (x != y) return x;
  return x || a == b ? i < j : a > b;
}

/// The choice must be that of a sort of the softmax that the operator itself gives with no limit, and that softmax that of the formula.
template <class T, index_t E>
void check_choice(test::array<T> const& logits, token_groups pools, index_t capacity, test::space const& space = test::on()) {
  using A = moe::accumulator<T>;
  test::array<A> exact(logits.rows(), E);
  for (index_t i = 0; i < exact.size(); ++i) exact.data()[i] = A(logits(i / E, i % E));
  chosen<T, E> const got(logits, pools, capacity, space);
  chosen<A, E> const all(exact, pools, pools.size, space);
  for (index_t t = 0; t < logits.rows(); ++t) {
    double sum = 0;
    for (index_t e = 0; e < E; ++e) sum += std::exp(double(logits(t, e)));
    for (index_t e = 0; e < E; ++e) {
      double const p = std::exp(double(logits(t, e))) / sum;
      REQUIRE(all.expert(t, e) == int(e));
      REQUIRE(std::abs(double(all.weight(t, e)) - p) <= (std::is_same_v<A, float> ? 1e-6 : 1e-14) * p);
    }
  }
  for (index_t pool = 0; pool < pools.count(); ++pool)
    for (index_t e = 0; e < E; ++e) {
      std::vector<index_t> order(std::size_t(pools.size));
      std::iota(order.begin(), order.end(), index_t{0});
      std::sort(order.begin(), order.end(),
                [&](index_t i, index_t j) { return ranks_before(all.weight(pools.row(pool, i), e), i, all.weight(pools.row(pool, j), e), j); });
      for (index_t i = 0; i < pools.size; ++i) {
        index_t const row = pools.row(pool, order[std::size_t(i)]);
        REQUIRE(got.expert(row, e) == (i < capacity ? int(e) : -1));
        T const expected = i < capacity ? T(all.weight(row, e)) : T(0.0f);
        REQUIRE(std::memcmp(&got.weight(row, e), &expected, sizeof(T)) == 0);
      }
    }
}

token_groups pool_of(index_t sequences, index_t length, index_t size) { return moe::groups_of({sequences, length}, size); }
}  // namespace

TEST_CASE_TEMPLATE("expert_choice: the published vector", T, float, double) {
  test::array<T> logits(6, 3);
  for (index_t i = 0; i < 18; ++i) logits.data()[i] = T(2 * std::sin(0.8 * double(i + 1)));
  chosen<T, 3> const c(logits, moe::one_group(6), 2);
  std::vector<index_t> token[3];
  for (index_t t = 0; t < 6; ++t)
    for (index_t e = 0; e < 3; ++e)
      if (c.expert(t, e) >= 0) token[e].push_back(t);
  CHECK(token[0] == std::vector<index_t>{1, 3});
  CHECK(token[1] == std::vector<index_t>{0, 5});
  CHECK(token[2] == std::vector<index_t>{2, 4});
  double const gates[3][2] = {{0.7139597331, 0.6481269461}, {0.4780899158, 0.3964535075}, {0.7598807291, 0.5073247367}};
  for (index_t e = 0; e < 3; ++e) {
    double first = double(c.weight(token[e][0], e)), second = double(c.weight(token[e][1], e));
    if (first < second) std::swap(first, second);
    CHECK(std::abs(first - gates[e][0]) <= (std::is_same_v<T, float> ? 2e-7 : 1e-10));
    CHECK(std::abs(second - gates[e][1]) <= (std::is_same_v<T, float> ? 2e-7 : 1e-10));
  }
}

TEST_CASE_TEMPLATE("expert_choice: agrees with a sort, for every pool and execution", T, float, double, bf16) {
  struct {
    token_groups pools;
    index_t capacity;
  } const cases[] = {{pool_of(1, 1, 1), 1},    {pool_of(8, 3, 8), 1},    {pool_of(8, 5, 4), 2},     {pool_of(34, 2, 17), 3},  {pool_of(16, 2, 16), 16},
                     {pool_of(32, 2, 32), 5},  {pool_of(33, 2, 33), 7},  {pool_of(64, 1, 64), 9},   {pool_of(65, 1, 65), 20}, {moe::one_group(200), 1},
                     {moe::one_group(130), 60}, {pool_of(6, 7, 2), 1},    {moe::one_group(15), 4},   {pool_of(10, 9, 5), 5},   {pool_of(128, 2, 128), 31}};
  for (auto const& c : cases)
    test::for_each_execution([&](test::space const& space, int i) {
      if (test::on_cuda && i > 0 && c.pools.size > 20) return;
      CAPTURE(c.pools.size);
      CAPTURE(c.capacity);
      test::array<T> logits(c.pools.tokens(), 5, 7, 1), wide(c.pools.tokens(), 33, 35);
      logits.normal(3), wide.normal(4);
      check_choice<T, 5>(logits, c.pools, c.capacity, space);
      if (!test::on_cuda) check_choice<T, 33>(wide, c.pools, c.capacity, space);
    });
}

TEST_CASE_TEMPLATE("expert_choice: pools of a whole batch, whose bound comes from a sample that may mislead", T, float, double) {
  index_t const tokens = test::on_cuda ? 1100 : 2100;
  for (int kind = 0; kind < 5; ++kind)
    for (index_t capacity : {index_t{1}, index_t{2}, index_t{66}, tokens / 4, tokens / 2, tokens - 1}) {
      if (test::on_cuda && (capacity == 2 || (kind > 1 && capacity > 70))) continue;
      CAPTURE(kind);
      CAPTURE(capacity);
      test::array<T> logits(tokens, 3);
      logits.normal(std::uint64_t(kind));
      for (index_t t = 0; t < tokens; ++t) {
        index_t const step = tokens / 256, place = t % step;
        if (kind == 1) logits(t, 1) = T(place == step / 2 ? 9 : logits(t, 1));             // the sample sees large ones alone
        if (kind == 2) logits(t, 1) = T(place == step / 2 ? -9 : logits(t, 1));            // and small ones alone
        if (kind == 3) for (index_t e = 0; e < 3; ++e) logits(t, e) = T((t / 7 + e) % 3);  // many ties
        if (kind == 4) logits(t, 0) = T(double(t) * 1e-3);                                 // ascending
      }
      check_choice<T, 3>(logits, moe::one_group(tokens), capacity);
    }
}

TEST_CASE_TEMPLATE("expert_choice: ties go to the earlier member, wherever the rows lie", T, float, bf16) {
  for (token_groups const pools : {pool_of(4, 3, 4), pool_of(40, 2, 20), pool_of(80, 1, 80), moe::one_group(test::on_cuda ? 70 : 700)}) {
    test::array<T> logits(pools.tokens(), 5);
    logits.fill(T(0.5f));
    for (index_t capacity : {index_t{1}, pools.size / 2, pools.size}) {
      chosen<T, 5> const c(logits, pools, capacity);
      for (index_t pool = 0; pool < pools.count(); ++pool)
        for (index_t i = 0; i < pools.size; ++i)
          for (index_t e = 0; e < 5; ++e) {
            CHECK(c.expert(pools.row(pool, i), e) == (i < capacity ? int(e) : -1));
            CHECK(double(c.weight(pools.row(pool, i), e)) == (i < capacity ? double(T(0.2f)) : 0.0));
          }
    }
  }
}

TEST_CASE_TEMPLATE("expert_choice: a row without a softmax is taken, is NaN, and leaves its pool alone", T, float, double, bf16) {
  T const inf = T(std::numeric_limits<float>::infinity()), low = T(-std::numeric_limits<float>::infinity());
  for (token_groups const pools : {pool_of(8, 2, 4), pool_of(80, 2, 80), moe::one_group(test::on_cuda ? 100 : 1000)})
    for (int kind = 0; kind < 3; ++kind) {
      test::array<T> logits(pools.tokens(), 4);
      logits.normal(6);
      for (index_t row : {pools.row(0, 1), pools.row(0, 3)})
        for (index_t e = 0; e < 4; ++e)
          if (kind == 2 || e == 2) logits(row, e) = kind == 0 ? (row == pools.row(0, 1) ? test::quiet_nan<T>() : T(-std::numeric_limits<float>::quiet_NaN())) : kind == 1 ? inf : low;
      chosen<T, 4> const one(logits, pools, 1), three(logits, pools, 3);
      for (index_t e = 0; e < 4; ++e) {
        CHECK(one.expert(pools.row(0, 1), e) == int(e));  // the earlier of two
        CHECK(one.expert(pools.row(0, 3), e) == -1);
        CHECK(std::isnan(double(one.weight(pools.row(0, 1), e))));
        CHECK(std::isnan(double(three.weight(pools.row(0, 3), e))));
      }
      index_t nan = 0, taken = 0;
      for (index_t t = 0; t < logits.rows(); ++t)
        for (index_t e = 0; e < 4; ++e) nan += std::isnan(double(three.weight(t, e))), taken += three.expert(t, e) == int(e);
      CHECK(nan == 8);
      CHECK(taken == 3 * 4 * pools.count());
    }
  test::array<T> some(2, 3);  // -infinity beside finite logits is probability 0
  some.fill(T(1.0f)), some(0, 1) = low;
  chosen<T, 3> const c(some, moe::one_group(2), 2);
  CHECK(double(c.weight(0, 1)) == 0.0);
  CHECK(double(c.weight(0, 0)) == 0.5);
}

TEST_CASE_TEMPLATE("expert_choice: the same bits for every execution; a pool does not depend on the others", T, float, double, bf16) {
  for (token_groups const pools : {pool_of(32, 5, 16), moe::one_group(test::on_cuda ? 300 : 3000)}) {
    test::array<T> logits(pools.tokens(), 19, 20);
    logits.normal(2);
    std::vector<T> weight;
    std::vector<int> expert;
    test::for_each_execution([&](test::space const& space, int i) {
      chosen<T, 19> const c(logits, pools, pools.size / 8, space);
      if (i == 0) weight = c.weight.values(), expert = c.expert.values();
      CHECK(test::same_bits(weight, c.weight.values()));
      CHECK(test::same_bits(expert, c.expert.values()));
    });
  }
  token_groups const pools = pool_of(32, 5, 16);
  test::array<T> logits(pools.tokens(), 19), other(pools.tokens(), 19);
  logits.normal(2), other.normal(3);
  for (index_t m = 0; m < 16; ++m)
    for (index_t e = 0; e < 19; ++e) other(pools.row(7, m), e) = logits(pools.row(7, m), e);
  chosen<T, 19> const a(logits, pools, 2), b(other, pools, 2);
  for (index_t m = 0; m < 16; ++m) {
    index_t const row = pools.row(7, m);
    CHECK(std::memcmp(&a.weight(row), &b.weight(row), 19 * sizeof(T)) == 0);
    CHECK(std::memcmp(&a.expert(row), &b.expert(row), 19 * sizeof(int)) == 0);
  }
}

TEST_CASE("expert_choice: causal, with pools of examples at one position: a later token changes no earlier choice; with the whole batch it does") {
  moe::sequence_shape const shape{8, 6};
  test::array<double> logits(48, 4), changed(48, 4);
  logits.normal(5);
  for (index_t i = 0; i < logits.size(); ++i) changed.data()[i] = logits.data()[i];
  for (index_t s = 0; s < 8; ++s)
    for (index_t p = 4; p < 6; ++p) changed(s * 6 + p, s % 4) += 3;
  auto const earlier_differ = [&](token_groups pools, index_t capacity) {
    chosen<double, 4> const a(logits, pools, capacity), b(changed, pools, capacity);
    index_t n = 0;
    for (index_t s = 0; s < 8; ++s)
      for (index_t p = 0; p < 4; ++p)
        for (index_t e = 0; e < 4; ++e) n += a.expert(s * 6 + p, e) != b.expert(s * 6 + p, e) || a.weight(s * 6 + p, e) != b.weight(s * 6 + p, e);
    return n;
  };
  CHECK(earlier_differ(moe::groups_of(shape, 8), 2) == 0);
  CHECK(earlier_differ(moe::groups_of(shape, 4), 1) == 0);
  CHECK(earlier_differ(moe::one_group(48), 12) > 0);
}

TEST_CASE("expert_choice: gradients agree with finite differences") {
  for (token_groups const pools : {pool_of(4, 2, 4), moe::one_group(8)}) {
    test::array<double> logits(8, 5), c(8, 5), d(8, 5);
    logits.normal(3), c.normal(4);
    auto const space = test::on();
    chosen<double, 5> const picked(logits, pools, 2);
    auto const loss = [&] {
      chosen<double, 5> const all(logits, pools, pools.size);  // the softmax; the choice stays what it was
      double sum = 0;
      for (index_t t = 0; t < 8; ++t)
        for (index_t e = 0; e < 5; ++e)
          if (picked.expert(t, e) >= 0) sum += c(t, e) * all.weight(t, e);
      return sum;
    };
    test::array<double> noise = c;
    for (index_t t = 0; t < 8; ++t)
      for (index_t e = 0; e < 5; ++e)
        if (picked.expert(t, e) < 0) noise(t, e) = test::quiet_nan<double>();  // is not read
    moe::expert_choice_backward<double, 5>(space, logits.mat(), picked.expert.mat(), noise.mat(), d.mat());
    space.wait();
    auto const analytic = d.values();
    test::check_gradient("expert_choice logits", loss, logits.data(), 40, analytic, {.step = 1e-3});
    moe::expert_choice_backward<double, 5>(space, logits.mat(), picked.expert.mat(), noise.mat(), noise.mat());  // in place
    space.wait();
    CHECK(test::same_bits(noise.values(), analytic));
  }
}

TEST_CASE_TEMPLATE("expert_choice_backward: the formula at every width, and the same bits for every execution", T, float, bf16) {
  auto const run = [&]<index_t E>(std::integral_constant<index_t, E>) {
    index_t const tokens = test::on_cuda ? 20 : 150;
    test::array<T> logits(tokens, E, E + 1, 1), c(tokens, E), d(tokens, E, E + 2);
    logits.normal(1), c.normal(2);
    logits(3, 0) = test::quiet_nan<T>();
    chosen<T, E> const picked(logits, moe::one_group(tokens), 7);
    std::vector<T> first;
    test::for_each_execution([&](test::space const& space, int i) {
      moe::expert_choice_backward<T, E>(space, logits.mat(), picked.expert.mat(), c.mat(), d.mat());
      space.wait();
      if (i == 0) first = d.values();
      CHECK(test::same_bits(first, d.values()));
    });
    for (index_t t = 0; t < tokens; ++t) {
      double sum = 0, dot = 0;
      for (index_t e = 0; e < E; ++e) {
        double const x = std::exp(double(logits(t, e)));
        sum += x, dot += picked.expert(t, e) >= 0 ? x * double(c(t, e)) : 0;
      }
      for (index_t e = 0; e < E; ++e) {
        double const expected = std::exp(double(logits(t, e))) / sum * ((picked.expert(t, e) >= 0 ? double(c(t, e)) : 0) - dot / sum);
        if (t == 3) CHECK(std::isnan(double(d(t, e))));
        else CHECK(std::abs(double(d(t, e)) - expected) <= (std::is_same_v<T, bf16> ? 5e-3 : 2e-6) * std::max(std::abs(expected), 0.05));
      }
    }
  };
  run(std::integral_constant<index_t, 1>());
  run(std::integral_constant<index_t, 7>());
  run(std::integral_constant<index_t, 16>());
  run(std::integral_constant<index_t, 37>());
}

#if defined(MOE_TEST_CUDA)
TEST_CASE("expert_choice: a warp and a block choose the same, also when a grid is cut to one block") {
  namespace d = moe::detail;
  token_groups const pools = pool_of(90, 3, 90);
  test::array<float> logits(270, 4), weight(270, 4);
  test::array<int> expert(270, 4);
  for (index_t i = 0; i < logits.size(); ++i) logits.data()[i] = float(i * i % 11);
  auto const space = test::on();
  chosen<float, 4> const by_warps(logits, pools, 25);
  test::scratch memory(1 << 20);
  auto a = memory.get();
  moe::expert_choice<float, 4, moe::expert_choice_tuning{.small_pool = 16}>(space, logits.mat(), pools, 25, weight.mat(), expert.mat(), a);
  space.wait();
  CHECK(test::same_bits(weight.values(), by_warps.weight.values()));
  CHECK(test::same_bits(expert.values(), by_warps.expert.values()));
  d::cuda_expert_choice_scratch<float> const s(a, pools, 4);
  for (index_t i = 0; i < s.score.size(); ++i) s.score.data()[i] = int(i * 7 % 13);
  test::array<int> least(12), last(12), cut_least(12), cut_last(12);
  test::for_each_execution([&](test::space const& order, int) {
    for (auto const& [blocks, from, to] : {std::tuple(index_t{12}, &least, &last), std::tuple(index_t{1}, &cut_least, &cut_last)})
      moe::launch("test", d::choose_kernel<int>, {blocks, d::choice_threads, sizeof(d::choice_layout)}, order,
                  moe::matrix_view<int const>(s.score), from->vec(), to->vec(), 25);
    order.wait();
    CHECK(test::same_bits(least.values(), cut_least.values()));
    CHECK(test::same_bits(last.values(), cut_last.values()));
  });
}
#endif

TEST_CASE("expert_choice: no tokens, and wrong arguments") {
  using test::contains;
  using test::error_of;
  test::array<float> none(0, 3), logits(6, 3), weight(6, 3), wide(6, 4);
  test::array<int> expert(6, 3), few(5, 3);
  logits.fill(0), wide.fill(0);
  chosen<float, 3> const nothing(none, moe::one_group(0), 0);
  auto const space = test::on();
  moe::expert_choice_backward<float, 3>(space, none.mat(), test::array<int>(0, 3).mat(), none.mat(), none.mat());
  auto const run = [&](moe::matrix_view<float const> x, token_groups pools, index_t capacity, test::array<int>& ids, std::size_t bytes = 1 << 20) {
    return error_of([&] {
      test::scratch memory(bytes);
      auto a = memory.get();
      moe::expert_choice<float, 3>(space, x, pools, capacity, weight.mat(), ids.mat(), a);
    });
  };
  CHECK(contains(run(wide.mat(), moe::one_group(6), 2, expert), "expert_choice: logits is [6, 4], needs [6, 3]"));
  CHECK(contains(run(logits.mat(), moe::one_group(5), 2, expert), "expert_choice: pools of 5 tokens, logits has 6 rows"));
  CHECK(contains(run(logits.mat(), token_groups{3, 2, 2}, 1, expert), "expert_choice: 3 sequences do not make whole pools of 2"));
  for (index_t capacity : {-1, 0, 4})
    CHECK(contains(run(logits.mat(), pool_of(3, 2, 3), capacity, expert), "expert_choice: capacity is " + std::to_string(capacity)));
  CHECK(contains(run(logits.mat(), moe::one_group(6), 2, few), "expert_choice: expert is [5, 3], needs [6, 3]"));
  CHECK(contains(run(logits.mat(), moe::one_group(6), 2, expert, 0), "expert_choice: scratch has 0 bytes left"));
  for (int x : expert.values()) CHECK(x == -1);  // as it was poisoned
  for (float x : weight.values()) CHECK(std::isnan(x));
  CHECK(contains(error_of([&] { moe::expert_choice_backward<float, 3>(space, logits.mat(), expert.mat(), weight.mat(), wide.mat()); }),
                 "expert_choice_backward: d_logits is [6, 4], needs [6, 3]"));
}
