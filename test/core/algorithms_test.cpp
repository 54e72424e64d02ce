#include <moe/core/algorithms.hpp>

#include <test/support.hpp>

using namespace test;
using moe::sort_direction;

namespace {
constexpr sort_direction up = sort_direction::ascending, down = sort_direction::descending;

template <class T>
bool is_nan(T x) {
  return x != x;
}
/// The words of the contract: a before b in ascending order.
template <class T>
bool below(T a, T b) {
  return is_nan(b) ? !is_nan(a) : a < b;
}
/// Keys with many ties and everything special that T has.
template <class T>
void mixed(array<T>& x, std::uint64_t seed) {
  moe::random_stream const random{seed, moe::random_purpose::test, 3};
  for (index_t r = 0; r < x.rows(); ++r)
    for (index_t c = 0; c < x.columns(); ++c) {
      auto const i = static_cast<std::uint64_t>(r * x.columns() + c);
      int const kind = static_cast<int>(random.below(2 * i, 12)), small = static_cast<int>(random.below(2 * i + 1, 5)) - 2;
      if constexpr (std::is_integral_v<T>) {
        x(r, c) = kind == 0 ? std::numeric_limits<T>::max() : kind == 1 ? std::numeric_limits<T>::lowest() : static_cast<T>(small);
      } else {
        float const inf = std::numeric_limits<float>::infinity(), special[] = {inf, -inf, -0.0f, 0.0f, 1e-30f, -1e-30f, 3e38f};
        x(r, c) = kind == 7   ? quiet_nan<T>()
                  : kind == 8 ? T(-static_cast<float>(quiet_nan<T>()))
                  : kind < 7  ? T(special[kind])
                              : T(static_cast<float>(small));
      }
    }
}
template <class T, class P>
void check_argsort(space const& s, array<T>& x, array<P>& position, sort_direction direction, moe::arena memory) {
  moe::argsort(s, moe::matrix_view<T const>(x.mat()), position.mat(), direction, memory);
  for (index_t r = 0; r < x.rows(); ++r) {
    std::vector<int> seen(static_cast<std::size_t>(x.columns()));
    bool ordered = true;
    for (index_t j = 0; j < x.columns(); ++j) {
      index_t const p = position(r, j);
      REQUIRE((p >= 0 && p < x.columns()));
      ++seen[static_cast<std::size_t>(p)];
      if (j == 0) continue;
      index_t const q = position(r, j - 1);
      T const a = direction == up ? x(r, q) : x(r, p), b = direction == up ? x(r, p) : x(r, q);
      ordered = ordered && (below(a, b) || (!below(b, a) && q < p));
    }
    CHECK(ordered);
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
}
template <class F>
memory<std::byte> scratch_of(F const& bytes) {
  return memory<std::byte>(bytes(on()), std::byte{0xff});
}
}  // namespace

TEST_CASE_TEMPLATE("argsort: every row in order, ties by column, strided", T, float, double, bf16, int, std::uint32_t, index_t) {
  for_each_execution([](space const& s, int i) {
    for (index_t rows : {0, 1, 2, 5, 33})
      for (index_t columns : {0, 1, 2, 31, 200}) {
        array<T> x(rows, columns, columns + i % 3, i % 2);
        mixed(x, static_cast<std::uint64_t>(10 * rows + columns));
        auto m = scratch_of([&](space const& w) { return moe::argsort_scratch_bytes<T>(w, rows, columns); });
        auto wide = scratch_of([&](space const& w) { return moe::argsort_scratch_bytes<T, index_t>(w, rows, columns); });
        array<int> position(rows, columns, columns + 2, 1);
        array<index_t> wide_position(rows, columns);
        check_argsort(s, x, position, i % 2 == 0 ? up : down, moe::arena(m.data(), m.size()));
        check_argsort(s, x, wide_position, i % 2 == 0 ? down : up, moe::arena(wide.data(), wide.size()));
      }
  });
}

TEST_CASE("argsort: the order of NaN, infinities and zeros, spelt out") {
  float const nan = quiet_nan<float>(), inf = std::numeric_limits<float>::infinity();
  array<float> x({0.0f, nan, -inf, -0.0f, inf, -nan, -1.0f, 0.0f}, 1, 8);
  array<int> position(1, 8);
  auto m = scratch_of([](space const& s) { return moe::argsort_scratch_bytes<float>(s, 1, 8); });
  moe::arena a(m.data(), m.size());
  moe::argsort(on(), x.mat(), position.mat(), up, a);
  CHECK(position.values() == std::vector<int>{2, 6, 0, 3, 7, 4, 1, 5});
  moe::argsort(on(), x.mat(), position.mat(), down, a);
  CHECK(position.values() == std::vector<int>{1, 5, 4, 0, 3, 7, 6, 2});
}

TEST_CASE_TEMPLATE("sort_pairs: keys keep their bits, values follow, equal keys keep their order", T, float, double, bf16, int) {
  for_each_execution([](space const& s, int i) {
    for (index_t n : {0, 1, 2, 257}) {
      array<T> x(n), sorted(n);
      array<int> value(n), sorted_value(n);
      mixed(x, static_cast<std::uint64_t>(n));
      for (index_t j = 0; j < n; ++j) value(j) = static_cast<int>(1000 + j);
      auto m = scratch_of([&](space const& w) { return moe::sort_pairs_scratch_bytes<T>(w, n); });
      moe::arena a(m.data(), m.size());
      moe::sort_pairs<T, int>(s, x.vec(), value.vec(), sorted.vec(), sorted_value.vec(), i % 2 == 0 ? up : down, a);
      std::vector<T> expected;
      for (index_t j = 0; j < n; ++j) expected.push_back(x(sorted_value(j) - 1000));
      CHECK(same_bits(sorted.values(), expected));
      std::vector<int> order;
      for (index_t j = 0; j < n; ++j) order.push_back(static_cast<int>(j));
      std::stable_sort(order.begin(), order.end(), [&](int p, int q) { return i % 2 == 0 ? below(x(p), x(q)) : below(x(q), x(p)); });
      for (index_t j = 0; j < n; ++j) CHECK(sorted_value(j) == 1000 + order[static_cast<std::size_t>(j)]);
    }
  });
}

TEST_CASE_TEMPLATE("select_flagged: the places of all flags in order; what lies behind them stays", F, int, unsigned char, index_t) {
  for_each_execution([](space const& s, int) {
    for (index_t n : {0, 1, 2, 63, 300})
      for (int every : {0, 1, 3}) {
        array<F> flag(n);
        array<int> position(n);
        array<index_t> count(1);
        std::vector<int> expected;
        for (index_t i = 0; i < n; ++i) {
          bool const on = every != 0 && i % every == 0;
          flag(i) = on ? static_cast<F>(i % 2 == 0 ? 4 : 1) : F(0);
          if (on) expected.push_back(static_cast<int>(i));
        }
        auto m = scratch_of([&](space const& w) { return moe::select_flagged_scratch_bytes<F>(w, n); });
        moe::arena a(m.data(), m.size());
        moe::select_flagged(s, flag.vec(), position.vec(), moe::view<1>(count.data(), 1), a);
        s.wait();
        CHECK(count(0) == static_cast<index_t>(expected.size()));
        while (static_cast<index_t>(expected.size()) < n) expected.push_back(-1);
        CHECK(position.values() == expected);
      }
  });
}

TEST_CASE_TEMPLATE("exclusive_sum: counts become offsets, in 64 bits, with the total behind them", T, int, index_t, unsigned char) {
  for_each_execution([](space const& s, int) {
    for (index_t n : {0, 1, 2, 300}) {
      array<T> x(n);
      array<index_t> sum(n + 1);
      std::vector<index_t> expected{0};
      for (index_t i = 0; i < n; ++i) {
        x(i) = sizeof(T) == 1 ? T(200) : i % 3 == 0 ? T(-7) : T(2000000000);
        expected.push_back(expected.back() + static_cast<index_t>(x(i)));
      }
      auto m = scratch_of([&](space const& w) { return moe::exclusive_sum_scratch_bytes<T>(w, n); });
      moe::arena a(m.data(), m.size());
      moe::exclusive_sum(s, x.vec(), sum.vec(), a);
      s.wait();
      CHECK(sum.values() == expected);
    }
  });
}

TEST_CASE("argsort, sort_pairs, select_flagged and exclusive_sum: wrong use is refused") {
  array<float> x(3, 4), y(12);
  array<int> p(3, 3), v(12), few(11);
  array<index_t> count(1), sum(12);
  auto m = scratch_of([](space const& s) { return moe::sort_pairs_scratch_bytes<float>(s, 12); });
  moe::arena a(m.data(), m.size()), none(m.data(), 0);
  CHECK(error_of([&] { moe::argsort(on(), x.mat(), p.mat(), up, a); }) == "argsort: position is [3, 3], needs [3, 4]");
  index_t const many = index_t{1} << 20;  // never looked at
  CHECK(error_of([&] { moe::argsort(on(), moe::mat(x.data(), many, 4096), moe::mat(p.data(), many, 4096), up, a); }) ==
        "argsort: 1048576 x 4096 keys, needs at most 2147483647 for positions of 4 bytes");
  CHECK(error_of([&] { moe::sort_pairs<float, int>(on(), y.vec(), few.vec(), y.vec(), v.vec(), up, a); }) ==
        "sort_pairs: values has 11 elements, needs 12");
  CHECK(error_of([&] { moe::sort_pairs<float, int>(on(), y.vec(), v.vec(), y.vec(), few.vec(), up, a); }) ==
        "sort_pairs: sorted_values has 11 elements, needs 12");
  CHECK(contains(error_of([&] { moe::sort_pairs<float, int>(on(), y.vec(), v.vec(), y.vec(), v.vec(), up, none); }), "arena: "));
  CHECK(error_of([&] { moe::select_flagged(on(), v.vec(), few.vec(), moe::view<1>(count.data(), 1), a); }) ==
        "select_flagged: position has 11 elements, needs 12");
  CHECK(error_of([&] { moe::exclusive_sum(on(), v.vec(), sum.vec(), a); }) == "exclusive_sum: sum has 12 elements, needs 13");
  if (on_cuda) {
    CHECK(contains(error_of([&] { moe::argsort(on(), y.mat(), v.mat(), up, none); }), "arena: "));
    CHECK(contains(error_of([&] { moe::select_flagged(on(), v.vec(), v.vec(), moe::view<1>(count.data(), 1), none); }), "arena: "));
  }
}

#if defined(MOE_TEST_CUDA)
TEST_CASE("argsort, select_flagged and exclusive_sum can be captured in a graph, before there is data") {
  moe::cuda s;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  moe::cuda_check(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  array<float> x(4, 50);
  array<int> position(4, 50), flag(50), place(50);
  array<index_t> count(1), sum(51);
  auto m = scratch_of([](space const& w) {
    return std::max(
        {moe::argsort_scratch_bytes<float>(w, 4, 50), moe::select_flagged_scratch_bytes<int>(w, 50), moe::exclusive_sum_scratch_bytes<int>(w, 50)});
  });
  moe::arena a(m.data(), m.size());
  moe::cuda_check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  std::string const text = error_of([&] {
    moe::argsort(s, x.mat(), position.mat(), down, a);
    moe::select_flagged(s, flag.vec(), place.vec(), moe::view<1>(count.data(), 1), a);
    moe::exclusive_sum(s, flag.vec(), sum.vec(), a);
  });
  CHECK_MESSAGE(text.empty(), text);
  moe::cuda_check(cudaStreamEndCapture(s.stream, &graph), "cudaStreamEndCapture");
  moe::cuda_check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int round = 0; round < 2; ++round) {
    mixed(x, static_cast<std::uint64_t>(round));
    for (index_t i = 0; i < 50; ++i) flag(i) = (i + round) % 3 == 0 ? 2 : 0;
    moe::cuda_check(cudaGraphLaunch(executable, s.stream), "cudaGraphLaunch");
    s.wait();
    array<int> expected(4, 50);
    auto n = scratch_of([](space const& w) { return moe::argsort_scratch_bytes<float>(w, 4, 50); });
    check_argsort(on(), x, expected, down, moe::arena(n.data(), n.size()));
    CHECK(position.values() == expected.values());
    CHECK(count(0) == 17 - round);
    CHECK((place(1) - place(0) == 3 && sum(50) == 2 * count(0)));
  }
  cudaGraphExecDestroy(executable), cudaGraphDestroy(graph), cudaStreamDestroy(s.stream);
}
#endif
