#include <moe/core/simd.hpp>

#include "test/guarded.hpp"
#include "test/support.hpp"

using moe::bf16;
using moe::index_t;
using moe::simd;

namespace {

template <class T>
simd<T> ramp(T first, T step = 1) {
  simd<T> r = simd<T>::zero();
  for (int i = 0; i < simd<T>::width; ++i) r.v[i] = first + step * static_cast<T>(i);
  return r;
}
template <class T>
std::vector<T> lanes(simd<T> x) {
  std::vector<T> v;
  for (int i = 0; i < simd<T>::width; ++i) v.push_back(x[i]);
  return v;
}
template <class T>
bool same(T a, T b) {
  return test::same_bits<T>({a}, {b});
}
/// Distance of `x` from the exact value in units of the last place of a float near it.
double ulp_error(float x, double exact) {
  double const unit = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
  return std::abs(static_cast<double>(x) - exact) / unit;
}

/// `Memory` is the stored type, `T` the type of the lanes.
template <class T, class Memory>
void check_tails() {
  int const width = simd<T>::width;
  for (index_t n = -1; n <= width + 1; ++n) {
    index_t const inside = std::clamp<index_t>(n, 0, width);
    for (auto where : {test::guard::after, test::guard::before}) {
      test::guarded<Memory> memory(inside, where);  // one byte further is another page, which nobody may touch
      for (index_t i = 0; i < inside; ++i) memory[i] = Memory(static_cast<T>(i + 1));
      simd<T> const x = simd<T>::load(memory.data(), n);
      for (int i = 0; i < width; ++i) REQUIRE(x[i] == (i < inside ? static_cast<T>(i + 1) : T(0)));
      ramp<T>(T(10)).store(memory.data(), n);
      for (index_t i = 0; i < inside; ++i) REQUIRE(static_cast<T>(memory[i]) == static_cast<T>(10 + i));
    }
    test::array<Memory> beside(1, std::max<index_t>(inside, 1), 0, 1);  // canaries on both sides, an odd address
    beside(0, 0) = Memory(T(-7.25));
    ramp<T>(T(10)).store(beside.data(), n);
    if (inside == 0) REQUIRE(static_cast<T>(beside(0, 0)) == T(-7.25));
  }
  test::guarded<Memory> full(width);
  ramp<T>(T(3)).store(full.data());
  CHECK(lanes(simd<T>::load(full.data())) == lanes(ramp<T>(T(3))));
}

}  // namespace

TEST_CASE("load and store: nothing beyond the given number of lanes is touched") {
  check_tails<float, float>();
  check_tails<double, double>();
  check_tails<float, bf16>();
}

TEST_CASE("load and store of bf16: exact one way, rounded to nearest even the other, NaN stays") {
  test::array<float> x(1, simd<float>::width);
  x.normal(3);
  x(0, 0) = test::quiet_nan<float>();
  x(0, 1) = std::numeric_limits<float>::infinity();
  x(0, 2) = 1.0f + 0x1p-8f;  // a tie
  test::array<bf16> y(1, simd<float>::width);
  simd<float>::load(x.data()).store(y.data());
  for (int i = 0; i < simd<float>::width; ++i) CHECK(y(0, i).bits == bf16(x(0, i)).bits);
  auto const back = simd<float>::load(y.data());
  for (int i = 0; i < simd<float>::width; ++i) CHECK(same(back[i], static_cast<float>(y(0, i))));
}

namespace {
/// How many of the floats with these bits a full and a partial store round otherwise than bf16(float) does, or touch what they should not.
index_t stored_wrongly(std::uint32_t (&bits)[simd<float>::width]) {
  constexpr int width = simd<float>::width;
  simd<float> x = simd<float>::zero();
  std::memcpy(&x.v, bits, sizeof x.v);  // lane by lane a signalling NaN could become quiet on its way
  bf16 all[width], some[width] = {};
  x.store(all);
  x.store(some, width - 1);
  index_t wrong = some[width - 1].bits != 0;
  for (int i = 0; i < width; ++i) {
    std::uint16_t const expected = bf16(std::bit_cast<float>(bits[i])).bits;
    wrong += all[i].bits != expected;
    wrong += i < width - 1 && some[i].bits != expected;
  }
  return wrong;
}
}  // namespace

TEST_CASE("store of bf16: the bits of bf16(float), for each upper half with lower halves on and beside the tie, and for 10.7 million others") {
  constexpr int width = simd<float>::width;
  index_t wrong = 0;
  for (std::uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
    for (std::uint32_t high = 0; high < 0x10000u; high += width) {  // denormal numbers, both zeros, infinities and every kind of NaN among them
      std::uint32_t bits[width];
      for (int i = 0; i < width; ++i) bits[i] = ((high + static_cast<std::uint32_t>(i)) << 16) | low;
      wrong += stored_wrongly(bits);
    }
  for (std::uint64_t first = 0; first < (std::uint64_t{1} << 32); first += static_cast<std::uint64_t>(width) * 401) {
    std::uint32_t bits[width];
    for (int i = 0; i < width; ++i) bits[i] = static_cast<std::uint32_t>(first + 401 * static_cast<std::uint64_t>(i));
    wrong += stored_wrongly(bits);
  }
  for (int lane = 0; lane < width; ++lane)  // one denormal number among others
    for (std::uint32_t denormal : {0x00000001u, 0x00018000u, 0x007fffffu, 0x80400000u}) {
      std::uint32_t bits[width];
      for (int i = 0; i < width; ++i) bits[i] = i == lane ? denormal : 0x3f80ffffu;
      wrong += stored_wrongly(bits);
    }
  CHECK(wrong == 0);
}

TEST_CASE("load of bf16: all 65536 of them, bit for bit") {
  constexpr int width = simd<float>::width;
  index_t wrong = 0;
  for (std::uint32_t first = 0; first < 0x10000u; first += width) {
    bf16 stored[width];
    for (int i = 0; i < width; ++i) stored[i].bits = static_cast<std::uint16_t>(first + static_cast<std::uint32_t>(i));
    for (index_t n : {index_t{width}, index_t{width - 1}}) {
      simd<float> const x = simd<float>::load(stored, n);
      std::uint32_t bits[width];
      std::memcpy(bits, &x.v, sizeof x.v);
      for (int i = 0; i < width; ++i) wrong += bits[i] != (i < n ? (first + static_cast<std::uint32_t>(i)) << 16 : 0u);
    }
  }
  CHECK(wrong == 0);
}

#if defined(MOE_AVX512_BF16)
namespace {
float without_denormals(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
/// madd_pairs, one lane, by its contract.
float reference_pair(bf16 const* a, bf16 const* b, float c) {
  for (int i : {1, 0}) c = without_denormals(std::fma(without_denormals(a[i]), without_denormals(b[i]), without_denormals(c)));
  return c;
}
}  // namespace

TEST_CASE("madd_pairs: the odd product first, one rounding per addition, denormal numbers count as 0, NaN stays") {
  std::uint64_t state = 1;
  auto const random = [&] { return static_cast<std::uint32_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 32); };
  index_t wrong = 0, numbers = 0;
  for (int round = 0; round < 40000; ++round) {
    // Odd rounds: any bits at all. Even ones: numbers of about 1, whose sums round.
    std::uint32_t const keep = round % 2 == 0 ? 0x81ffffffu : ~0u, set = round % 2 == 0 ? 0x3e000000u : 0u;
    bf16 a[32], b[32];
    float c[16], r[16];
    auto const any = [&] { return (random() & keep) | set; };
    for (int i = 0; i < 32; ++i) a[i].bits = static_cast<std::uint16_t>(any() >> 16), b[i].bits = static_cast<std::uint16_t>(any() >> 16);
    for (float& x : c) x = std::bit_cast<float>(any());
    moe::madd_pairs(moe::bf16_pairs::load(a), moe::bf16_pairs::load(b), simd<float>::load(c)).store(r);
    for (int i = 0; i < 16; ++i) {
      float const expected = reference_pair(a + 2 * i, b + 2 * i, c[i]);
      numbers += expected == expected;
      wrong += std::isnan(expected) ? !std::isnan(r[i]) : !same(r[i], expected);
    }
  }
  CHECK(wrong == 0);
  CHECK(numbers > 500000);
}

TEST_CASE("bf16_pairs: loads of n elements read nothing beyond and fill with 0; all broadcasts two neighbours; packed lanes are taken as bits") {
  test::array<bf16> one(1, 32);
  for (int i = 0; i < 32; ++i) one(0, i) = bf16(1.0f);
  auto const ones = moe::bf16_pairs::load(one.data());
  auto const sums = [&](moe::bf16_pairs x) { return lanes(moe::madd_pairs(x, ones, simd<float>::zero())); };
  for (index_t n = -1; n <= 33; ++n) {
    index_t const inside = std::clamp<index_t>(n, 0, 32);
    for (auto where : {test::guard::after, test::guard::before}) {
      test::guarded<bf16> memory(inside, where);
      for (index_t i = 0; i < inside; ++i) memory[i] = bf16(static_cast<float>(i + 1));
      auto const r = sums(moe::bf16_pairs::load(memory.data(), n));
      for (index_t i = 0; i < 16; ++i)
        REQUIRE(r[static_cast<std::size_t>(i)] == static_cast<float>((2 * i < inside ? 2 * i + 1 : 0) + (2 * i + 1 < inside ? 2 * i + 2 : 0)));
    }
  }
  test::guarded<bf16> two(2);
  two[0] = bf16(3.0f), two[1].bits = 0x7f81;  // with the bits of a signalling NaN above, the pair as a float would not survive arithmetic
  auto const broadcast = moe::bf16_pairs::all(two.data());
  for (int i = 0; i < 32; ++i) REQUIRE(static_cast<std::uint16_t>(broadcast.v[i]) == two[i % 2].bits);
  float packed[16];
  for (float& p : packed) p = std::bit_cast<float>((std::uint32_t{bf16(5.0f).bits} << 16) | bf16(2.0f).bits);
  for (float r : sums(simd<float>::load(packed))) REQUIRE(r == 7.0f);
}
#endif

TEST_CASE_TEMPLATE("arithmetic: each lane is what the scalar operation gives", T, float, double) {
  int const width = simd<T>::width;
  test::array<T> a(50, width), b(50, width), c(50, width);
  a.normal(1), b.normal(2), c.normal(3);
  for (index_t r = 0; r < 50; ++r) {
    auto const x = simd<T>::load(&a(r)), y = simd<T>::load(&b(r)), z = simd<T>::load(&c(r));
    for (int i = 0; i < width; ++i) {
      REQUIRE(same((x + y)[i], a(r, i) + b(r, i)));
      REQUIRE(same((x - y)[i], a(r, i) - b(r, i)));
      REQUIRE(same((x * y)[i], a(r, i) * b(r, i)));
      REQUIRE(same((x / y)[i], a(r, i) / b(r, i)));
      REQUIRE(same((-x)[i], -a(r, i)));
      REQUIRE(same(moe::madd(x, y, z)[i], moe::madd(a(r, i), b(r, i), c(r, i))));
      REQUIRE(same(moe::sqrt(x * x)[i], std::sqrt(a(r, i) * a(r, i))));
      REQUIRE(same(simd<T>::all(a(r, i))[i], a(r, i)));
    }
  }
  CHECK(std::signbit((-simd<T>::zero())[0]));
}

TEST_CASE_TEMPLATE("all: also negative zero, infinity and NaN come through", T, float, double) {
  T const inf = std::numeric_limits<T>::infinity();
  for (int i = 0; i < simd<T>::width; ++i) {
    CHECK(std::signbit(simd<T>::all(T(-0.0))[i]));
    CHECK(simd<T>::all(-inf)[i] == -inf);
    CHECK(std::isnan(simd<T>::all(test::quiet_nan<T>())[i]));
  }
}

TEST_CASE_TEMPLATE("transpose: lane j of row i becomes lane i of row j", T, float, double) {
  constexpr int width = simd<T>::width;
  simd<T> square[width];
  for (int i = 0; i < width; ++i) square[i] = ramp<T>(static_cast<T>(100 * i));
  moe::transpose(square);
  for (int i = 0; i < width; ++i)
    for (int j = 0; j < width; ++j) REQUIRE(square[i][j] == static_cast<T>(100 * j + i));
}

TEST_CASE_TEMPLATE("sum across lanes: the tree of halves", T, float, double) {
  int const width = simd<T>::width;
  test::array<T> x(200, width);
  x.normal(4);
  for (index_t r = 0; r < 200; ++r) {
    std::vector<T> v = lanes(simd<T>::load(&x(r)));
    for (int half = width / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) v[static_cast<std::size_t>(i)] += v[static_cast<std::size_t>(i + half)];
    REQUIRE(same(moe::sum(simd<T>::load(&x(r))), v[0]));
  }
}

TEST_CASE_TEMPLATE("max: of pairs and across lanes; one NaN anywhere is seen", T, float, double) {
  int const width = simd<T>::width;
  for (int at = 0; at < width; ++at) {
    simd<T> x = ramp<T>(T(-100));
    CHECK(moe::max(x) == x[width - 1]);
    x.v[at] = T(5);
    CHECK(moe::max(x) == T(5));
    CHECK(moe::max(-x) >= T(101 - width));
    x.v[at] = test::quiet_nan<T>();
    CHECK(std::isnan(moe::max(x)));
    CHECK(std::isnan(moe::max(x, simd<T>::zero())[at]));
    CHECK(std::isnan(moe::max(simd<T>::zero(), x)[at]));
  }
  auto const pair = moe::max(ramp<T>(T(-1)), simd<T>::zero());
  for (int i = 0; i < width; ++i) CHECK(pair[i] == static_cast<T>(i == 0 ? 0 : i - 1));
  CHECK(moe::max(simd<T>::all(-std::numeric_limits<T>::infinity())) == -std::numeric_limits<T>::infinity());
}

TEST_CASE("exp of float: within 1.2 ulp of the exact value over the whole range, equal to the scalar forms, never NaN for a number") {
  double worst = 0;
  float worst_at = 0;
  std::uint64_t different = 0, outside = 0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += static_cast<std::uint64_t>(simd<float>::width) * 401) {
    simd<float> x = simd<float>::zero();
    for (int i = 0; i < simd<float>::width; ++i)  // stride 401: 10.7 million of the 2^32 patterns
      x.v[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits + 401 * static_cast<std::uint64_t>(i)));
    simd<float> const e = moe::exp(x);
    for (int i = 0; i < simd<float>::width; ++i) {
      if (std::isnan(x[i])) {
        outside += !std::isnan(e[i]);
        continue;
      }
      different += !same(e[i], moe::exp_scalar(x[i]));
      double const exact = std::exp(static_cast<double>(x[i]));
      if (x[i] < -104.0f) outside += !same(e[i], 0.0f);
      else if (x[i] > 88.73f) outside += e[i] != std::numeric_limits<float>::infinity();
      else if (std::isinf(e[i])) outside += x[i] < 88.722839f;  // beyond the largest float
      else if (double const error = ulp_error(e[i], exact); !(error <= worst)) worst = error, worst_at = x[i];
    }
  }
  CHECK(different == 0);
  CHECK(outside == 0);
  CHECK_MESSAGE(worst <= 1.2, worst << " ulp at " << worst_at);
  CHECK(worst > 0.4);  // the comparison compares something
}

TEST_CASE_TEMPLATE("exp: special values", T, float, double) {
  T const inf = std::numeric_limits<T>::infinity();
  CHECK(moe::exp_one(T(0)) == T(1));
  CHECK(moe::exp_one(T(-0.0)) == T(1));
  CHECK(moe::exp_one(inf) == inf);
  CHECK(same(moe::exp_one(-inf), T(0)));
  CHECK(std::isnan(moe::exp_one(test::quiet_nan<T>())));
  CHECK(moe::exp_one(T(1000)) == inf);
  CHECK(same(moe::exp_one(T(-1000)), T(0)));
  CHECK(moe::exp_one(T(-80)) > T(0));
}

TEST_CASE_TEMPLATE("exp_one is a lane of exp, whatever the other lanes hold", T, float, double) {
  int const width = simd<T>::width;
  test::array<T> x(200, width);
  x.normal(7, 30.0);
  x(1, 0) = test::quiet_nan<T>();
  x(1, 1) = std::numeric_limits<T>::infinity();
  for (index_t r = 0; r < 200; ++r) {
    simd<T> const e = moe::exp(simd<T>::load(&x(r)));
    for (int i = 0; i < width; ++i) {
      REQUIRE(same(e[i], moe::exp_one(x(r, i))));
      REQUIRE(same(e[i], moe::exp_scalar(x(r, i))));
    }
  }
}

TEST_CASE_TEMPLATE("sigmoid: 1 / (1 + e^-x), no overflow at either end", T, float, double) {
  for (T x : {T(-1000), T(-90), T(-20), T(-1), T(0), T(0.5), T(3), T(40), T(1000)}) {
    double const exact = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
    T const y = moe::sigmoid(simd<T>::all(x))[0];
    CHECK(std::abs(static_cast<double>(y) - exact) <= 4.0 * std::numeric_limits<T>::epsilon() * exact + std::numeric_limits<T>::min());
  }
  CHECK(std::isnan(moe::sigmoid(simd<T>::all(test::quiet_nan<T>()))[0]));
}
