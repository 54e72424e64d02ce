#include <moe/core/buffer.hpp>
#include <moe/optim/adamw.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
struct state {
  array<T> w, m, v, g;
  explicit state(index_t n, std::uint64_t seed = 1, index_t offset = 0)
      : w(n, 1, 0, offset), m(n, 1, 0, offset + 1), v(n, 1, 0, offset), g(n, 1, 0, offset) {
    w.normal(seed), m.fill(T(0)), v.fill(T(0)), g.normal(seed + 1);
  }
  void step(space const& s, double lr, double decay, double scale, index_t t, moe::adamw_config c = {}) {
    moe::adamw(s, w.vec(), m.vec(), v.vec(), g.vec(), lr, decay, scale, t, c);
  }
  void step(double lr, double decay, double scale, index_t t, moe::adamw_config c = {}) { step(on(), lr, decay, scale, t, c); }
  void step(space const& s, index_t t, moe::adamw_outputs<T> const& also) {
    moe::adamw(s, w.vec(), m.vec(), v.vec(), g.vec(), 0.01, 0.1, 0.9, t, {}, also);
  }
  bool equals(state const& other) const {
    return same_bits(w.values(), other.w.values()) && same_bits(m.values(), other.m.values()) && same_bits(v.values(), other.v.values());
  }
};
}  // namespace

TEST_CASE("adamw: reference values") {
  state<double> s(1);
  s.w(0) = 1, s.g(0) = 0.1;
  s.step(0.01, 0.1, 1, 1);
  CHECK(s.w(0) == doctest::Approx(0.989000001).epsilon(1e-11));
  s.g(0) = -0.05;
  s.step(0.01, 0.1, 1, 2);
  CHECK(s.w(0) == doctest::Approx(0.98532730686).epsilon(1e-10));
}

TEST_CASE_TEMPLATE("adamw: 20 steps against the formulas in long double; dirty neighbours stay", T, float, double) {
  moe::adamw_config const c{.beta1 = 0.85, .beta2 = 0.99, .eps = 1e-6};
  for (index_t n : {0, 1, 7, 8, 15, 16, 17, 33, 16384, 16385}) {
    if (on_cuda && n == 16384) continue;
    state<T> s(n, 3, n % 3);
    std::vector<long double> w(static_cast<std::size_t>(n)), m(w), v(w);
    for (index_t i = 0; i < n; ++i) w[static_cast<std::size_t>(i)] = s.w(i);
    index_t const steps = n > 1000 ? 3 : 20;
    for (index_t t = 1; t <= steps; ++t) {
      s.g.normal(static_cast<std::uint64_t>(100 + t), t % 2 == 0 ? 3.0 : 0.01);
      double const lr = 0.01 / static_cast<double>(t);
      s.step(lr, 0.3, 0.7, t, c);
      for (index_t i = 0; i < n; ++i) {
        auto const u = static_cast<std::size_t>(i);
        long double const g = 0.7L * static_cast<long double>(s.g(i));
        m[u] = 0.85L * m[u] + 0.15L * g;
        v[u] = 0.99L * v[u] + 0.01L * g * g;
        w[u] = w[u] * (1 - static_cast<long double>(lr) * 0.3L);
        w[u] -= static_cast<long double>(lr) * (m[u] / (1 - std::pow(0.85L, t))) / (std::sqrt(v[u] / (1 - std::pow(0.99L, t))) + 1e-6L);
      }
    }
    long double worst = 0;
    for (index_t i = 0; i < n; ++i) {
      auto const u = static_cast<std::size_t>(i);
      for (long double difference : {w[u] - s.w(i), m[u] - s.m(i), v[u] - s.v(i)})
        if (!(std::abs(difference) <= worst)) worst = std::abs(difference);
    }
    CHECK(worst <= 40 * static_cast<long double>(std::numeric_limits<T>::epsilon()));
  }
}

TEST_CASE("adamw: the first step moves by lr against the sign of the gradient, whatever its size") {
  for (double size : {1e-3, 1.0, 1e6}) {
    state<double> s(2);
    s.w.fill(0), s.g(0) = size, s.g(1) = -size;
    s.step(0.25, 0, 1, 1, {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-300});
    CHECK(s.w(0) == doctest::Approx(-0.25).epsilon(1e-13));
    CHECK(s.w(1) == doctest::Approx(0.25).epsilon(1e-13));
  }
}

TEST_CASE("adamw: edges of the hyper-parameters") {
  state<double> s(1);
  s.w(0) = 2, s.g(0) = 0;
  s.step(0.5, 1, 1, 1);
  CHECK(s.w(0) == 1.0);  // decay alone: a factor 1 - lr * weight_decay
  s.g(0) = 4;
  s.step(0, 1, 1, 2);
  CHECK(s.w(0) == 1.0);  // lr = 0 changes moments only
  CHECK(s.m(0) != 0);
  state<double> sign(1);
  sign.w(0) = 0, sign.g(0) = 8;
  sign.step(1, 0, 0.5, 3, {.beta1 = 0, .beta2 = 0, .eps = 1e-300});
  CHECK(sign.m(0) == 4.0);
  CHECK(sign.v(0) == 16.0);
  CHECK(sign.w(0) == -1.0);
}

TEST_CASE_TEMPLATE("adamw: the same bits for any execution, any alignment, any split of the buffer", T, float, double) {
  index_t const n = on_cuda ? 10001 : 70001;
  state<T> expected(n);
  for (index_t t = 1; t <= 3; ++t) expected.step(0.01, 0.1, 0.9, t);
  for_each_execution([&](space const& s, int i) {
    state<T> other(n, 1, i);
    for (index_t t = 1; t <= 3; ++t) other.step(s, 0.01, 0.1, 0.9, t);
    CHECK(other.equals(expected));
  });
  state<T> parts(n);
  for (index_t t = 1; t <= 3; ++t)
    for (index_t begin = 0; begin < n; begin += 1999) {
      index_t const count = std::min<index_t>(1999, n - begin);
      auto const part = [&](array<T>& a) { return moe::vec(a.data() + begin, count); };
      moe::adamw(on(), part(parts.w), part(parts.m), part(parts.v), part(parts.g), 0.01, 0.1, 0.9, t);
    }
  CHECK(parts.equals(expected));
}

TEST_CASE_TEMPLATE("adamw: the factor of the gradient from a view gives the same bits as a number", T, float, double) {
  array<double> scale(1);
  for (double factor : {0.0, 0.37, 1.0, 1e-3}) {
    state<T> number(1000), view(1000);
    scale(0) = factor;
    for (index_t t = 1; t <= 2; ++t) {
      number.step(0.01, 0.1, factor, t);
      moe::adamw(on(), view.w.vec(), view.m.vec(), view.v.vec(), view.g.vec(), 0.01, 0.1, moe::view<1>(scale.data(), 1), t);
    }
    CHECK(view.equals(number));
  }
}

namespace {
/// Whether `rounded` is what bf16 makes of each w, the rows of 32 in pairs or not.
template <class T, class R>
bool is_rounded(state<T> const& s, R const& rounded, bool pairs) {
  for (index_t i = 0; i < s.w.size(); ++i) {
    index_t const block = i / 64, row = i / 32 % 2, column = i % 32;
    if (rounded(pairs ? 64 * block + 2 * column + row : i).bits != moe::bf16(s.w(i)).bits) return false;
  }
  return true;
}
}  // namespace

TEST_CASE_TEMPLATE("adamw: zeroing and rounding in the same pass: w, m and v have the same bits, nothing beside is touched", T, float, double) {
  for (index_t n : {0, 1, 7, 16, 33, 64, 128, 192, 16384 + 64, 20001}) {
    state<T> expected(n);
    for (index_t t = 1; t <= 2; ++t) expected.step(0.01, 0.1, 0.9, t);
    for (bool pairs : {false, true}) {
      if (pairs && n % 64 != 0) continue;
      auto const layout = pairs ? moe::bf16_layout::row_pairs : moe::bf16_layout::plain;
      for_each_execution([&](space const& where, int i) {
        state<T> s(n, 1, i), zeroed_only(n, 1, i);
        array<moe::bf16> rounded(n, 1, 0, i);
        s.step(where, 1, {.zeroed = s.g.vec(), .rounded = rounded.vec(), .layout = layout});
        CHECK(is_rounded(s, rounded, pairs));
        for (index_t k = 0; k < n; ++k) REQUIRE((s.g(k) == 0 && !std::signbit(s.g(k))));
        s.g.normal(2);
        s.step(where, 2, {.rounded = rounded.vec(), .layout = layout});
        CHECK(is_rounded(s, rounded, pairs));
        CHECK(same_bits(s.g.values(), expected.g.values()));  // only zeroed where asked
        CHECK(s.equals(expected));
        for (index_t t = 1; t <= 2; ++t) {
          zeroed_only.g.normal(2);
          zeroed_only.step(where, t, {.zeroed = zeroed_only.g.vec()});
          for (index_t k = 0; k < n; ++k) REQUIRE(zeroed_only.g(k) == 0);
        }
        CHECK(zeroed_only.equals(expected));
      });
    }
  }
}

TEST_CASE("adamw: a rounded copy too large for the caches is written past them, to the last element") {
  if (on_cuda) return;
  index_t const n = (index_t{1} << 22) + 64;  // 8 MiB of bf16 and a little
  state<float> s(1);
  array<float> w(n), m(n), v(n), g(n);
  m.fill(0), v.fill(0);
  moe::buffer const memory(2 * static_cast<std::size_t>(n) + 128);  // aligned to pages
  for (bool pairs : {false, true})
    for (index_t shift : {0, 1}) {  // 1: not aligned, so not past the caches
      for (index_t i = 0; i < n; ++i) w(i) = static_cast<float>(i % 1013) * 0.37f, g(i) = static_cast<float>(i % 7 - 3);
      moe::bf16* const rounded = memory.as<moe::bf16>() + shift;
      rounded[n].bits = 0x1234;
      moe::adamw(on(), w.vec(), m.vec(), v.vec(), g.vec(), 0.01, 0.1, 1, 1, {},
                 {.rounded = moe::vec(rounded, n), .layout = pairs ? moe::bf16_layout::row_pairs : moe::bf16_layout::plain});
      index_t wrong = rounded[n].bits != 0x1234;
      for (index_t i = 0; i < n; ++i) wrong += rounded[pairs ? i / 64 * 64 + i % 32 * 2 + i / 32 % 2 : i].bits != moe::bf16(w(i)).bits;
      CHECK(wrong == 0);
    }
}

TEST_CASE_TEMPLATE("adamw: a split buffer rounds to the same bits; NaN reaches the rounded copy", T, float, double) {
  index_t const n = 640;
  state<T> whole(n), parts(n);
  array<moe::bf16> expected(n), rounded(n);
  whole.g(100) = parts.g(100) = quiet_nan<T>();
  auto const pairs = moe::bf16_layout::row_pairs;
  whole.step(on(), 1, {.zeroed = whole.g.vec(), .rounded = expected.vec(), .layout = pairs});
  for (index_t begin = 0; begin < n; begin += 192) {
    index_t const count = std::min<index_t>(192, n - begin);
    auto const part = [&](auto& a) { return moe::vec(a.data() + begin, count); };
    moe::adamw(on(), part(parts.w), part(parts.m), part(parts.v), part(parts.g), 0.01, 0.1, 0.9, 1, {},
               {.zeroed = part(parts.g), .rounded = part(rounded), .layout = pairs});
  }
  CHECK(parts.equals(whole));
  for (index_t i = 0; i < n; ++i) CHECK(rounded(i).bits == expected(i).bits);
  CHECK(std::isnan(static_cast<float>(rounded(64 + 2 * (100 % 32) + 1))));  // element 100: block 1, row 1
  CHECK(whole.g(100) == 0);
}

TEST_CASE("adamw: a factor that is negative or not finite changes nothing; where the host can see it, it is an error") {
  array<double> scale(1);
  for (double factor : {quiet_nan<double>(), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), -1.0}) {
    state<float> s(100), before(100);
    scale(0) = factor;
    auto const text = error_of([&] { moe::adamw(on(), s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.1, 0.1, moe::view<1>(scale.data(), 1), 1); });
    CHECK(contains(text, "adamw: grad_scale is ") == !on_cuda);
    CHECK(text.empty() == on_cuda);
    CHECK(s.equals(before));
    array<moe::bf16> rounded(100);
    moe::adamw_outputs<float> const also{.zeroed = s.g.vec(), .rounded = rounded.vec()};
    error_of([&] { moe::adamw(on(), s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.1, 0.1, moe::view<1>(scale.data(), 1), 1, {}, also); });
    CHECK(s.equals(before));
    for (index_t i = 0; i < 100; ++i) CHECK((s.g(i) == 0) == on_cuda);  // left out in silence: the next gradient must not be spoiled
    CHECK(rounded(50).bits == array<moe::bf16>(1)(0).bits);
  }
}

#if defined(MOE_TEST_CUDA)
TEST_CASE_TEMPLATE("adamw on the device: the bits of the CPU", T, float, double) {
  state<T> device(5003), host(5003);
  for (index_t t = 1; t <= 5; ++t) {
    device.step(0.01, 0.1, 0.37, t);
    moe::adamw(moe::cpu{}, host.w.vec(), host.m.vec(), host.v.vec(), host.g.vec(), 0.01, 0.1, 0.37, t);
  }
  CHECK(device.equals(host));
}
#endif

TEST_CASE("adamw: a view of nothing is not written, wherever it points") {
  array<float> w(1, 40), m(1, 40), v(1, 40), g(1, 40);
  test::memory<moe::bf16> elsewhere(64, moe::bf16(7.0f));
  w.normal(1), m.fill(0), v.fill(0), g.normal(2);
  auto const gradient = g.values();
  auto const row = [](array<float>& x) { return moe::vec(x.data(), 40); };
  moe::adamw(test::on(), row(w), row(m), row(v), row(g), 1e-3, 0.1, 1.0, 1, {}, {.zeroed = moe::vec(g.data(), 0), .rounded = moe::vec(elsewhere.data(), 0)});
  CHECK(g.values() == gradient);
  for (moe::bf16 x : elsewhere) CHECK(static_cast<float>(x) == 7.0f);
}

TEST_CASE("adamw: NaN and infinity in the gradient reach that parameter and no other") {
  for (double bad : {quiet_nan<double>(), std::numeric_limits<double>::infinity()}) {
    state<double> s(20), clean(20);
    clean.step(0.01, 0.1, 1, 1);
    s.g(9) = bad;
    s.step(0.01, 0.1, 1, 1);
    for (index_t i = 0; i < 20; ++i) CHECK((i == 9 ? std::isnan(s.w(i)) : s.w(i) == clean.w(i)));
  }
}

TEST_CASE("adamw: errors come before any work") {
  state<float> s(5);
  auto const before = s.w.values();
  double const nan = quiet_nan<double>(), inf = std::numeric_limits<double>::infinity();
  auto const text = [&](double lr, double decay, double scale, index_t t, moe::adamw_config c = {}) {
    return error_of([&] { s.step(lr, decay, scale, t, c); });
  };
  CHECK(text(-1, 0, 1, 1) == "adamw: lr is -1, needs to be finite and not negative");
  CHECK(text(nan, 0, 1, 1) == "adamw: lr is nan, needs to be finite and not negative");
  CHECK(text(inf, 0, 1, 1) == "adamw: lr is inf, needs to be finite and not negative");
  CHECK(text(1, nan, 1, 1) == "adamw: weight_decay is nan, needs to be finite and not negative");
  CHECK(text(1, -0.1, 1, 1) == "adamw: weight_decay is -0.1, needs to be finite and not negative");
  CHECK(text(2, 1, 1, 1) == "adamw: lr * weight_decay is 2, needs to be at most 1");
  CHECK(text(1, 0, nan, 1) == "adamw: grad_scale is nan, needs to be finite and not negative (is the norm of the gradient finite?)");
  CHECK(text(1, 0, 1, 0) == "adamw: step is 0, needs to be at least 1");
  for (double beta : {1.0, -0.1, nan, 1.5}) {
    CHECK(contains(text(1, 0, 1, 1, {.beta1 = beta}), "adamw: beta1 is "));
    CHECK(contains(text(1, 0, 1, 1, {.beta2 = beta}), "adamw: beta2 is "));
  }
  for (double eps : {0.0, -1e-8, nan, inf, 1e-60}) CHECK(contains(text(1, 0, 1, 1, {.eps = eps}), "adamw: eps is "));
  array<float> four(4);
  array<double> one(1);
  one(0) = 1;
  auto const factor = moe::view<1>(one.data(), 1);
  auto const lengths = [&](array<float>& m, array<float>& v, array<float>& g) {
    auto const e = error_of([&] { moe::adamw(on(), s.w.vec(), m.vec(), v.vec(), g.vec(), 0.1, 0, 1, 1); });
    CHECK(error_of([&] { moe::adamw(on(), s.w.vec(), m.vec(), v.vec(), g.vec(), 0.1, 0, factor, 1); }) == e);
    return e;
  };
  CHECK(lengths(four, s.v, s.g) == "adamw: m has 4 elements, needs 5");
  CHECK(lengths(s.m, four, s.g) == "adamw: v has 4 elements, needs 5");
  CHECK(lengths(s.m, s.v, four) == "adamw: g has 4 elements, needs 5");
  CHECK(error_of([&] { moe::adamw(on(), s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.1, 0, factor, 0); }) ==
        "adamw: step is 0, needs to be at least 1");
  array<moe::bf16> few(4), all(5);
  auto const outputs = [&](moe::adamw_outputs<float> const& also) {
    auto const e = error_of([&] { moe::adamw(on(), s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.1, 0, 1, 1, {}, also); });
    CHECK(error_of([&] { moe::adamw(on(), s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.1, 0, factor, 1, {}, also); }) == e);
    return e;
  };
  CHECK(outputs({.zeroed = s.m.vec()}) == "adamw: zeroed is not g, the very same view");
  CHECK(outputs({.zeroed = moe::vec(s.g.data(), 4)}) == "adamw: zeroed is not g, the very same view");
  CHECK(outputs({.rounded = few.vec()}) == "adamw: rounded has 4 elements, needs 5");
  CHECK(outputs({.rounded = all.vec(), .layout = moe::bf16_layout::row_pairs}) ==
        "adamw: w has 5 elements, needs a multiple of 64 for pairs of rows of 32");
  CHECK(outputs({.layout = moe::bf16_layout::row_pairs}).empty());  // nothing is rounded
  s.w = array<float>(before, 5, 1);
  CHECK(same_bits(s.w.values(), before));
}
