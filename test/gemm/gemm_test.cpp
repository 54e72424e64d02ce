#include <moe/gemm/gemm.hpp>

#include <test/guarded.hpp>
#include <test/support.hpp>

using moe::bf16;
using moe::gemm_config;
using moe::index_t;
using moe::matrix_unit;
using test::array;
using test::contains;
using test::error_of;
using test::on_cuda;
using test::same_bits;

namespace {

/// op(a)[i, k] as the type that sums are formed in.
template <class A, class T>
A element(array<T> const& a, bool transposed, index_t i, index_t k) {
  return static_cast<A>(transposed ? a(k, i) : a(i, k));
}

/// The contract: one chain of madd in ascending k, rounded once.
template <gemm_config C, class TA, class TB, class TC>
array<TC> chain(array<TA> const& a, array<TB> const& b, array<TC> const& before, index_t k_size) {
  using A = moe::accumulator<TC>;
  array<TC> c(before.rows(), before.columns());
  for (index_t i = 0; i < c.rows(); ++i)
    for (index_t j = 0; j < c.columns(); ++j) {
      A sum = C.accumulate ? static_cast<A>(before(i, j)) : A(0);
      for (index_t k = 0; k < k_size; ++k) sum = moe::madd(element<A>(a, C.transpose_a, i, k), element<A>(b, C.transpose_b, k, j), sum);
      c(i, j) = TC(sum);
    }
  return c;
}

struct shape {
  index_t m, n, k;
  index_t stride = 0;  ///< columns beyond a row, of each operand
  index_t offset = 0;  ///< elements before the first, so that addresses are odd
};

template <gemm_config C, class TA, class TB, class TC>
struct problem {
  array<TA> a;
  array<TB> b;
  array<TC> c;
  index_t k;
  explicit problem(shape s)
      : a(C.transpose_a ? s.k : s.m, C.transpose_a ? s.m : s.k, (C.transpose_a ? s.m : s.k) + s.stride, s.offset),
        b(C.transpose_b ? s.n : s.k, C.transpose_b ? s.k : s.n, (C.transpose_b ? s.k : s.n) + s.stride, s.offset),
        c(s.m, s.n, s.n + s.stride, s.offset), k(s.k) {
    a.normal(11), b.normal(12);
    if (C.accumulate) c.normal(13);  // else NaN, which must not show
  }
  array<TC> run(test::space const& space = test::on()) const {
    array<TC> result = c;
    test::memory<std::byte> memory(moe::gemm_scratch_bytes<TC>(space, c.rows(), c.columns(), k) + moe::alignment, std::byte{0xff});
    auto const misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % moe::alignment;
    moe::arena scratch(memory.data() + (misaligned == 0 ? 0 : moe::alignment - misaligned), memory.size() - moe::alignment);
    moe::gemm<C>(space, a.mat(), b.mat(), result.mat(), scratch);
    CHECK(scratch.used() == 0);
    return result;
  }
  array<TC> expected() const { return chain<C>(a, b, c, k); }
};

template <gemm_config C, class TA, class TB, class TC>
void check_bits(shape s) {
  problem<C, TA, TB, TC> const p(s);
  REQUIRE_MESSAGE(same_bits(p.run().values(), p.expected().values()), "m " << s.m << " n " << s.n << " k " << s.k);
}

/// All transpositions, with and without accumulation, for one triple of types.
template <class TA, class TB, class TC, matrix_unit U = matrix_unit::fma, class F>
void for_each_config(F&& f) {
  f.template operator()<gemm_config{false, false, false, U}, TA, TB, TC>();
  f.template operator()<gemm_config{true, false, false, U}, TA, TB, TC>();
  f.template operator()<gemm_config{false, true, false, U}, TA, TB, TC>();
  f.template operator()<gemm_config{true, true, false, U}, TA, TB, TC>();
  f.template operator()<gemm_config{false, false, true, U}, TA, TB, TC>();
  f.template operator()<gemm_config{true, false, true, U}, TA, TB, TC>();
  f.template operator()<gemm_config{false, true, true, U}, TA, TB, TC>();
  f.template operator()<gemm_config{true, true, true, U}, TA, TB, TC>();
}
/// The same for all units that multiply T.
template <class T, class F>
void for_each_unit(F&& f) {
  for_each_config<T, T, T>(f);
  if constexpr (std::is_same_v<T, bf16>) for_each_config<T, T, T, matrix_unit::mma>(f);
}

/// Beside the edges of every block: of registers and of the cache on the CPU; of a tile (64 x 64, 16 deep) on a GPU.
struct sizes {
  std::vector<index_t> m, n, k;
};
template <class T>
sizes sizes_to_try() {
  if (on_cuda) return {{0, 1, 3, 63, 64, 65, 129}, {0, 1, 4, 63, 64, 65, 130}, {0, 1, 2, 15, 16, 17, 31, 32, 33, 49}};
  index_t const rows = moe::detail::block_rows, columns = moe::detail::block_columns<moe::accumulator<T>>;
  return {{0, 1, rows - 1, rows, rows + 1, 31, 95, 96, 97},
          {0, 1, 11, columns - 1, columns, columns + 1, 511, 512, 513},
          {0, 1, 2, 15, 16, 17, 255, 256, 257, 511, 512, 513}};
}

template <class T>
void check_all_shapes() {
  auto const [rows, columns, depths] = sizes_to_try<T>();
  for_each_config<T, T, T>([rows = rows, columns = columns, depths = depths]<gemm_config C, class TA, class TB, class TC>() {
    for (index_t m : rows) check_bits<C, TA, TB, TC>({m, 33, 17});
    for (index_t n : columns) check_bits<C, TA, TB, TC>({13, n, 9});
    for (index_t k : depths) check_bits<C, TA, TB, TC>({13, 35, k});
    check_bits<C, TA, TB, TC>({97, 33, on_cuda ? 37 : 257, 3, 1});
    check_bits<C, TA, TB, TC>({64, 40, 24, 4, 4});
    check_bits<C, TA, TB, TC>({1, 1, 300, 7, 5});
    check_bits<C, TA, TB, TC>({7, 40, 5, 1, 3});
  });
}

}  // namespace

TEST_CASE("gemm: every output is one chain of madd in ascending k, bit for bit, in every transposition (double)") { check_all_shapes<double>(); }
TEST_CASE("gemm: every output is one chain of madd in ascending k, bit for bit, in every transposition (float)") { check_all_shapes<float>(); }
TEST_CASE("gemm: every output is one chain of madd in ascending k, bit for bit, in every transposition (bf16)") { check_all_shapes<bf16>(); }

TEST_CASE("gemm: every mixture of storage types") {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    check_bits<C, TA, TB, TC>({13, 33, 257, 1, 1});
    check_bits<C, TA, TB, TC>({13, 7, 19});
  };
  auto const each = [&]<class TA, class TB, class TC>() {
    check.template operator()<gemm_config{false, false, false, matrix_unit::fma}, TA, TB, TC>();
    check.template operator()<gemm_config{true, true, true, matrix_unit::fma}, TA, TB, TC>();
  };
  each.operator()<bf16, bf16, float>();
  each.operator()<float, bf16, float>();
  each.operator()<bf16, float, float>();
  each.operator()<bf16, float, bf16>();
  each.operator()<float, bf16, bf16>();
  each.operator()<float, float, bf16>();
  each.operator()<float, float, double>();
  each.operator()<float, double, double>();
  each.operator()<bf16, double, float>();
  check.operator()<gemm_config{false, true, false, matrix_unit::fma}, bf16, bf16, float>();
  check.operator()<gemm_config{true, false, false, matrix_unit::fma}, bf16, bf16, float>();
}

TEST_CASE_TEMPLATE("gemm: near a product in double; bf16 is rounded once", T, float, double, bf16) {
  problem<gemm_config{.transpose_b = true}, T, T, T> const p({29, 47, 600});
  auto const c = p.run();
  double const unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;  // of the sums
  double const last = std::is_same_v<T, bf16> ? 0x1p-8 : 0.0;         // of a rounding to bf16, relative
  for (index_t i = 0; i < 29; ++i)
    for (index_t j = 0; j < 47; ++j) {
      double sum = 0, size = 0;
      for (index_t k = 0; k < 600; ++k) {
        double const x = static_cast<double>(p.a(i, k)) * static_cast<double>(p.b(j, k));
        sum += x, size += std::abs(x);
      }
      REQUIRE(std::abs(static_cast<double>(c(i, j)) - sum) <= 600 * unit * size + last * std::abs(sum));
    }
}

TEST_CASE_TEMPLATE("gemm: products of small integers are exact", T, float, double, bf16) {
  test::scratch memory(std::size_t{4} << 20);
  for (index_t m : {0, 1, 11, 12, 13, 31, 32, 33, 95, 96, 97})
    for (index_t n : {1, 12, 31, 32, 33, 97}) {
      if (on_cuda && m % 32 > 1 && n != 97) continue;
      index_t const k = 1 + (m * 7 + n) % 60;
      array<T> a(m, k), b(k, n);
      array<float> c(m, n);
      a.integers(1), b.integers(2);
      auto scratch = memory.get();
      if constexpr (std::is_same_v<T, double>) {
        array<double> wide(m, n);
        moe::gemm(test::on(), a.mat(), b.mat(), wide.mat(), scratch);
        for (index_t i = 0; i < m; ++i)
          for (index_t j = 0; j < n; ++j) c(i, j) = static_cast<float>(wide(i, j));
      } else {
        moe::gemm(test::on(), a.mat(), b.mat(), c.mat(), scratch);
      }
      for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < n; ++j) {
          int sum = 0;
          for (index_t l = 0; l < k; ++l) sum += static_cast<int>(static_cast<float>(a(i, l))) * static_cast<int>(static_cast<float>(b(l, j)));
          REQUIRE(c(i, j) == static_cast<float>(sum));
        }
    }
}

TEST_CASE_TEMPLATE("gemm: the same bits however it is executed", T, float, double, bf16) {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    if (on_cuda && C.accumulate != (C.transpose_a != C.transpose_b)) return;  // four of eight
    for (shape const s : {on_cuda ? shape{70, 75, 40, 1, 1} : shape{205, 523, 270, 1, 1}, shape{72, 72, 136}}) {
      if (on_cuda && C.unit == matrix_unit::fma && s.stride == 0) continue;
      problem<C, TA, TB, TC> const p(s);
      std::vector<TC> first;
      test::for_each_execution([&](test::space const& space, int i) {
        auto const c = p.run(space).values();
        if (i == 0) first = c;
        REQUIRE(same_bits(c, first));
      });
#if !defined(MOE_TEST_CUDA)
      REQUIRE(same_bits(p.run(moe::cpu{0}).values(), first));
#endif
    }
  };
  for_each_unit<T>(check);
}

TEST_CASE_TEMPLATE("gemm: a row alone and a column alone have the bits they have among others", T, float, double, bf16) {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    index_t const m = 101, n = 67, k = on_cuda ? 45 : 290;
    problem<C, TA, TB, TC> const p({m, n, k});
    auto const all = p.run();
    test::scratch memory(std::size_t{4} << 20);
    for (index_t i : {0, 5, 12, 95, 96, 100}) {
      array<TC> row(1, n);
      for (index_t j = 0; j < n; ++j) row(0, j) = p.c(i, j);
      auto const a = C.transpose_a ? moe::columns_of(p.a.mat(), i, i + 1) : moe::rows_of(p.a.mat(), i, i + 1);
      auto scratch = memory.get();
      moe::gemm<C>(test::on(), a, p.b.mat(), row.mat(), scratch);
      for (index_t j = 0; j < n; ++j) REQUIRE(same_bits<TC>({row(0, j)}, {all(i, j)}));
    }
    for (index_t j : {0, 31, 32, 63, 66}) {
      array<TC> column(m, 1);
      for (index_t i = 0; i < m; ++i) column(i, 0) = p.c(i, j);
      auto const b = C.transpose_b ? moe::rows_of(p.b.mat(), j, j + 1) : moe::columns_of(p.b.mat(), j, j + 1);
      auto scratch = memory.get();
      moe::gemm<C>(test::on(), p.a.mat(), b, column.mat(), scratch);
      for (index_t i = 0; i < m; ++i) REQUIRE(same_bits<TC>({column(i, 0)}, {all(i, j)}));
    }
  };
  for_each_unit<T>(check);
}

TEST_CASE("gemm: views with fixed extents, and outputs that are parts of larger matrices") {
  array<float> a(5, 8), b(16, 8), c(5, 40);
  a.normal(1), b.normal(2), c.fill(9.0f);
  test::scratch memory(1 << 22);
  auto scratch = memory.get();
  moe::tensor<float const, moe::dyn, 8> const fixed = a.mat();
  moe::tensor<float, moe::dyn, 16> const part = moe::columns_of(c.mat(), 10, 26);
  moe::gemm<gemm_config{.transpose_b = true}>(test::on(), fixed, b.mat(), part, scratch);
  array<float> const expected = chain<gemm_config{.transpose_b = true}>(a, b, array<float>(5, 16), 8);
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 40; ++j) REQUIRE(c(i, j) == (j >= 10 && j < 26 ? expected(i, j - 10) : 9.0f));
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
TEST_CASE_TEMPLATE("gemm: reads nothing before the first and behind the last element", T, float, double, bf16) {
  for (auto where : {test::guard::after, test::guard::before})
    for (index_t m : {1, 3, 13, 16})
      for (index_t n : {1, 5, 17, 33, 48})
        for (index_t k : {1, 3, 16, 35}) {
          if (on_cuda && (m % 3 == 1) != (n % 4 == 1)) continue;  // half of them
          test::guarded<T> a(m * k, where), b(k * n, where), c(m * n, where);
          for (index_t i = 0; i < m * k; ++i) a[i] = T(static_cast<float>(i % 5 - 2));
          for (index_t i = 0; i < k * n; ++i) b[i] = T(static_cast<float>(i % 7 - 3));
          test::scratch static memory(1 << (on_cuda ? 12 : 22));
          auto const run = [&]<gemm_config C>() {
            moe::arena scratch = memory.get();
            moe::gemm<C>(test::on(), C.transpose_a ? moe::mat(a.data(), k, m) : moe::mat(a.data(), m, k),
                         C.transpose_b ? moe::mat(b.data(), n, k) : moe::mat(b.data(), k, n), moe::mat(c.data(), m, n), scratch);
            REQUIRE(!std::isnan(static_cast<float>(c[m * n - 1])));
          };
          run.template operator()<gemm_config{false, false}>();
          run.template operator()<gemm_config{true, true}>();
          run.template operator()<gemm_config{false, true}>();
          run.template operator()<gemm_config{true, false}>();
        }
}
#endif

TEST_CASE_TEMPLATE("gemm: NaN and infinity reach exactly the outputs they belong to", T, float, double, bf16) {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    problem<C, TA, TB, TC> p({30, 40, 270});
    auto const clean = p.run();
    (C.transpose_a ? p.a(265, 7) : p.a(7, 265)) = test::quiet_nan<TA>();
    (C.transpose_b ? p.b(33, 3) : p.b(3, 33)) = test::quiet_nan<TB>();
    auto const dirty = p.run();
    for (index_t i = 0; i < 30; ++i)
      for (index_t j = 0; j < 40; ++j) {
        if (i == 7 || j == 33) REQUIRE(std::isnan(static_cast<double>(dirty(i, j))));
        else REQUIRE(same_bits<TC>({dirty(i, j)}, {clean(i, j)}));
      }
  };
  for_each_unit<T>(check);
  array<T> a(1, 2), b(2, 1), c(1, 1);
  a(0, 0) = T(std::numeric_limits<float>::infinity()), a(0, 1) = T(1.0f);
  b(0, 0) = T(0.0f), b(1, 0) = T(1.0f);
  test::scratch memory(1 << 22);
  auto scratch = memory.get();
  moe::gemm(test::on(), a.mat(), b.mat(), c.mat(), scratch);
  CHECK(std::isnan(static_cast<double>(c(0, 0))));  // infinity times zero, also where a zero weight could be skipped
}

TEST_CASE_TEMPLATE("gemm: nothing to sum gives zeros, or leaves c as it is when accumulating; nothing to write writes nothing", T, float, double,
                   bf16) {
  problem<gemm_config{}, T, T, T> const zeros({13, 40, 0, 2, 1});
  for (T x : zeros.run().values()) REQUIRE(same_bits<T>({x}, {T(0.0f)}));
  problem<gemm_config{.accumulate = true}, T, T, T> const kept({13, 40, 0, 2, 1});
  CHECK(same_bits(kept.run().values(), kept.c.values()));
  problem<gemm_config{}, T, T, T>({0, 5, 7}).run();
  problem<gemm_config{}, T, T, T>({5, 0, 7}).run();
  problem<gemm_config{}, T, T, T>({0, 0, 0}).run();
}

TEST_CASE("gemm: wrong arguments are named before anything is written") {
  array<float> a(3, 4), b(4, 5), c(3, 5);
  a.normal(1), b.normal(2), c.fill(2.0f);
  test::scratch memory(1 << 22);
  auto scratch = memory.get();
  auto const run = [&]<gemm_config C>(moe::matrix_view<float const> x, moe::matrix_view<float const> y, moe::matrix_view<float> z) {
    return error_of([&] { moe::gemm<C>(test::on(), x, y, z, scratch); });
  };
  constexpr gemm_config plain{}, both{.transpose_a = true, .transpose_b = true};
  array<float> d(2, 5), e(3, 6), f(5, 5);
  CHECK(run.operator()<plain>(a.mat(), b.mat(), d.mat()) == "gemm: a has 3 rows (transposed: columns), c has 2");
  CHECK(run.operator()<plain>(a.mat(), b.mat(), e.mat()) == "gemm: b has 5 columns (transposed: rows), c has 6");
  CHECK(run.operator()<plain>(a.mat(), f.mat(), c.mat()) == "gemm: a sums over 4 elements, b over 5");
  CHECK(contains(run.operator()<both>(a.mat(), b.mat(), c.mat()), "gemm: a has 4 rows"));
  try {
    moe::gemm(test::on(), a.mat(), b.mat(), d.mat(), scratch);
    FAIL("must throw");
  } catch (moe::error const& x) {
    CHECK(x.code == moe::errc::shape_mismatch);
  }
  for (float x : c.values()) CHECK(x == 2.0f);
  for (float x : d.values()) CHECK(std::isnan(x));
}

#if !defined(MOE_TEST_CUDA)
TEST_CASE("gemm: scratch of exactly the stated size is enough, less is an error that says so") {
  array<float> a(20, 30), b(30, 50), c(20, 50);
  a.normal(1), b.normal(2);
  moe::buffer const memory(moe::gemm_scratch_bytes<float>(test::on(), 20, 50, 30));
  moe::arena enough(memory), less(memory.data(), memory.bytes() - moe::alignment), none(nullptr, 0), measuring;
  CHECK_NOTHROW(moe::gemm(test::on(), a.mat(), b.mat(), c.mat(), enough));
  c.fill(3.0f);
  for (moe::arena* scratch : {&less, &none, &measuring}) {
    try {
      moe::gemm(test::on(), a.mat(), b.mat(), c.mat(), *scratch);
      FAIL("must throw");
    } catch (moe::error const& e) {
      CHECK(e.code == moe::errc::out_of_memory);
      CHECK(contains(e.what(), scratch == &measuring ? "measuring" : "gemm: scratch has"));
      CHECK(scratch->used() == 0);
    }
  }
  for (float x : c.values()) CHECK(x == 3.0f);
}

TEST_CASE("gemm: works inside a parallel region of the caller") {
  problem<gemm_config{}, float, float, float> const p({60, 70, 80});
  auto const expected = p.run().values();
  int wrong = 0;
#pragma omp parallel num_threads(4) reduction(+ : wrong)
  {
    array<float> c = p.c;
    moe::buffer const memory(moe::gemm_scratch_bytes<float>(moe::cpu{1}, 60, 70, 80));
    moe::arena scratch(memory);
    moe::gemm(moe::cpu{1}, p.a.mat(), p.b.mat(), c.mat(), scratch);
    wrong += !same_bits(c.values(), expected);
  }
  CHECK(wrong == 0);
}
#endif

TEST_CASE("gemm: the two products of its gradient agree with central differences") {
  index_t const m = 13, n = 9, k = 7;
  array<double> x(m, k), w(n, k), weight(m, n), d_x(m, k), d_w(n, k);
  x.normal(1), w.normal(2), weight.normal(3);
  test::scratch memory(std::size_t{4} << 20);
  auto const loss = [&] {  // sum of weight * (x w^T)^2
    array<double> y(m, n);
    auto scratch = memory.get();
    moe::gemm<gemm_config{.transpose_b = true}>(test::on(), x.mat(), w.mat(), y.mat(), scratch);
    double sum = 0;
    for (index_t i = 0; i < m; ++i)
      for (index_t j = 0; j < n; ++j) sum += weight(i, j) * y(i, j) * y(i, j);
    return sum;
  };
  array<double> y(m, n), d_y(m, n);
  auto scratch = memory.get();
  moe::gemm<gemm_config{.transpose_b = true}>(test::on(), x.mat(), w.mat(), y.mat(), scratch);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) d_y(i, j) = 2 * weight(i, j) * y(i, j);
  moe::gemm(test::on(), d_y.mat(), w.mat(), d_x.mat(), scratch);
  moe::gemm<gemm_config{.transpose_a = true}>(test::on(), d_y.mat(), x.mat(), d_w.mat(), scratch);
  test::check_gradient("x", loss, x.data(), m * k, d_x.values(), {.step = 1e-3});
  test::check_gradient("w", loss, w.data(), n * k, d_w.values(), {.step = 1e-3});
  test::check_direction("x", loss, x.data(), m * k, d_x.values());
}

namespace {
template <gemm_config C, class TC>
void check_integers(shape s) {
  problem<C, bf16, bf16, TC> p(s);
  p.a.integers(1), p.b.integers(2);
  if (C.accumulate) p.c.integers(3);
  REQUIRE_MESSAGE(same_bits(p.run().values(), p.expected().values()), "m " << s.m << " n " << s.n << " k " << s.k);
}
}  // namespace

TEST_CASE_TEMPLATE("gemm on tensor cores: small integers have the bits of the chain, every shape and transposition", T, float, bf16) {
  for_each_config<bf16, bf16, T, matrix_unit::mma>([]<gemm_config C, class TA, class TB, class TC>() {
    if (C.accumulate != (C.transpose_a != std::is_same_v<T, bf16>)) return;  // half of them for each type
    for (index_t m : {1, 7, 64, 65, 129}) check_integers<C, TC>({m, 24, 40});
    for (index_t n : {1, 2, 8, 31, 33, 128, 257}) check_integers<C, TC>({24, n, 17});
    for (index_t k : {0, 1, 8, 15, 16, 17, 32, 33, 96, 129, 200}) check_integers<C, TC>({16, 40, k});
    for (index_t stride : {0, 1, 8})
      for (index_t offset : {0, 1, 2, 8}) check_integers<C, TC>({24, 40, 72, stride, offset});
  });
}

TEST_CASE("gemm on tensor cores: splitting the sum at a multiple of 16 continues it") {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    problem<C, bf16, bf16, float> const p({20, 24, 72});
    auto const whole = p.run();
    test::scratch memory(std::size_t{4} << 20);
    for (index_t split : {16, 32, 64}) {
      array<float> c = p.c;
      auto const a = p.a.mat(), b = p.b.mat();
      auto const part = [&](auto const& x, bool along_rows, index_t begin, index_t end) {
        return along_rows ? moe::mat(x.row(begin), end - begin, x.template extent<1>()).with_row_stride(x.row_stride())
                          : moe::mat(x.data() + begin, x.template extent<0>(), end - begin).with_row_stride(x.row_stride());
      };
      auto scratch = memory.get();
      constexpr gemm_config add{C.transpose_a, C.transpose_b, true, C.unit};
      moe::gemm<C>(test::on(), part(a, C.transpose_a, 0, split), part(b, !C.transpose_b, 0, split), c.mat(), scratch);
      moe::gemm<add>(test::on(), part(a, C.transpose_a, split, 72), part(b, !C.transpose_b, split, 72), c.mat(), scratch);
      CHECK(same_bits(c.values(), whole.values()));
    }
  };
  for_each_config<bf16, bf16, float, matrix_unit::mma>(check);
}

TEST_CASE("gemm of bf16 by tensor cores or in pairs: near a product in double; automatic means them where both factors are bf16") {
  constexpr matrix_unit unit = on_cuda ? matrix_unit::mma : matrix_unit::dot;
  problem<gemm_config{.transpose_b = true, .unit = unit}, bf16, bf16, float> const p({70, 47, 333});
  auto const c = p.run();
  for (index_t i = 0; i < 70; ++i)
    for (index_t j = 0; j < 47; ++j) {
      double sum = 0, size = 0;
      for (index_t k = 0; k < 333; ++k) {
        double const x = static_cast<double>(p.a(i, k)) * static_cast<double>(p.b(j, k));
        sum += x, size += std::abs(x);
      }
      REQUIRE(std::abs(static_cast<double>(c(i, j)) - sum) <= 333 * 0x1p-24 * size);
    }
  CHECK(same_bits(problem<gemm_config{.transpose_b = true}, bf16, bf16, float>({70, 47, 333}).run().values(), c.values()));
}

#if defined(MOE_TEST_CUDA)
TEST_CASE_TEMPLATE("gemm: results do not depend on the tile; no scratch is needed", T, float, double, bf16) {
  auto const check = []<gemm_config C, class TA, class TB, class TC>() {
    problem<C, TA, TB, TC> const p({70, 131, 35});
    array<TC> c = p.c;
    moe::arena none;
    moe::gemm<C, moe::gemm_tuning{.fma = {.rows = 8, .columns = 4}}>(test::on(), p.a.mat(), p.b.mat(), c.mat(), none);
    CHECK(same_bits(c.values(), p.expected().values()));
  };
  for_each_config<T, T, T>(check);
  if constexpr (std::is_same_v<T, bf16>)
    for_each_config<T, T, float, matrix_unit::mma>([]<gemm_config C, class TA, class TB, class TC>() {
      problem<C, TA, TB, TC> const p({70, 136, 104});
      array<TC> c = p.c;
      moe::arena none;
      moe::gemm<C, moe::gemm_tuning{.mma = {.rows = 64, .columns = 64, .stages = 3}}>(test::on(), p.a.mat(), p.b.mat(), c.mat(), none);
      CHECK(same_bits(c.values(), p.run().values()));
      moe::gemm<C, moe::gemm_tuning{.mma = {.rows = 64, .columns = 256, .stages = 2}}>(test::on(), p.a.mat(), p.b.mat(), (c = p.c).mat(), none);
      CHECK(same_bits(c.values(), p.run().values()));
    });
  CHECK(moe::gemm_scratch_bytes<T>(test::on(), 70, 131, 35) == 0);
}
#endif
