#include <moe/gemm/grouped_gemm.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::cpu;
using moe::cuda;
using moe::dyn;
using moe::grouped_gemm_config;
using moe::grouped_gemm_tuning;
using moe::index_t;

/// One call: experts with counts[e] rows, `behind` rows of y behind the last offset, and operands whose rows are `gap` elements longer than needed.
template <class T>
struct problem {
  std::vector<index_t> offsets{0};
  index_t rows, experts, k, n;
  test::array<T> x, w, y;
  std::vector<int> gather;

  problem(std::vector<index_t> const& counts, index_t in, index_t out, index_t behind = 0, index_t gap = 0, index_t offset = 0,
          bool transpose_w = true)
      : rows(0), experts(static_cast<index_t>(counts.size())), k(in), n(out), x(sum(counts) + behind, in, in + gap, offset),
        w(experts * (transpose_w ? out : in), transpose_w ? in : out, (transpose_w ? in : out) + gap, offset),
        y(sum(counts) + behind, out, out + gap, offset) {
    for (index_t c : counts) offsets.push_back(rows += c);
    x.normal(1);
    w.normal(2);
  }
  static index_t sum(std::vector<index_t> const& counts) {
    index_t s = 0;
    for (index_t c : counts) s += c;
    return s;
  }
  moe::tensor<T const, dyn, dyn, dyn> weights(bool transpose_w) const {
    return moe::tensor<T const, dyn, dyn, dyn>(w.data(), experts, transpose_w ? n : k, transpose_w ? k : n).with_row_stride(stride(w));
  }
  static index_t stride(test::array<T> const& a) { return a.mat().row_stride(); }

  template <grouped_gemm_config C, grouped_gemm_tuning P = grouped_gemm_tuning{}>
  std::vector<T> on_cuda() {
    moe::arena none;
    start(C.accumulate);
    moe::grouped_gemm<C, P>(cuda{}, x.mat(), moe::vec<index_t const>(offsets.data(), experts + 1), weights(C.transpose_w), y.mat(), none, gathered());
    return y.values();
  }
  template <grouped_gemm_config C>
  std::vector<T> on_cpu() {
    std::vector<std::byte> memory(moe::grouped_gemm_scratch_bytes<T>(cpu{}, experts, n, k) + 64);
    moe::arena scratch(memory.data(), memory.size());
    start(C.accumulate);
    moe::grouped_gemm<C>(cpu{}, x.mat(), moe::vec<index_t const>(offsets.data(), experts + 1), weights(C.transpose_w), y.mat(), scratch, gathered());
    return y.values();
  }

 private:
  moe::vector_view<int const> gathered() const {
    return gather.empty() ? moe::vector_view<int const>() : moe::vec(gather.data(), static_cast<index_t>(gather.size()));
  }
  void start(bool accumulate) {
    y.poison();
    if (accumulate) y.normal(3);
  }
};

constexpr grouped_gemm_config forward{}, accumulating{.accumulate = true}, backward{.transpose_w = false};
constexpr grouped_gemm_tuning small{.rows = 1, .columns = 1}, uneven{.rows = 3, .columns = 2};

}  // namespace

TEST_CASE_TEMPLATE("grouped_gemm on the cuda space: the bits of the CPU operator, every shape", T, float, double, moe::bf16) {
  std::vector<index_t> const splits[] = {{}, {0}, {1}, {0, 5, 0, 17, 1}, {15, 16, 17}, {63, 0, 65}, {0, 0, 70, 0}};
  struct columns {
    index_t in, out;
  };
  std::size_t schedule = 0;
  for (auto const& counts : splits)
    for (columns c : {columns{0, 3}, {1, 1}, {5, 16}, {8, 17}, {33, 15}, {64, 64}, {65, 66}, {130, 2}, {16, 0}}) {
      CAPTURE(c.in);
      CAPTURE(c.out);
      simt::use(simt::schedules[schedule++ % std::size(simt::schedules)]);
      problem<T> p(counts, c.in, c.out, schedule % 3 == 0 ? 4 : 0);
      auto const expected = p.template on_cpu<forward>();
      CHECK(test::same_bits(p.template on_cuda<forward>(), expected));
      CHECK(test::same_bits(p.template on_cuda<forward, small>(), expected));
      CHECK(test::same_bits(p.template on_cuda<forward, uneven>(), expected));
      CHECK(test::same_bits(p.template on_cuda<accumulating>(), p.template on_cpu<accumulating>()));
      problem<T> back(counts, c.in, c.out, 0, 0, 0, false);
      CHECK(test::same_bits(back.template on_cuda<backward>(), back.template on_cpu<backward>()));
    }
  simt::use(simt::schedules[0]);
}

TEST_CASE_TEMPLATE("grouped_gemm on the cuda space: strided, unaligned and gathered rows", T, float, double, moe::bf16) {
  constexpr index_t vector = 16 / static_cast<index_t>(sizeof(T));
  for (index_t gap : {index_t{0}, index_t{1}, vector, vector + 1})
    for (index_t offset : {index_t{0}, index_t{1}, vector}) {
      problem<T> p({7, 0, 20}, 3 * vector, 19, 2, gap, offset);
      CHECK(test::same_bits(p.template on_cuda<forward>(), p.template on_cpu<forward>()));
      for (int r = 0; r < 27; ++r) p.gather.push_back(r * 5 % 29);
      CHECK(test::same_bits(p.template on_cuda<forward>(), p.template on_cpu<forward>()));
      problem<T> back({7, 0, 20}, 11, 3 * vector, 2, gap, offset, false);
      CHECK(test::same_bits(back.template on_cuda<backward>(), back.template on_cpu<backward>()));
    }
}

TEST_CASE_TEMPLATE("grouped_gemm on the cuda space: every schedule gives the same bits", T, float, double, moe::bf16) {
  for (index_t gap : {index_t{0}, index_t{1}}) {  // by asynchronous copies, and element by element
    problem<T> p({3, 0, 40}, 72, 20, 1, gap);
    auto const expected = p.template on_cpu<forward>();
    test::check_schedules(p.y, [&] { p.template on_cuda<forward, small>(); });
    CHECK(test::same_bits(p.y.values(), expected));
    test::check_schedules(p.y, [&] { p.template on_cuda<forward>(); });
    CHECK(test::same_bits(p.y.values(), expected));
  }
}

TEST_CASE("grouped_gemm on the cuda space: small integers are exact; NaN reaches its own row and column only; rows behind the offsets stay") {
  problem<float> p({2, 3}, 9, 4, 1);
  p.x.integers(1);
  p.w.integers(2);
  p.on_cuda<forward>();
  for (index_t r = 0; r < 5; ++r)
    for (index_t c = 0; c < 4; ++c) {
      float sum = 0;
      for (index_t i = 0; i < 9; ++i) sum += p.x(r, i) * p.w((r < 2 ? 0 : 4) + c, i);
      CHECK(p.y(r, c) == sum);
    }
  for (index_t c = 0; c < 4; ++c) CHECK(p.y(5, c) != p.y(5, c));
  p.x(3, 8) = test::quiet_nan<float>();
  p.w(1, 0) = std::numeric_limits<float>::infinity();
  p.x(0, 0) = 0;  // 0 * inf
  p.on_cuda<forward>();
  for (index_t r = 0; r < 5; ++r)
    for (index_t c = 0; c < 4; ++c) CHECK((p.y(r, c) != p.y(r, c)) == (r == 3 || (r == 0 && c == 1)));
}

TEST_CASE("grouped_gemm on the cuda space: an underflow to -0 at the end of a row stays -0") {
  problem<float> p({1}, 5, 1);
  p.x.fill(0);
  p.w.fill(0);
  p.x(0, 4) = 1e-30f;
  p.w(0, 4) = -1e-30f;
  CHECK(std::signbit(p.on_cpu<forward>()[0]) == std::signbit(p.on_cuda<forward>()[0]));
}

TEST_CASE("grouped_gemm on the cuda space: offsets that nobody could check never lead outside y") {
  problem<float> p({4, 4}, 8, 8);
  for (std::vector<index_t> const& wrong : {std::vector<index_t>{0, 4, 100}, {-3, 4, 8}, {8, 4, 0}, {0, 1000, 8}}) {
    p.offsets = wrong;
    p.on_cuda<forward>();
    CHECK(p.y.intact());
  }
}

TEST_CASE("grouped_gemm on the cuda space: the launch depends on the extents alone, and a cut grid still covers all tiles") {
  problem<float> p({200}, 8, 40);
  auto const expected = p.on_cpu<forward>();
  auto const offsets = moe::vec<index_t const>(p.offsets.data(), 2);
  p.y.poison();
  using layout = moe::detail::grouped_gemm_layout<float, 1, 1>;
  moe::launch("grouped_gemm", moe::grouped_gemm_kernel<true, false, 1, 1, float>, {.blocks = 4, .threads = 256, .shared_bytes = sizeof(layout)},
              cuda{}, p.x.mat(), offsets, p.weights(true), p.y.mat(), moe::vector_view<int const>());
  CHECK(test::same_bits(p.y.values(), expected));
}

TEST_CASE("grouped_gemm on the cuda space: wrong shapes") {
  moe::arena none;
  test::array<float> x(6, 8), y(6, 5), w(2 * 5, 8);
  std::vector<index_t> const offsets{0, 3, 6, 6};
  auto const weights = [&](index_t out, index_t in) { return moe::tensor<float const, dyn, dyn, dyn>(w.data(), 2, out, in); };
  auto const message = [&](index_t entries, index_t out, index_t in, index_t rows) {
    return test::error_of(
        [&] { moe::grouped_gemm(cuda{}, moe::rows_of(x.mat(), 0, rows), moe::vec(offsets.data(), entries), weights(out, in), y.mat(), none); });
  };
  x.fill(0);
  w.fill(0);
  CHECK(message(3, 5, 8, 6).empty());
  CHECK(message(3, 5, 7, 6) == "grouped_gemm: x has 8 columns, w sums over 7");
  CHECK(message(3, 4, 8, 6) == "grouped_gemm: y has 5 columns, w gives 4");
  CHECK(message(3, 5, 8, 5) == "grouped_gemm: x has 5 rows, 6 are needed");
  CHECK(message(4, 5, 8, 6) == "grouped_gemm: offsets has 4 entries, 2 experts need 3");
  CHECK(moe::grouped_gemm_scratch_bytes<float>(cuda{}, 2, 5, 8) == 0);
}
