#include <moe/attention/rope.hpp>

#include <test/support.hpp>

using test::array;
using test::bf16;
using test::index_t;

namespace {

template <class T>
double tolerance() {
  return std::is_same_v<T, double> ? 1e-14 : std::is_same_v<T, float> ? 1e-6 : 1e-2;
}

array<index_t> positions_of(std::vector<index_t> const& p) { return array<index_t>(p, static_cast<index_t>(p.size()), 1); }

/// The definition, pair by pair, in double.
template <class T>
std::vector<double> rotated(array<T> const& x, std::vector<index_t> const& position, int d_head, double base) {
  std::vector<double> y;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t c = 0; c < x.columns(); ++c) {
      index_t const i = c % d_head, half = d_head / 2, head = c - i;
      double const angle = static_cast<double>(position[static_cast<std::size_t>(t)]) * std::pow(base, -2.0 * static_cast<double>(i % half) / d_head);
      double const a = static_cast<double>(x(t, head + i % half)), b = static_cast<double>(x(t, head + i % half + half));
      y.push_back(i < half ? a * std::cos(angle) - b * std::sin(angle) : b * std::cos(angle) + a * std::sin(angle));
    }
  return y;
}

template <class T>
bool near(array<T> const& got, std::vector<double> const& want) {
  auto const v = got.values();
  bool ok = v.size() == want.size();
  for (std::size_t i = 0; ok && i < v.size(); ++i) ok = std::abs(static_cast<double>(v[i]) - want[i]) <= tolerance<T>() * (1 + std::abs(want[i]));
  return ok;
}

template <int D, class T>
struct fixture {
  static constexpr moe::rope_config config{.d_head = D, .base = 500.0};
  array<moe::accumulator<T>> memory;
  moe::rope_table<moe::accumulator<T>> table;
  explicit fixture(index_t positions) : memory(positions, D), table{memory.mat()} { moe::fill_rope_table<config>(test::on(), table); }
};

template <int D, class T>
void agrees() {
  fixture<D, T> f(40);
  std::vector<index_t> const p{3, 0, 39, 7, 7};
  array<T> x(5, 3 * D, 3 * D + 5, 1), y(5, 3 * D);
  x.normal(1);
  y = array<T>(x.values(), 5, 3 * D);
  auto const want = rotated(x, p, D, f.config.base);
  moe::rope<fixture<D, T>::config>(test::on(), x.mat(), f.table, positions_of(p).vec());
  CHECK(near(x, want));
  moe::rope<fixture<D, T>::config>(test::on(), y.mat(), f.table, positions_of(p).vec());
  CHECK(test::same_bits(x.values(), y.values()));
}

}  // namespace

TEST_CASE("rope: a worked example, position 3, base 10000") {
  constexpr moe::rope_config c{.d_head = 4};
  array<double> memory(4, 4), x({1, 2, 3, 4}, 1, 4);
  moe::rope_table<double> const table{memory.mat()};
  moe::fill_rope_table<c>(test::on(), table);
  moe::rope<c>(test::on(), x.mat(), table, positions_of({3}).vec());
  double const want[] = {-1.413352521, 1.879118067, -2.828857482, 4.058191135};
  for (int i = 0; i < 4; ++i) CHECK(std::abs(x(0, i) - want[i]) < 1e-9);
}

TEST_CASE_TEMPLATE("rope: agrees with the definition for every width of head, strided or not", T, float, double, bf16) {
  agrees<2, T>();
  agrees<4, T>();
  agrees<14, T>();
  agrees<30, T>();
  agrees<32, T>();
  agrees<34, T>();
  agrees<64, T>();
  agrees<98, T>();
}

TEST_CASE("fill_rope_table: far positions and every frequency, to the last bits of a double") {
  constexpr moe::rope_config c{.d_head = 34};
  array<double> memory(2000, 34);
  moe::fill_rope_table<c>(test::on(), moe::rope_table<double>{memory.mat()});
  double worst = 0;
  for (index_t p : {0, 1, 2, 3, 100, 1023, 1999})
    for (index_t i = 0; i < 17; ++i) {
      long double const angle = static_cast<long double>(p) * std::pow(10000.0L, -2.0L * static_cast<long double>(i) / 34);
      double const cosine = static_cast<double>(std::cos(angle)), sine = static_cast<double>(std::sin(angle));
      double const error = std::max(std::abs(memory(p, i) - cosine), std::abs(memory(p, 17 + i) - sine));
      if (!(error <= worst * (1.0 + static_cast<double>(p)))) worst = error / (1.0 + static_cast<double>(p));
    }
  CHECK(worst < 3e-16);  // an ulp of the frequency is multiplied by the position
}

TEST_CASE_TEMPLATE("rope: position 0 changes no bit", T, float, double, bf16) {
  fixture<22, T> f(1);
  array<T> x(2, 44);
  x.normal(2);
  auto const before = x.values();
  moe::rope<f.config>(test::on(), x.mat(), f.table, positions_of({0, 0}).vec());
  CHECK(x.values() == before);
}

TEST_CASE_TEMPLATE("rope: the same bits however it runs, and alone", T, float, double, bf16) {
  fixture<24, T> f(300);
  std::vector<index_t> p;
  for (index_t t = 0; t < 257; ++t) p.push_back(t * 7 % 300);
  array<T> x(257, 96);
  x.normal(3);
  array<T> one = x;
  auto const position = positions_of(p);
  moe::rope<f.config>(test::on(), one.mat(), f.table, position.vec());
  test::for_each_execution([&](test::space const& s, int) {
    array<T> y = x;
    moe::rope<f.config>(s, y.mat(), f.table, position.vec());
    CHECK(test::same_bits(y.values(), one.values()));
  });
  for (index_t t : {0, 5, 256}) {
    array<T> row(1, 96);
    for (index_t c = 0; c < 96; ++c) row(0, c) = x(t, c);
    moe::rope<f.config>(test::on(), row.mat(), f.table, positions_of({p[static_cast<std::size_t>(t)]}).vec());
    CHECK(std::memcmp(row.data(), &one(t, 0), 96 * sizeof(T)) == 0);
  }
}

TEST_CASE_TEMPLATE("rope: consecutive positions are those of the array, whatever the row they begin in", T, float, double, bf16) {
  fixture<24, T> f(40);
  using moe::consecutive;
  for (consecutive const c : {consecutive{0, 1}, consecutive{0, 7}, consecutive{33, 7}, consecutive{3, 37}, consecutive{39, 1}}) {
    INFO("first ", c.first, ", length ", c.length);
    std::vector<index_t> p;
    for (index_t t = 0; t < 37; ++t) p.push_back(c.first + t % c.length);
    auto const position = positions_of(p);
    array<T> x(37, 48, 51, 1);
    x.normal(8);
    array<T> y = x;
    moe::rope<f.config>(test::on(), x.mat(), f.table, c);
    moe::rope<f.config>(test::on(), y.mat(), f.table, position.vec());
    CHECK(test::same_bits(x.values(), y.values()));
    moe::rope_backward<f.config>(test::on(), x.mat(), f.table, c);
    moe::rope_backward<f.config>(test::on(), y.mat(), f.table, position.vec());
    CHECK(test::same_bits(x.values(), y.values()));
  }
}

TEST_CASE_TEMPLATE("rope: every space gives the bits of the CPU, in vectors or not", T, float, double, bf16) {
  fixture<32, T> f(40);
  array<moe::accumulator<T>> odd(40, 32, 33, 1);
  for (index_t r = 0; r < 40; ++r)
    for (index_t c = 0; c < 32; ++c) odd(r, c) = f.memory(r, c);
  for (index_t rows : {1, 9})
    for (index_t stride : {96, 104, 97})
      for (index_t offset : {0, 1})
        for (bool const straight : {true, false}) {
          array<T> x(rows, 96, stride, offset);
          x.normal(9);
          array<T> y = x;
          moe::rope_table<moe::accumulator<T>> const table = straight ? f.table : moe::rope_table<moe::accumulator<T>>{odd.mat()};
          moe::rope<f.config>(test::on(), x.mat(), table, moe::consecutive{5, 4});
          moe::rope<f.config>(moe::cpu{1}, y.mat(), f.table, moe::consecutive{5, 4});
          CHECK(test::same_bits(x.values(), y.values()));
          moe::rope_backward<f.config>(test::on(), x.mat(), table, moe::consecutive{5, 4});
          moe::rope_backward<f.config>(moe::cpu{1}, y.mat(), f.table, moe::consecutive{5, 4});
          CHECK(test::same_bits(x.values(), y.values()));
        }
}

TEST_CASE("consecutive: rows beyond 32 bits") {
  index_t const far = (index_t{1} << 32) + 5;
  CHECK(moe::consecutive{2, 7}(20) == 8);
  CHECK(moe::consecutive{2, 7}(far) == 2 + far % 7);
  CHECK(moe::consecutive{2, far + 1}(far) == 2 + far);
}

TEST_CASE("rope_backward: agrees with finite differences") {
  fixture<6, double> f(20);
  auto const p = positions_of({19, 0, 4});
  array<double> x(3, 12), c(3, 12), y(3, 12);
  x.normal(4), c.normal(5);
  auto const loss = [&] {
    y = x;
    moe::rope<f.config>(test::on(), y.mat(), f.table, p.vec());
    double l = 0;
    for (index_t i = 0; i < y.size(); ++i) l += y.data()[i] * c.data()[i];
    return l;
  };
  array<double> d_x = c;
  moe::rope_backward<f.config>(test::on(), d_x.mat(), f.table, p.vec());
  test::check_gradient("rope x", loss, x.data(), x.size(), d_x.values(), {.step = 1e-3});
}

TEST_CASE("rope: NaN stays in its pair; no tokens, no work") {
  fixture<8, float> f(5);
  array<float> x(1, 16), y(0, 16);
  x.normal(6);
  x(0, 9) = test::quiet_nan<float>();
  moe::rope<f.config>(test::on(), x.mat(), f.table, positions_of({2}).vec());
  for (index_t i = 0; i < 16; ++i) CHECK(std::isnan(x(0, i)) == (i == 9 || i == 13));
  moe::rope<f.config>(test::on(), y.mat(), f.table, positions_of({}).vec());
  moe::rope<f.config>(test::on(), y.mat(), f.table, moe::consecutive{0, 0});
}

TEST_CASE("rope: a position on the device that is not in the table makes its row NaN") {
  if (!test::on_cuda) return;
  fixture<8, float> f(5);
  array<float> x(4, 16);
  x.normal(6);
  auto const position = positions_of({5, 4, -1, index_t{1} << 40});
  moe::rope<f.config>(test::on(), x.mat(), f.table, position.vec());
  for (index_t t = 0; t < 4; ++t)
    for (index_t i = 0; i < 16; ++i) CHECK(std::isnan(x(t, i)) == (t != 1));
}

TEST_CASE("rope: errors name the argument and what it needs") {
  fixture<8, float> f(5);
  array<float> x(2, 16), narrow(2, 12);
  x.normal(7), narrow.normal(7);
  auto const call = [&](array<float>& m, std::vector<index_t> const& p) {
    return test::error_of([&] { moe::rope<f.config>(test::on(), m.mat(), f.table, positions_of(p).vec()); });
  };
  auto const before = x.values();
  if (!test::on_cuda) {
    CHECK(test::contains(call(x, {0, 5}), "rope: position[1] is 5, needs to be in [0, 5)"));
    CHECK(test::contains(call(x, {-1, 0}), "rope: position[0] is -1"));
  }
  CHECK(test::contains(call(x, {0}), "rope: position has 1 elements, x has 2 rows"));
  CHECK(test::contains(call(narrow, {0, 0}), "rope: x has 12 columns, needs a multiple of d_head = 8"));
  auto const consecutive = [&](index_t first, index_t length) {
    return test::error_of([&] { moe::rope_backward<f.config>(test::on(), x.mat(), f.table, moe::consecutive{first, length}); });
  };
  CHECK(test::contains(consecutive(4, 2), "rope_backward: 2 positions from 4 on, need to be in [0, 5), the positions of the table"));
  CHECK(test::contains(consecutive(-1, 9), "rope_backward: 2 positions from -1 on"));
  CHECK(test::contains(consecutive(0, 0), "rope_backward: length is 0, needs to be at least 1"));
  CHECK(x.values() == before);
  CHECK(consecutive(3, 9) == "");  // no more positions than rows
  constexpr moe::rope_config other{.d_head = 4};
  CHECK(test::contains(test::error_of([&] { moe::rope_backward<other>(test::on(), x.mat(), f.table, positions_of({0, 0}).vec()); }),
                       "rope_backward: table has 8 columns, needs d_head = 4"));
  moe::arena measure;
  CHECK(moe::rope_table<float>::take(measure, 5, 8).positions() == 0);
  CHECK(measure.peak() == moe::aligned(5 * 8 * sizeof(float)));
}
