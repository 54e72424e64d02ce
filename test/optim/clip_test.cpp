#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>

#if defined(MOE_TEST_CUDA)
#include <moe/optim/adamw.cuh>
#endif
#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
double norm_of(array<T> const& g, space const& s = on(), scratch memory = scratch(1 << 16)) {
  array<double> norm(1);
  auto a = memory.get();
  moe::global_norm(s, g.vec(), moe::view<1>(norm.data(), 1), a);
  if constexpr (!on_cuda) CHECK(same_bits({moe::global_norm(s, g.vec(), a)}, norm.values()));
  return norm(0);
}
}  // namespace

TEST_CASE("clip: reference values") {
  array<double> g({3, -4, 12}, 3, 1);
  CHECK(norm_of(g) == 13.0);
  double const scale = moe::clip_scale(norm_of(g), 1);
  CHECK(scale == doctest::Approx(0.076923071006).epsilon(1e-11));
  double const expected[] = {0.230769213, -0.307692284, 0.923076852};
  for (int i = 0; i < 3; ++i) CHECK(std::abs(scale * g(i) - expected[i]) < 1e-9);
  CHECK(moe::clip_scale(0.5, 1) == 1.0);
  CHECK(moe::clip_scale(0, 1) == 1.0);
  CHECK(moe::clip_scale(1e30, std::numeric_limits<double>::infinity()) == 1.0);
}

TEST_CASE_TEMPLATE("global_norm: exact integers, any length, any execution, aligned or not", T, float, double, bf16) {
  for (index_t n : {0, 1, 3, 7, 8, 31, 32, 33, 100, 2049, 16383, 16384, 16385, 50000}) {
    array<T> g(n, 1, 0, n % 3);
    g.integers(static_cast<std::uint64_t>(n) + 1);
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += static_cast<double>(g(i)) * static_cast<double>(g(i));
    for_each_execution([&](space const& s, int i) {
      if (!on_cuda || i < 2 || n < 16384) CHECK(norm_of(g, s) == std::sqrt(sum));
    });
  }
}

TEST_CASE_TEMPLATE("global_norm: the same bits for any execution and alignment", T, float, double, bf16) {
  index_t const n = on_cuda ? 33000 : 100000;
  array<T> g(n), shifted(n, 1, 0, 1);
  g.normal(7), shifted.normal(7);
  double sum = 0;
  for (T x : g.values()) sum += static_cast<double>(x) * static_cast<double>(x);
  CHECK(norm_of(g) == doctest::Approx(std::sqrt(sum)).epsilon(1e-13));
  double const expected = norm_of(g);
  for_each_execution([&](space const& s, int) {
    CHECK(norm_of(g, s) == expected);
    CHECK(norm_of(shifted, s) == expected);
  });
}

TEST_CASE("global_norm: more chunks than a block has threads") {
  index_t const n = 16384 * 257 + 5;
  array<bf16> g(n);
  g.fill(bf16(1.0f));
  CHECK(norm_of(g) == std::sqrt(double(n)));
}

#if defined(MOE_TEST_CUDA)
TEST_CASE("global_norm on the device: a grid with fewer blocks than chunks") {
  array<float> g(50000);
  g.normal(3);
  array<double> all(4), cut(4);
  auto const sums = [&](index_t blocks, array<double>& partial) {
    moe::launch("test", moe::detail::sum_of_squares_kernel<float>,
                {.blocks = blocks, .threads = moe::detail::norm_threads, .shared_bytes = sizeof(moe::detail::norm_partials)}, on(), g.vec(),
                partial.vec());
    return partial.values();
  };
  auto const expected = sums(4, all);
  for_each_execution([&](space const&, int) { CHECK(same_bits(sums(1, cut), expected)); });
}
#endif

TEST_CASE("global_norm: extremes of float do not overflow; what is not finite shows") {
  array<float> g(40000);
  g.fill(std::numeric_limits<float>::max());
  CHECK(norm_of(g) == doctest::Approx(200.0 * 3.4028234663852886e38).epsilon(1e-12));
  g.fill(std::numeric_limits<float>::denorm_min());
  CHECK(norm_of(g) == doctest::Approx(200.0 * 1.401298464324817e-45).epsilon(1e-12));
  for (index_t where : {0, 5, 16384, 39999}) {
    for (double bad : {quiet_nan<double>(), std::numeric_limits<double>::infinity()}) {
      g.fill(1);
      g(where) = static_cast<float>(bad);
      double const norm = norm_of(g);
      CHECK(!(norm <= std::numeric_limits<double>::max()));
      CHECK((norm != norm) == (bad != bad));
      CHECK(std::isnan(moe::clip_scale(norm, 1)));
    }
  }
}

TEST_CASE("clip: errors") {
  CHECK(error_of([] { (void)moe::clip_scale(1, 0); }) == "clip_scale: max_norm is 0, needs to be above 0");
  CHECK(error_of([] { (void)moe::clip_scale(1, -1); }) == "clip_scale: max_norm is -1, needs to be above 0");
  CHECK(contains(error_of([] { (void)moe::clip_scale(1, quiet_nan<double>()); }), "clip_scale: max_norm is nan"));
  array<float> g(40000);
  g.fill(1);
  CHECK(moe::global_norm_scratch_bytes(on(), 40000) == 64);
  CHECK(moe::global_norm_scratch_bytes(on(), 0) == 0);
  CHECK(norm_of(g, on(), scratch(64)) == 200.0);
  CHECK(contains(error_of([&] { (void)norm_of(g, on(), scratch(63)); }), "global_norm: scratch has 63 bytes left, needs 64"));
  array<double> norm(1), scale(1);
  norm(0) = 1;
  CHECK(error_of([&] { moe::clip_scale(on(), moe::view<1>(norm.data(), 1), 0, moe::view<1>(scale.data(), 1)); }) ==
        "clip_scale: max_norm is 0, needs to be above 0");
  CHECK(std::isnan(scale(0)));
}

TEST_CASE("clip_scale: from view to view, the bits of the plain function") {
  double const inf = std::numeric_limits<double>::infinity();
  array<double> norm(1), scale(1);
  for (double n : {0.0, 1e-300, 0.5, 1.0, 1.0 + 1e-6, 3.0, 1e30, std::numeric_limits<double>::max(), inf, quiet_nan<double>()})
    for (double max_norm : {1e-3, 1.0, 7.0, inf}) {
      norm(0) = n;
      moe::clip_scale(on(), moe::view<1>(norm.data(), 1), max_norm, moe::view<1>(scale.data(), 1));
      double const expected = moe::clip_scale(n, max_norm);
      CHECK((scale(0) == expected || (std::isnan(scale(0)) && std::isnan(expected))));
      CHECK(std::isnan(expected) == !(n < inf));
    }
}

TEST_CASE("clip: norm, factor and step without a look from the host") {
  array<float> w(300), m(300), v(300), g(300);
  array<double> norm(1), scale(1);
  auto const n = moe::view<1>(norm.data(), 1), s = moe::view<1>(scale.data(), 1);
  w.fill(1), m.fill(0), v.fill(0), g.normal(5);
  scratch memory;
  auto a = memory.get();
  auto const step = [&](index_t t) {
    moe::global_norm(on(), g.vec(), n, a);
    moe::clip_scale(on(), n, 1.0, s);
    moe::adamw(on(), w.vec(), m.vec(), v.vec(), g.vec(), 0.1, 0, s, t);
  };
  step(1);
  CHECK(scale(0) < 0.1);
  CHECK(m(7) == doctest::Approx(0.1 * scale(0) * double(g(7))).epsilon(1e-6));
  auto const before = w.values();
  g(299) = quiet_nan<float>();
  CHECK(error_of([&] { step(2); }).empty() == on_cuda);  // on the device the step is left out, and the norm says why
  CHECK((std::isnan(norm(0)) && std::isnan(scale(0))));
  CHECK(same_bits(w.values(), before));
}
