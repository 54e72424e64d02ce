#include <moe/gemm/grouped_gemm.hpp>

#include <algorithm>

#include <test/support.hpp>

using moe::bf16;
using moe::grouped_gemm_config;
using moe::index_t;
using moe::matrix_unit;
using moe::weight_gradient_config;
using test::array;
using test::contains;
using test::error_of;
using test::on_cuda;
using test::same_bits;

namespace {

/// How many rows each expert has; rows behind the last expert's belong to nobody.
struct groups {
  std::vector<index_t> count;
  index_t behind = 0;
  index_t experts() const { return static_cast<index_t>(count.size()); }
  array<index_t> offsets() const {
    array<index_t> o(experts() + 1);
    o(0) = 0;
    for (index_t e = 0; e < experts(); ++e) o(e + 1) = o(e) + count[static_cast<std::size_t>(e)];
    return o;
  }
  index_t used() const { return offsets()(experts()); }
  index_t rows() const { return used() + behind; }
};

std::vector<groups> const ragged = {
    {{5}}, {{0}}, {{0, 0, 0}, 3}, {{1, 0, 12, 13, 0, 11}}, {{0, 97, 0}}, {{200, 0, 0, 0}, 7}, {{31, 32, 33}}, {{1, 1, 1, 1}}, {{95, 96, 97}},
};

/// As many indices as rows: an arbitrary choice among `sources`, with repetitions.
array<int> some_gather(index_t rows, index_t sources, std::uint64_t seed) {
  array<int> g(rows);
  moe::random_stream const random{seed, moe::random_purpose::test, 9};
  for (index_t r = 0; r < rows; ++r) g(r) = static_cast<int>(random.below(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(sources)));
  return g;
}

template <class T>
moe::tensor<T, moe::dyn, moe::dyn, moe::dyn> three(array<T>& w, index_t experts) {
  return moe::tensor<T, moe::dyn, moe::dyn, moe::dyn>(w.data(), experts, w.rows() / experts, w.columns()).with_row_stride(w.mat().row_stride());
}

template <grouped_gemm_config C, class T>
struct forward_problem {
  groups g;
  index_t k, n;
  array<index_t> offsets;
  array<int> gather;  // empty: the identity
  array<T> x, w, y;
  forward_problem(groups const& groups_, index_t in, index_t out, bool gathered, index_t stride = 0, index_t offset = 0)
      : g(groups_), k(in), n(out), offsets(g.offsets()), gather(gathered ? some_gather(g.rows(), 40, 5) : array<int>(0)),
        x(gathered ? 40 : g.rows(), k, k + stride, offset),
        w(g.experts() * (C.transpose_w ? n : k), C.transpose_w ? k : n, (C.transpose_w ? k : n) + stride, offset),
        y(g.rows(), n, n + stride, offset) {
    x.normal(1), w.normal(2);
    if (C.accumulate) y.normal(3);
  }
  array<T> run(test::space const& space = test::on()) {
    array<T> result = y;
    test::memory<std::byte> memory(moe::grouped_gemm_scratch_bytes<T>(space, g.experts(), n, k) + moe::alignment, std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    moe::grouped_gemm<C>(space, x.mat(), offsets.vec(), three(w, g.experts()), result.mat(), scratch, gather.vec());
    CHECK(scratch.used() == 0);
    return result;
  }
  /// The contract: one chain of madd per output, ascending k; rows behind the last offset stay.
  array<T> expected() {
    using A = moe::accumulator<T>;
    array<T> result = y;
    for (index_t e = 0; e < g.experts(); ++e)
      for (index_t r = offsets(e); r < offsets(e + 1); ++r)
        for (index_t j = 0; j < n; ++j) {
          index_t const source = gather.rows() > 0 ? gather(r) : r;
          A sum = C.accumulate ? static_cast<A>(y(r, j)) : A(0);
          for (index_t l = 0; l < k; ++l)
            sum = moe::madd(static_cast<A>(x(source, l)), static_cast<A>(C.transpose_w ? w(e * n + j, l) : w(e * k + l, j)), sum);
          result(r, j) = T(sum);
        }
    return result;
  }
};

template <weight_gradient_config C, class T, class TW>
struct gradient_problem {
  groups g;
  index_t m, n;
  array<index_t> offsets;
  array<int> gather_d_y, gather_x;
  array<T> d_y, x;
  array<TW> d_w;
  gradient_problem(groups const& groups_, index_t out, index_t in, bool by_y, bool by_x, index_t stride = 0, index_t offset = 0)
      : g(groups_), m(out), n(in), offsets(g.offsets()), gather_d_y(by_y ? some_gather(g.rows(), 40, 5) : array<int>(0)),
        gather_x(by_x ? some_gather(g.rows(), 30, 6) : array<int>(0)), d_y(by_y ? 40 : g.rows(), m, m + stride, offset),
        x(by_x ? 30 : g.rows(), n, n + stride, offset), d_w(g.experts() * m, n, n + stride, offset) {
    d_y.normal(1), x.normal(2);
    if (C.accumulate) d_w.normal(3);
  }
  array<TW> run(test::space const& space = test::on()) {
    array<TW> result = d_w;
    test::memory<std::byte> memory(moe::grouped_gemm_weight_gradient_scratch_bytes<TW>(space, g.experts(), g.rows(), n) + moe::alignment,
                                   std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    moe::grouped_gemm_weight_gradient<C>(space, d_y.mat(), x.mat(), offsets.vec(), three(result, g.experts()), scratch, gather_d_y.vec(),
                                         gather_x.vec());
    CHECK(scratch.used() == 0);
    return result;
  }
  array<TW> expected() {
    using A = moe::accumulator<TW>;
    array<TW> result = d_w;
    for (index_t e = 0; e < g.experts(); ++e)
      for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < n; ++j) {
          A sum = C.accumulate ? static_cast<A>(d_w(e * m + i, j)) : A(0);
          for (index_t r = offsets(e); r < offsets(e + 1); ++r)
            sum = moe::madd(static_cast<A>(d_y(gather_d_y.rows() > 0 ? gather_d_y(r) : r, i)),
                            static_cast<A>(x(gather_x.rows() > 0 ? gather_x(r) : r, j)), sum);
          result(e * m + i, j) = TW(sum);
        }
    return result;
  }
};

template <matrix_unit U>
constexpr grouped_gemm_config forward_by{.unit = U};
template <matrix_unit U>
constexpr grouped_gemm_config backward_by{.transpose_w = false, .unit = U};
template <matrix_unit U>
constexpr grouped_gemm_config forward_add_by{.accumulate = true, .unit = U};
template <matrix_unit U>
constexpr grouped_gemm_config backward_add_by{.transpose_w = false, .accumulate = true, .unit = U};
template <matrix_unit U>
constexpr weight_gradient_config overwrite_by{.unit = U};
template <matrix_unit U>
constexpr weight_gradient_config add_by{.accumulate = true, .unit = U};
constexpr grouped_gemm_config forward = forward_by<matrix_unit::fma>, backward = backward_by<matrix_unit::fma>,
                              forward_add = forward_add_by<matrix_unit::fma>, backward_add = backward_add_by<matrix_unit::fma>;
constexpr weight_gradient_config overwrite = overwrite_by<matrix_unit::fma>, add = add_by<matrix_unit::fma>;
// Named, because nvcc deduces nothing from f<forward_by<unit>>(...).
constexpr grouped_gemm_config forward_mma = forward_by<matrix_unit::mma>, backward_mma = backward_by<matrix_unit::mma>,
                              forward_add_mma = forward_add_by<matrix_unit::mma>, backward_add_mma = backward_add_by<matrix_unit::mma>;
constexpr weight_gradient_config overwrite_mma = overwrite_by<matrix_unit::mma>, add_mma = add_by<matrix_unit::mma>;

/// f<unit>() for the units that multiply T.
template <class T, class F>
void for_each_unit(F const& f) {
  f.template operator()<matrix_unit::fma>();
  if constexpr (std::is_same_v<T, bf16>) f.template operator()<matrix_unit::mma>();
}

template <grouped_gemm_config C, class T>
void check_forward() {
  for (groups const& g : ragged)
    for (bool gathered : {false, true}) {
      if (gathered && g.rows() == 0) continue;
      forward_problem<C, T> p(g, 19, 37, gathered);
      REQUIRE(same_bits(p.run().values(), p.expected().values()));
    }
  forward_problem<C, T> strided(ragged[3], 17, 33, true, 3, 1), deep(ragged[3], 257, 5, false, 1, 1), one(ragged[7], 1, 1, false),
      nothing_to_sum(ragged[3], 0, 7, false);
  REQUIRE(same_bits(strided.run().values(), strided.expected().values()));
  REQUIRE(same_bits(deep.run().values(), deep.expected().values()));
  REQUIRE(same_bits(one.run().values(), one.expected().values()));
  REQUIRE(same_bits(nothing_to_sum.run().values(), nothing_to_sum.expected().values()));
}

template <weight_gradient_config C, class T, class TW>
void check_gradients() {
  for (groups const& g : ragged)
    for (int gathered = 0; gathered < (g.rows() == 0 ? 1 : 4); ++gathered) {
      gradient_problem<C, T, TW> p(g, 14, 35, gathered % 2 == 1, gathered >= 2);
      REQUIRE(same_bits(p.run().values(), p.expected().values()));
    }
  gradient_problem<C, T, TW> strided(ragged[3], 13, 33, true, true, 3, 1), wide(ragged[3], 5, 515, false, true, 1, 1),
      deep({{300, 0, 260}}, 13, 33, false, false);
  REQUIRE(same_bits(strided.run().values(), strided.expected().values()));
  REQUIRE(same_bits(wide.run().values(), wide.expected().values()));
  REQUIRE(same_bits(deep.run().values(), deep.expected().values()));
}

}  // namespace

TEST_CASE_TEMPLATE("grouped_gemm: every output is one chain of madd in ascending k, bit for bit", T, float, double, bf16) {
  check_forward<forward, T>();
  check_forward<backward, T>();
  check_forward<forward_add, T>();
  check_forward<backward_add, T>();
}

TEST_CASE_TEMPLATE("grouped_gemm_weight_gradient: every output is one chain of madd in ascending rows, bit for bit", T, float, double, bf16) {
  check_gradients<overwrite, T, T>();
  check_gradients<add, T, T>();
  check_gradients<add, T, moe::accumulator<T>>();
}

TEST_CASE_TEMPLATE("grouped_gemm: near a product in double", T, float, double, bf16) {
  forward_problem<forward, T> p(ragged[3], 130, 21, false);
  auto const y = p.run();
  double const unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24, last = std::is_same_v<T, bf16> ? 0x1p-8 : 0.0;
  for (index_t e = 0; e < p.g.experts(); ++e)
    for (index_t r = p.offsets(e); r < p.offsets(e + 1); ++r)
      for (index_t j = 0; j < p.n; ++j) {
        double sum = 0, size = 0;
        for (index_t l = 0; l < p.k; ++l) {
          double const term = static_cast<double>(p.x(r, l)) * static_cast<double>(p.w(e * p.n + j, l));
          sum += term, size += std::abs(term);
        }
        REQUIRE(std::abs(static_cast<double>(y(r, j)) - sum) <= 130 * unit * size + last * std::abs(sum));
      }
}

TEST_CASE_TEMPLATE("grouped_gemm: small integers are exact, forward and weight gradient", T, float, double) {
  forward_problem<forward, T> p(ragged[3], 23, 34, true);
  p.x.integers(1), p.w.integers(2);
  auto const y = p.run();
  gradient_problem<overwrite, T, T> q(ragged[3], 13, 35, true, false);
  q.d_y.integers(3), q.x.integers(4);
  auto const d_w = q.run();
  for (index_t e = 0; e < p.g.experts(); ++e) {
    for (index_t r = p.offsets(e); r < p.offsets(e + 1); ++r)
      for (index_t j = 0; j < p.n; ++j) {
        int sum = 0;
        for (index_t l = 0; l < p.k; ++l) sum += static_cast<int>(p.x(p.gather(r), l)) * static_cast<int>(p.w(e * p.n + j, l));
        REQUIRE(y(r, j) == static_cast<T>(sum));
      }
    for (index_t i = 0; i < q.m; ++i)
      for (index_t j = 0; j < q.n; ++j) {
        int sum = 0;
        for (index_t r = q.offsets(e); r < q.offsets(e + 1); ++r) sum += static_cast<int>(q.d_y(q.gather_d_y(r), i)) * static_cast<int>(q.x(r, j));
        REQUIRE(d_w(e * q.m + i, j) == static_cast<T>(sum));
      }
  }
}

TEST_CASE_TEMPLATE("grouped_gemm: the same bits however it is executed", T, float, double, bf16) {
  for_each_unit<T>([]<matrix_unit U>() {
    groups const g = on_cuda ? groups{{66, 0, 1, 20}, 5} : groups{{150, 0, 1, 260, 13, 0, 90}, 5};
    index_t const in = on_cuda ? 40 : 130, out = 70;
    forward_problem<forward_by<U>, T> p(g, in, out, false);
    forward_problem<backward_add_by<U>, T> b(g, out, in, true);
    gradient_problem<overwrite_by<U>, T, T> q(g, out, in, true, true);
    std::vector<T> y, x, d_w;
    test::for_each_execution([&](test::space const& s, int i) {
      auto const y_now = p.run(s).values(), x_now = b.run(s).values(), d_w_now = q.run(s).values();
      if (i == 0) y = y_now, x = x_now, d_w = d_w_now;
      CHECK(same_bits(y_now, y));
      CHECK(same_bits(x_now, x));
      CHECK(same_bits(d_w_now, d_w));
    });
  });
}

TEST_CASE_TEMPLATE("grouped_gemm: a row's bits do not depend on the other rows nor on the other experts", T, float, double, bf16) {
  for_each_unit<T>([]<matrix_unit U>() {
    index_t const k = on_cuda ? 50 : 140;
    forward_problem<forward_by<U>, T> all({{40, 0, 13, 97}}, k, 45, false);
    auto const together = all.run();
    for (index_t e : {0, 2, 3})
      for (index_t r : {all.offsets(e), all.offsets(e + 1) - 1}) {
        forward_problem<forward_by<U>, T> alone({{1}}, k, 45, false);
        for (index_t l = 0; l < k; ++l) alone.x(0, l) = all.x(r, l);
        for (index_t j = 0; j < 45; ++j)
          for (index_t l = 0; l < k; ++l) alone.w(j, l) = all.w(e * 45 + j, l);
        auto const y = alone.run();
        for (index_t j = 0; j < 45; ++j) REQUIRE(same_bits<T>({y(0, j)}, {together(r, j)}));
      }
  });
}

TEST_CASE_TEMPLATE("grouped_gemm: rows behind the last offset and experts without rows", T, float, double, bf16) {
  for_each_unit<T>([]<matrix_unit U>() {
    groups const g{{4, 0, 3}, 6};
    forward_problem<forward_by<U>, T> p(g, 8, 5, false);
    for (index_t r = 7; r < 13; ++r)
      for (index_t l = 0; l < 8; ++l) p.x(r, l) = test::quiet_nan<T>();  // never read
    for (index_t j = 0; j < 5; ++j)
      for (index_t l = 0; l < 8; ++l) p.w(5 + j, l) = test::quiet_nan<T>();  // the weights of the expert without rows
    for (index_t j = 0; j < 5; ++j) p.y(12, j) = T(4.0f);
    auto const y = p.run();
    for (index_t j = 0; j < 5; ++j) {
      for (index_t r = 0; r < 7; ++r) REQUIRE(!std::isnan(static_cast<double>(y(r, j))));
      REQUIRE(std::isnan(static_cast<double>(y(11, j))));  // still the poison
      REQUIRE(static_cast<float>(y(12, j)) == 4.0f);
    }

    gradient_problem<overwrite_by<U>, T, T> zeros(g, 5, 8, false, false);
    auto const d_w = zeros.run();
    for (index_t i = 5; i < 10; ++i)
      for (index_t j = 0; j < 8; ++j) REQUIRE(same_bits<T>({d_w(i, j)}, {T(0.0f)}));
    gradient_problem<add_by<U>, T, T> kept(g, 5, 8, false, false);
    for (index_t j = 0; j < 8; ++j) kept.d_w(5, j) = T(-0.0f), kept.d_w(6, j) = test::quiet_nan<T>();
    auto const d_v = kept.run();
    for (index_t i = 5; i < 10; ++i)
      for (index_t j = 0; j < 8; ++j) REQUIRE(same_bits<T>({d_v(i, j)}, {kept.d_w(i, j)}));
  });
}

TEST_CASE_TEMPLATE("grouped_gemm: a NaN reaches exactly the outputs it belongs to", T, float, double, bf16) {
  for_each_unit<T>([]<matrix_unit U>() {
    forward_problem<forward_by<U>, T> p({{14, 20}}, 30, 40, false);
    gradient_problem<overwrite_by<U>, T, T> q({{14, 20}}, 15, 40, false, false);
    auto const y = p.run();
    auto const d_w = q.run();
    p.x(15, 29) = test::quiet_nan<T>(), p.w(40 + 33, 2) = test::quiet_nan<T>();
    q.d_y(13, 7) = test::quiet_nan<T>(), q.x(3, 39) = test::quiet_nan<T>();
    auto const y2 = p.run();
    auto const d_w2 = q.run();
    for (index_t r = 0; r < 34; ++r)
      for (index_t j = 0; j < 40; ++j) {
        if (r == 15 || (r >= 14 && j == 33)) REQUIRE(std::isnan(static_cast<double>(y2(r, j))));
        else REQUIRE(same_bits<T>({y2(r, j)}, {y(r, j)}));
      }
    for (index_t i = 0; i < 30; ++i)
      for (index_t j = 0; j < 40; ++j) {
        if (i < 15 && (i == 7 || j == 39)) REQUIRE(std::isnan(static_cast<double>(d_w2(i, j))));
        else REQUIRE(same_bits<T>({d_w2(i, j)}, {d_w(i, j)}));
      }
  });
}

namespace {
struct arguments {  // of a call that is right: two experts, rows 3 and 2, in 4, out 6
  array<float> x{5, 4}, w{12, 4}, y{5, 6}, d_w{12, 4};
  array<index_t> offsets{3};
  array<int> gather{0};
  test::scratch memory{std::size_t{1} << 20};
  arguments() {
    x.normal(1), w.normal(2);
    offsets(0) = 0, offsets(1) = 3, offsets(2) = 5;
  }
  std::string forward_error() {
    auto scratch = memory.get();
    std::string const e =
        error_of([&] { moe::grouped_gemm<forward>(test::on(), x.mat(), offsets.vec(), three(w, 2), y.mat(), scratch, gather.vec()); });
    if (!e.empty())
      for (float v : y.values()) REQUIRE(std::isnan(v));  // untouched
    return e;
  }
  std::string gradient_error(array<int> const& gather_x) {
    auto scratch = memory.get();
    array<float> d_y(y.rows(), y.columns());
    d_y.normal(3);
    std::string const e = error_of([&] {
      moe::grouped_gemm_weight_gradient(test::on(), d_y.mat(), x.mat(), offsets.vec(), three(d_w, 2), scratch, gather.vec(), gather_x.vec());
    });
    if (!e.empty())
      for (float v : d_w.values()) REQUIRE(std::isnan(v));
    return e;
  }
};
array<int> ints(std::vector<int> const& v) { return array<int>(v, static_cast<index_t>(v.size()), 1); }
}  // namespace

TEST_CASE("grouped_gemm: wrong arguments are named before anything is written") {
  CHECK(arguments().forward_error() == "");
  {
    arguments a;
    a.x = array<float>(5, 3);
    CHECK(a.forward_error() == "grouped_gemm: x has 3 columns, w sums over 4");
  }
  {
    arguments a;
    a.y = array<float>(5, 7);
    CHECK(a.forward_error() == "grouped_gemm: y has 7 columns, w gives 6");
  }
  {
    arguments a;
    a.x = array<float>(4, 4);
    CHECK(a.forward_error() == "grouped_gemm: x has 4 rows, 5 are needed");
  }
  {
    arguments a;
    a.offsets = array<index_t>(2);
    CHECK(a.forward_error() == "grouped_gemm: offsets has 2 entries, 2 experts need 3");
  }
  if (on_cuda) return;  // the rest needs a look at what is in device memory
  {
    arguments a;
    a.offsets(0) = 1;
    CHECK(a.forward_error() == "grouped_gemm: offsets[0] is 1, must be 0");
  }
  {
    arguments a;
    a.offsets(1) = 6;
    CHECK(a.forward_error() == "grouped_gemm: offsets[2] = 5 is below offsets[1] = 6");
  }
  {
    arguments a;
    a.offsets(2) = 6;
    CHECK(a.forward_error() == "grouped_gemm: offsets end at 6, there are 5 rows");
  }
  {
    arguments a;
    a.gather = ints({0, 1, 2, 3});
    CHECK(a.forward_error() == "grouped_gemm: the gather index of x has 4 entries for 5 rows");
  }
  for (int wrong : {-1, 5}) {
    arguments a;
    a.gather = ints({0, 1, 2, 3, wrong});
    CHECK(a.forward_error() == "grouped_gemm: the gather index of x names row " + std::to_string(wrong) + " of 5 at position 4");
  }
}

TEST_CASE("grouped_gemm_weight_gradient: wrong arguments are named before anything is written") {
  CHECK(arguments().gradient_error(ints({})) == "");
  std::string const who = "grouped_gemm_weight_gradient: ";
  {
    arguments a;
    a.y = array<float>(5, 7);
    CHECK(a.gradient_error(ints({})) == who + "d_y has 7 columns, d_w has 6 rows");
  }
  {
    arguments a;
    a.x = array<float>(5, 3);
    CHECK(a.gradient_error(ints({})) == who + "x has 3 columns, d_w has 4");
  }
  {
    arguments a;
    a.x = array<float>(6, 4);
    CHECK(a.gradient_error(ints({})) == who + "x has 6 rows, 5 are needed");
  }
  if (on_cuda) return;
  {
    arguments a;
    a.offsets(1) = -1;
    CHECK(a.gradient_error(ints({})) == who + "offsets[1] = -1 is below offsets[0] = 0");
  }
  {
    arguments a;
    a.gather = ints({0, 1, 2, 3, 9});
    CHECK(a.gradient_error(ints({})) == who + "the gather index of d_y names row 9 of 5 at position 4");
  }
  CHECK(arguments().gradient_error(ints({0, 1, 7, 3, 4})) == who + "the gather index of x names row 7 of 5 at position 2");
  CHECK(arguments().gradient_error(ints({0, 1})) == who + "the gather index of x has 2 entries for 5 rows");
}

#if !defined(MOE_TEST_CUDA)
TEST_CASE("grouped_gemm: the codes of its errors; scratch of exactly the stated size is enough") {
  arguments a;
  auto const call = [&](moe::arena& scratch) {
    moe::grouped_gemm<forward>(test::on(), a.x.mat(), a.offsets.vec(), three(a.w, 2), a.y.mat(), scratch);
  };
  moe::buffer const memory(moe::grouped_gemm_scratch_bytes<float>(test::on(), 2, 6, 4));
  moe::arena enough(memory), less(memory.data(), memory.bytes() - moe::alignment);
  CHECK(test::code_of([&] { call(less); }) == moe::errc::out_of_memory);
  for (float v : a.y.values()) CHECK(std::isnan(v));
  CHECK_NOTHROW(call(enough));
  a.offsets(1) = 6;
  CHECK(test::code_of([&] { call(enough); }) == moe::errc::bad_argument);
  a.x = array<float>(5, 3);
  CHECK(test::code_of([&] { call(enough); }) == moe::errc::shape_mismatch);
}
#endif

TEST_CASE("grouped_gemm: an underflow to -0 at the end of a row stays -0") {
  forward_problem<forward, float> p({{1}}, 5, 1, false);
  p.x.fill(0), p.w.fill(0);
  p.x(0, 4) = 1e-30f, p.w(0, 4) = -1e-30f;
  CHECK(same_bits(p.run().values(), p.expected().values()));
}

TEST_CASE_TEMPLATE("grouped_gemm: rows that start anywhere", T, float, double, bf16) {
  for (index_t stride : {0, 1, 4, 8, 9})
    for (index_t offset : {0, 1, 4, 8}) {
      forward_problem<forward, T> p({{7, 0, 20}, 2}, 24, 19, stride % 2 == 0, stride, offset);
      CHECK(same_bits(p.run().values(), p.expected().values()));
      forward_problem<backward_add, T> b({{7, 0, 20}, 2}, 11, 24, false, stride, offset);
      CHECK(same_bits(b.run().values(), b.expected().values()));
      gradient_problem<add, T, T> q({{7, 0, 20}, 2}, 16, 24, stride % 2 == 0, false, stride, offset);
      CHECK(same_bits(q.run().values(), q.expected().values()));
    }
}

TEST_CASE("grouped_gemm: many experts, most of them empty") {
  groups g;
  for (int e = 0; e < 100; ++e) g.count.push_back(e % 7 == 3 ? e % 5 : 0);
  forward_problem<forward, float> p(g, 5, 6, false);
  CHECK(same_bits(p.run().values(), p.expected().values()));
}

TEST_CASE("grouped_gemm: no experts, no rows, no columns") {
  array<float> x(0, 4), w(0, 4), y(0, 6);
  array<index_t> offsets(1);
  offsets(0) = 0;
  moe::arena scratch(nullptr, 0);
  moe::grouped_gemm<forward>(test::on(), x.mat(), offsets.vec(), moe::tensor<float const, moe::dyn, moe::dyn, moe::dyn>(w.data(), 0, 6, 4), y.mat(),
                             scratch);
  forward_problem<forward, float> no_columns(ragged[3], 5, 0, false);
  no_columns.run();
  gradient_problem<overwrite, float, float> no_outputs(ragged[3], 0, 5, false, false);
  no_outputs.run();
}

TEST_CASE("grouped_gemm: input and weight gradients agree with central differences") {
  groups const g{{4, 0, 7, 1}, 2};
  index_t const k = on_cuda ? 3 : 5, n = on_cuda ? 4 : 6, sources = 9;
  array<double> x(sources, k), w(g.experts() * n, k), weight(g.rows(), n), y(g.rows(), n), d_y(g.rows(), n), d_rows(g.rows(), k),
      d_w(g.experts() * n, k);
  array<int> const gather = some_gather(g.rows(), sources, 3);
  auto offsets = g.offsets();
  x.normal(1), w.normal(2), weight.normal(3), y.fill(0), d_rows.fill(0);
  test::scratch memory(std::size_t{2} << 20);
  auto const loss = [&] {  // sum of weight * y^2 over the rows of all experts
    auto scratch = memory.get();
    moe::grouped_gemm<forward>(test::on(), x.mat(), offsets.vec(), three(w, g.experts()), y.mat(), scratch, gather.vec());
    double sum = 0;
    for (index_t r = 0; r < g.used(); ++r)
      for (index_t j = 0; j < n; ++j) sum += weight(r, j) * y(r, j) * y(r, j);
    return sum;
  };
  loss();
  for (index_t r = 0; r < g.rows(); ++r)
    for (index_t j = 0; j < n; ++j) d_y(r, j) = r < g.used() ? 2 * weight(r, j) * y(r, j) : test::quiet_nan<double>();
  auto scratch = memory.get();
  moe::grouped_gemm<backward>(test::on(), d_y.mat(), offsets.vec(), three(w, g.experts()), d_rows.mat(), scratch);
  moe::grouped_gemm_weight_gradient(test::on(), d_y.mat(), x.mat(), offsets.vec(), three(d_w, g.experts()), scratch, {}, gather.vec());
  array<double> d_x(sources, k);  // each gathered row gives its gradient back
  d_x.fill(0);
  for (index_t r = 0; r < g.used(); ++r)
    for (index_t l = 0; l < k; ++l) d_x(gather(r), l) += d_rows(r, l);
  test::check_gradient("x", loss, x.data(), sources * k, d_x.values(), {.step = 1e-3});
  test::check_gradient("w", loss, w.data(), g.experts() * n * k, d_w.values(), {.step = 1e-3});
  for (index_t i = n; i < 2 * n; ++i)
    for (index_t l = 0; l < k; ++l) CHECK(d_w(i, l) == 0.0);  // the expert without rows
}

namespace {
template <grouped_gemm_config C>
void check_integers(groups const& g, index_t in, index_t out, bool gathered, index_t stride = 0, index_t offset = 0) {
  forward_problem<C, bf16> p(g, in, out, gathered, stride, offset);
  p.x.integers(1), p.w.integers(2);
  if (C.accumulate) p.y.integers(3);
  REQUIRE(same_bits(p.run().values(), p.expected().values()));
}
template <weight_gradient_config C, class TW>
void check_integers(groups const& g, index_t out, index_t in, bool by_y, bool by_x, index_t stride = 0, index_t offset = 0) {
  gradient_problem<C, bf16, TW> p(g, out, in, by_y, by_x, stride, offset);
  p.d_y.integers(1), p.x.integers(2);
  if (C.accumulate) p.d_w.integers(3);
  REQUIRE(same_bits(p.run().values(), p.expected().values()));
}
}  // namespace

TEST_CASE("grouped_gemm on tensor cores: small integers have the bits of the chain, ragged, gathered, rows that start anywhere") {
  for (groups const& g : {groups{{5}}, {{0, 0}, 3}, {{1, 0, 12, 17, 0, 33}}, {{0, 130, 3}, 2}, {{31, 32, 33}}, {{63, 1, 64, 65}}})
    for (bool gathered : {false, true}) {
      check_integers<forward_mma>(g, 40, 24, gathered);
      check_integers<backward_add_mma>(g, 24, 40, gathered);
      check_integers<forward_add_mma>(g, 19, 35, gathered, 1, 1);
      check_integers<backward_mma>(g, 33, 21, gathered, 8, 8);
      check_integers<overwrite_mma, bf16>(g, 24, 40, gathered, false);
      check_integers<add_mma, float>(g, 40, 24, false, gathered);
      check_integers<add_mma, bf16>(g, 19, 35, gathered, gathered, 1, 1);
      check_integers<overwrite_mma, float>(g, 72, 130, gathered, gathered, 8, 2);
    }
}

namespace {
constexpr grouped_gemm_config by_warpgroups = forward_by<matrix_unit::wgmma>, backward_wgmma = backward_by<matrix_unit::wgmma>,
                              forward_add_wgmma = forward_add_by<matrix_unit::wgmma>, backward_add_wgmma = backward_add_by<matrix_unit::wgmma>;
}

TEST_CASE("grouped_gemm by warpgroups: small integers have the bits of the chain, ragged, with tails in every dimension") {
  for (groups const& g : {groups{{5}}, {{0, 0}, 3}, {{1, 0, 12, 17, 0, 33}, 4}, {{0, 64, 65}}, {{127, 0, 130}, 2}}) {
    check_integers<by_warpgroups>(g, 40, 24, false);
    check_integers<backward_wgmma>(g, 72, 40, false);
  }
  groups const g{{3, 0, 66}, 1};
  check_integers<by_warpgroups>(g, 64, 64, false);
  check_integers<by_warpgroups>(g, 61, 257, false, 3, 8);  // rows of x and w on 16 bytes, those of y not
  check_integers<backward_wgmma>(g, 63, 263, false, 9, 8);
  check_integers<forward_add_wgmma>(g, 136, 72, false);
  check_integers<backward_add_wgmma>(g, 200, 16, false, 8, 8);
  check_integers<by_warpgroups>(g, 0, 24, false);
  check_integers<forward_add_wgmma>(g, 0, 24, false);
  check_integers<by_warpgroups>(groups{{0, 0}}, 24, 24, false);
}

TEST_CASE("grouped_gemm by warpgroups: a row's bits do not depend on the other rows, nor on the columns; sums are near those of the chain") {
  forward_problem<by_warpgroups, bf16> all({{70, 0, 13}, 2}, 200, 72, false);
  auto const together = all.run(), chain = all.expected();
  for (index_t r = 0; r < 83; ++r)
    for (index_t j = 0; j < 72; ++j) REQUIRE(std::abs(static_cast<float>(together(r, j)) - static_cast<float>(chain(r, j))) <= 0x1p-7f * 16);
  for (index_t e : {0, 2}) {
    index_t const r = all.offsets(e + 1) - 1;
    forward_problem<by_warpgroups, bf16> alone({{1}}, 200, 8, false);
    for (index_t l = 0; l < 200; ++l) {
      alone.x(0, l) = all.x(r, l);
      for (index_t j = 0; j < 8; ++j) alone.w(j, l) = all.w(e * 72 + 64 + j, l);
    }
    auto const y = alone.run();
    for (index_t j = 0; j < 8; ++j) REQUIRE(same_bits<bf16>({y(0, j)}, {together(r, 64 + j)}));
  }
}

TEST_CASE("grouped_gemm by warpgroups: a NaN reaches exactly the outputs it belongs to, also from rows that share a tile's loads") {
  forward_problem<by_warpgroups, bf16> p({{14, 20}, 3}, 72, 40, false);
  auto const y = p.run();
  p.x(15, 71) = test::quiet_nan<bf16>(), p.w(40 + 33, 2) = test::quiet_nan<bf16>();
  for (index_t l = 0; l < 72; ++l) p.x(34, l) = test::quiet_nan<bf16>();  // nobody's row
  auto const y2 = p.run();
  for (index_t r = 0; r < 37; ++r)
    for (index_t j = 0; j < 40; ++j) {
      if (r == 15 || (r >= 14 && r < 34 && j == 33)) REQUIRE(std::isnan(static_cast<double>(y2(r, j))));
      else REQUIRE(same_bits<bf16>({y2(r, j)}, {y(r, j)}));
    }
}

TEST_CASE("grouped_gemm by warpgroups: the same bits however it is executed") {
  forward_problem<by_warpgroups, bf16> p({{66, 0, 1, 20}, 5}, 328, 72, false);  // more parts of k than stages
  forward_problem<backward_add_wgmma, bf16> b({{130, 3}}, 72, 40, false);
  std::vector<bf16> y, x;
  test::for_each_execution([&](test::space const& s, int i) {
    auto const y_now = p.run(s).values(), x_now = b.run(s).values();
    if (i == 0) y = y_now, x = x_now;
    CHECK(same_bits(y_now, y));
    CHECK(same_bits(x_now, x));
  });
}

#if defined(MOE_TEST_CUDA)
TEST_CASE("grouped_gemm by warpgroups: results do not depend on the tile; blocks that compute several tiles; offsets that nobody could check") {
  forward_problem<by_warpgroups, bf16> p({{70, 0, 131}, 2}, 200, 200, false);
  auto const whole = p.run().values();
  auto y = p.y;
  moe::arena none;
  auto const with = [&]<moe::wgmma_tuning P>() {
    y = p.y;
    moe::grouped_gemm<by_warpgroups, moe::gemm_tuning{.wgmma = P}>(test::on(), p.x.mat(), p.offsets.vec(), three(p.w, 3), y.mat(), none);
    CHECK(same_bits(y.values(), whole));
  };
  with.operator()<moe::wgmma_tuning{.columns = 64, .stages = 2}>();
  with.operator()<moe::wgmma_tuning{.columns = 128, .stages = 3}>();

  auto const maps = moe::detail::wgmma_maps_of<true, 64>("cut", p.x.mat(), three(p.w, 3));
  moe::detail::wgmma_product const product{y.data(), 200, p.offsets.data(), 3, p.g.rows(), 200, 200};
  test::for_each_execution([&](test::space const& s, int) {
    y = p.y;
    moe::launch("cut", moe::wgmma_tiles_kernel<false, 64, 3, true>,
                {.blocks = 2, .threads = moe::detail::wgmma_threads, .shared_bytes = sizeof(moe::detail::wgmma_layout<64, 3>)}, s, maps.x, maps.w,
                product);
    CHECK(same_bits(y.values(), whole));
  });

  for (std::vector<index_t> const& wrong : {std::vector<index_t>{0, 4, 100}, {-3, 4, 8}, {8, 4, 0}, {0, 1000, 8}}) {
    forward_problem<by_warpgroups, bf16> q({{4, 4}}, 8, 8, false);
    for (index_t e = 0; e < 3; ++e) q.offsets(e) = wrong[static_cast<std::size_t>(e)];
    q.run();
  }
}

TEST_CASE("grouped_gemm by warpgroups: what does not fit is refused before anything is written, and y may lie anywhere") {
  auto const error = [](index_t in, bool gathered, index_t stride, index_t offset) {
    forward_problem<by_warpgroups, bf16> p({{3, 2}}, in, 24, gathered, stride, offset);
    auto y = p.y;
    moe::arena none;
    std::string const e = error_of(
        [&] { moe::grouped_gemm<by_warpgroups>(test::on(), p.x.mat(), p.offsets.vec(), three(p.w, 2), y.mat(), none, p.gather.vec()); });
    if (!e.empty()) CHECK(same_bits(y.values(), p.y.values()));
    return e;
  };
  CHECK(error(24, false, 0, 0) == "");
  CHECK(error(20, false, 0, 0) == "grouped_gemm: x has a stride of 20 elements in dimension 1, TMA needs a multiple of 16 bytes below 2^40");
  CHECK(contains(error(24, false, 0, 1), "grouped_gemm: x starts at "));
  CHECK(error(24, true, 0, 0) ==
        "grouped_gemm: matrix_unit::wgmma takes no gather index, there is one of 5 entries; gather the rows first or take matrix_unit::mma");
#if !defined(__CUDACC__)
  simt::device().hopper_code = false;
  CHECK(contains(error(24, false, 0, 0), "grouped_gemm: matrix_unit::wgmma needs a device of compute capability 9.0"));
  simt::device() = {};
#endif
  forward_problem<by_warpgroups, bf16> p({{3, 70}, 1}, 24, 20, false);
  p.x.integers(1), p.w.integers(2);
  for (index_t offset : {1, 4, 8}) {
    array<bf16> y(74, 20, 21 + offset, offset);
    moe::arena none;
    moe::grouped_gemm<by_warpgroups>(test::on(), p.x.mat(), p.offsets.vec(), three(p.w, 2), y.mat(), none);
    CHECK(same_bits(y.values(), p.expected().values()));
  }
}
#endif

#if defined(MOE_TEST_CUDA)
TEST_CASE("grouped_gemm: offsets that nobody could check never lead outside the outputs") {
  for (std::vector<index_t> const& wrong : {std::vector<index_t>{0, 4, 100}, {-3, 4, 8}, {8, 4, 0}, {0, 1000, 8}}) {
    forward_problem<forward, float> p({{4, 4}}, 8, 8, false);
    forward_problem<forward_by<matrix_unit::mma>, bf16> p2({{4, 4}}, 8, 8, false);
    gradient_problem<overwrite, float, float> q({{4, 4}}, 8, 8, false, false);
    gradient_problem<overwrite_by<matrix_unit::mma>, bf16, float> q2({{4, 4}}, 8, 8, false, false);
    for (index_t e = 0; e < 3; ++e) p.offsets(e) = p2.offsets(e) = q.offsets(e) = q2.offsets(e) = wrong[static_cast<std::size_t>(e)];
    p.run(), p2.run(), q.run(), q2.run();  // canaries stand around every array
  }
}

TEST_CASE_TEMPLATE("grouped_gemm: results do not depend on the tile; a cut grid still covers all tiles; no scratch is needed", T, float, double,
                   bf16) {
  groups const g{{70, 0, 3}, 2};
  forward_problem<forward, T> p(g, 35, 131, true);
  gradient_problem<overwrite, T, T> q(g, 70, 131, true, false);
  moe::arena none;
  array<T> y = p.y, d_w = q.d_w;
  constexpr moe::gemm_tuning large{.fma = {.rows = 4, .columns = 8}};
  moe::grouped_gemm<forward, large>(test::on(), p.x.mat(), p.offsets.vec(), three(p.w, 3), y.mat(), none, p.gather.vec());
  CHECK(same_bits(y.values(), p.expected().values()));
  moe::grouped_gemm_weight_gradient<overwrite, large>(test::on(), q.d_y.mat(), q.x.mat(), q.offsets.vec(), three(d_w, 3), none, q.gather_d_y.vec());
  CHECK(same_bits(d_w.values(), q.expected().values()));

  using lines = moe::detail::device_lines<T, true>;
  moe::detail::ragged_rows<lines, lines, T> const products{
      {p.x.data(), 35, p.gather.data()}, {p.w.data(), 35}, y.data(), 131, 131, p.offsets.data(), 3, g.rows(), 131, 35};
  using layout = moe::detail::fma_layout<moe::accumulator<T>, 4, 4>;
  auto const expected = p.expected().values();
  test::for_each_execution([&](test::space const& s, int) {
    y = p.y;
    moe::launch("cut", moe::fma_tiles_kernel<false, 4, 4, std::remove_const_t<decltype(products)>>,
                {.blocks = 2, .threads = moe::detail::fma_threads, .shared_bytes = sizeof(layout)}, s, products);
    CHECK(same_bits(y.values(), expected));
  });

  if constexpr (std::is_same_v<T, bf16>) {
    constexpr moe::gemm_tuning small{.mma = {.rows = 64, .columns = 64, .stages = 2}};
    forward_problem<forward_by<matrix_unit::mma>, T> pm({{70, 0, 3}, 2}, 104, 136, true);
    gradient_problem<overwrite_by<matrix_unit::mma>, T, float> qm({{70, 0, 3}, 2}, 72, 136, true, false);
    y = pm.y;
    moe::grouped_gemm<forward_by<matrix_unit::mma>, small>(test::on(), pm.x.mat(), pm.offsets.vec(), three(pm.w, 3), y.mat(), none, pm.gather.vec());
    CHECK(same_bits(y.values(), pm.run().values()));
    array<float> sums = qm.d_w;
    moe::grouped_gemm_weight_gradient<overwrite_by<matrix_unit::mma>, small>(test::on(), qm.d_y.mat(), qm.x.mat(), qm.offsets.vec(), three(sums, 3),
                                                                             none, qm.gather_d_y.vec());
    CHECK(same_bits(sums.values(), qm.run().values()));
    moe::detail::ragged_rows<lines, lines, T> const many{
        {pm.x.data(), 104, pm.gather.data()}, {pm.w.data(), 104}, y.data(), 136, 136, pm.offsets.data(), 3, g.rows(), 136, 104};
    auto const whole = pm.run().values();
    test::for_each_execution([&](test::space const& s, int) {
      y = pm.y;
      moe::launch("cut", moe::mma_tiles_kernel<false, 64, 64, 3, std::remove_const_t<decltype(many)>>,
                  {.blocks = 2, .threads = 64, .shared_bytes = sizeof(moe::detail::mma_layout<64, 64, 3, true, true>)}, s, many);
      CHECK(same_bits(y.values(), whole));
    });
  }

  CHECK(moe::grouped_gemm_scratch_bytes<T>(test::on(), 3, 131, 35) == 0);
  CHECK(moe::grouped_gemm_weight_gradient_scratch_bytes<T>(test::on(), 3, 75, 131) == 0);
}
#endif
