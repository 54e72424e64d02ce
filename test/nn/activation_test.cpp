#include <moe/nn/activation.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
long double logistic(long double x) { return 1 / (1 + std::exp(-x)); }
long double exact_silu(long double x) { return x * logistic(x); }
long double exact_gelu(long double x) {  // by tanh, as the paper has it
  return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846264338327950288L) * (x + 0.044715L * x * x * x)));
}
long double exact_relu(long double x) { return x > 0 ? x : 0; }

/// One of the functions of one argument, forward and backward.
template <class T>
struct function {
  std::string name;
  void (*forward)(space const&, moe::in<T, dyn, dyn>, moe::tensor<T, dyn, dyn>);
  void (*backward)(space const&, moe::in<T, dyn, dyn>, moe::in<T, dyn, dyn>, moe::tensor<T, dyn, dyn>);
  long double (*exact)(long double);
};
template <class T>
std::vector<function<T>> functions() {
  return {{"silu", moe::silu<T>, moe::silu_backward<T>, exact_silu},
          {"gelu", moe::gelu<T>, moe::gelu_backward<T>, exact_gelu},
          {"relu", moe::relu<T>, moe::relu_backward<T>, exact_relu}};
}
/// Bit by bit, but for the sign of a NaN, which nobody promises.
template <class T>
bool same_numbers(array<T> const& a, array<T> const& b) {
  std::vector<T> v = a.values(), w = b.values();
  for (auto* u : {&v, &w})
    for (T& x : *u) x = x != x ? quiet_nan<T>() : x;
  return same_bits(v, w);
}
/// Relative to the largest of |y| and a small number: what T and the vector exponential leave.
template <class T>
constexpr double tolerance = std::is_same_v<T, double>  ? 1e-14
                             : std::is_same_v<T, float> ? 1e-6
                                                        : 5e-3;
}  // namespace

TEST_CASE_TEMPLATE("activations: agree with their formulas for any shape, strided and unaligned", T, float, double, bf16) {
  for (auto const& f : functions<T>())
    for (index_t columns : {0, 1, 3, 7, 8, 9, 15, 16, 17, 40})
      for (index_t rows : {0, 1, 4}) {
        array<T> x(rows, columns, columns + 3, 1), y(rows, columns, columns + 5, 2);
        x.normal(static_cast<std::uint64_t>(columns), 4);
        f.forward(on(), x.mat(), y.mat());
        for (index_t i = 0; i < rows; ++i)
          for (index_t c = 0; c < columns; ++c) {
            double const expected = static_cast<double>(f.exact(static_cast<long double>(x(i, c))));
            CHECK_MESSAGE(std::abs(double(y(i, c)) - expected) <= tolerance<T> * (std::abs(expected) + 0.1), f.name << " of " << double(x(i, c)));
          }
      }
}

TEST_CASE("activations: gradients") {
  for (auto const& f : functions<double>()) {
    array<double> x(5, 19, 21, 1), y(5, 19), d_y(5, 19), d_x(5, 19);
    x.normal(1, 2), d_y.normal(2);
    auto const loss = [&] {
      f.forward(on(), x.mat(), y.mat());
      double l = 0;
      for (index_t i = 0; i < y.size(); ++i) l += y.data()[i] * d_y.data()[i];
      return l;
    };
    f.backward(on(), x.mat(), d_y.mat(), d_x.mat());
    for (index_t i = 0; i < 5; ++i) check_gradient(f.name.c_str(), loss, &x(i, 0), 19, std::vector<double>(&d_x(i, 0), &d_x(i, 0) + 19));
  }
}

TEST_CASE_TEMPLATE("activations: the same bits however they run, for any strides, and in place", T, float, double, bf16) {
  index_t const rows = on_cuda ? 40 : 300, columns = 37;
  for (auto const& f : functions<T>()) {
    array<T> x(rows, columns), y(rows, columns), d_y(rows, columns), d_x(rows, columns);
    x.normal(1), d_y.normal(2);
    f.forward(on(), x.mat(), y.mat());
    f.backward(on(), x.mat(), d_y.mat(), d_x.mat());
    for_each_execution([&](space const& s, int i) {
      array<T> a(rows, columns, columns + i, i), b(rows, columns, columns + 1, 3), g(rows, columns, columns + 2, 1);
      a.normal(1), g.normal(2);
      f.forward(s, a.mat(), b.mat());
      CHECK(same_bits(b.values(), y.values()));
      b.poison();
      f.backward(s, a.mat(), g.mat(), b.mat());
      CHECK(same_bits(b.values(), d_x.values()));
    });
    array<T> a = x, g = d_y;
    f.backward(on(), x.mat(), g.mat(), g.mat());
    CHECK(same_bits(g.values(), d_x.values()));
    f.backward(on(), a.mat(), d_y.mat(), a.mat());
    CHECK(same_bits(a.values(), d_x.values()));
    f.forward(on(), x.mat(), x.mat());
    CHECK(same_bits(x.values(), y.values()));
  }
}

TEST_CASE_TEMPLATE("activations: large arguments, NaN", T, float, double) {
  T const big = std::numeric_limits<T>::max();
  std::vector<T> const far = {T(1e3), T(1e30), big};
  for (auto const& f : functions<T>()) {
    array<T> x(1, 7), y(1, 7), d(1, 7), one(1, 7);
    one.fill(1);
    for (int i = 0; i < 3; ++i) x(0, i) = far[static_cast<std::size_t>(i)], x(0, 3 + i) = -far[static_cast<std::size_t>(i)];
    x(0, 6) = quiet_nan<T>();
    f.forward(on(), x.mat(), y.mat());
    f.backward(on(), x.mat(), one.mat(), d.mat());
    for (int i = 0; i < 3; ++i) {
      CHECK(y(0, i) == x(0, i));
      CHECK(d(0, i) == 1);
      CHECK(std::abs(y(0, 3 + i)) <= std::numeric_limits<T>::min());
      CHECK(std::abs(d(0, 3 + i)) <= std::numeric_limits<T>::min());
    }
    CHECK(std::isnan(y(0, 6)));
    CHECK(std::isnan(d(0, 6)));
    x.fill(T(0.5)), one(0, 2) = quiet_nan<T>();
    f.backward(on(), x.mat(), one.mat(), d.mat());
    for (int i = 0; i < 7; ++i) CHECK(std::isnan(d(0, i)) == (i == 2));
  }
  array<T> x({-1, 0, -0.0f, 2, -3}, 1, 5), g(1, 5), d(1, 5);
  g.fill(7), g(0, 4) = quiet_nan<T>();
  moe::relu_backward(on(), x.mat(), g.mat(), d.mat());
  CHECK((d(0, 0) == 0 && d(0, 1) == 0 && d(0, 2) == 0 && d(0, 3) == 7 && std::isnan(d(0, 4))));
}

TEST_CASE("swiglu: reference values") {
  array<double> gate({0.5, -1, 2}, 1, 3), up({1, 2, -0.5}, 1, 3), h(1, 3);
  moe::swiglu(on(), gate.mat(), up.mat(), h.mat());
  double const expected[] = {0.311229666, -0.537882843, -0.880797078};
  for (int i = 0; i < 3; ++i) CHECK(std::abs(h(0, i) - expected[i]) < 1e-9);
}

TEST_CASE("swiglu: gradients") {
  array<double> both(5, 26, 29, 1), h(5, 13), d_h(5, 13), d_both(5, 26, 30);
  both.normal(1, 2), d_h.normal(2);
  auto const half = [](array<double>& a, int i) { return moe::columns_of(a.mat(), 13 * i, 13 * (i + 1)); };
  auto const loss = [&] {
    moe::swiglu(on(), half(both, 0), half(both, 1), h.mat());
    double l = 0;
    for (index_t i = 0; i < h.size(); ++i) l += h.data()[i] * d_h.data()[i];
    return l;
  };
  moe::swiglu_backward(on(), half(both, 0), half(both, 1), d_h.mat(), half(d_both, 0), half(d_both, 1));
  for (index_t i = 0; i < 5; ++i) {
    check_gradient("gate", loss, &both(i, 0), 13, std::vector<double>(&d_both(i, 0), &d_both(i, 13)));
    check_gradient("up", loss, &both(i, 13), 13, std::vector<double>(&d_both(i, 13), &d_both(i, 13) + 13));
  }
}

TEST_CASE_TEMPLATE("swiglu: is silu times up; the same bits however it runs, strided, and in place", T, float, double, bf16) {
  index_t const rows = on_cuda ? 40 : 200, f = 37;
  array<T> gate(rows, f), up(rows, f), d_h(rows, f), h(rows, f), d_gate(rows, f), d_up(rows, f);
  gate.normal(1), up.normal(2), d_h.normal(3);
  moe::swiglu(on(), gate.mat(), up.mat(), h.mat());
  moe::swiglu_backward(on(), gate.mat(), up.mat(), d_h.mat(), d_gate.mat(), d_up.mat());
  for (index_t i = 0; i < h.size(); ++i) {
    double const expected = static_cast<double>(exact_silu(static_cast<long double>(gate.data()[i]))) * double(up.data()[i]);
    CHECK(std::abs(double(h.data()[i]) - expected) <= tolerance<T> * (std::abs(expected) + 0.1));
  }
  for_each_execution([&](space const& s, int k) {
    array<T> both(rows, 2 * f, 2 * f + k, 1), out(rows, f, f + 1, 1), g = d_h;
    for (index_t i = 0; i < rows; ++i)
      for (index_t c = 0; c < f; ++c) both(i, c) = gate(i, c), both(i, f + c) = up(i, c);
    auto const a = moe::columns_of(both.mat(), 0, f), b = moe::columns_of(both.mat(), f, 2 * f);
    moe::swiglu(s, a, b, out.mat());
    CHECK(same_bits(out.values(), h.values()));
    moe::swiglu_backward(s, a, b, g.mat(), a, b);
    for (index_t i = 0; i < rows; ++i)
      for (index_t c = 0; c < f; ++c) out(i, c) = both(i, c), g(i, c) = both(i, f + c);
    CHECK(same_bits(out.values(), d_gate.values()));
    CHECK(same_bits(g.values(), d_up.values()));
  });
  array<T> g = d_h;
  moe::swiglu_backward(on(), gate.mat(), up.mat(), g.mat(), g.mat(), up.mat());
  CHECK(same_bits(g.values(), d_gate.values()));
  CHECK(same_bits(up.values(), d_up.values()));
}

TEST_CASE_TEMPLATE("activations: every space has the same bits", T, float, double, bf16) {
#if defined(__CUDACC__)
  constexpr bool comparable = on_cuda && !std::is_same_v<T, double>;  // the device has an exponential of its own in double
#else
  constexpr bool comparable = on_cuda;
#endif
  if constexpr (comparable) {
    moe::cpu const cpu{.threads = 1};
    index_t const rows = 8, columns = 37;
    array<T> x(rows, columns), up(rows, columns), d(rows, columns), a(rows, columns), b(rows, columns), a2(rows, columns), b2(rows, columns);
    x.normal(1, 20), up.normal(2), d.normal(3);
    for (int i = 0; float const special : {0.0f, -0.0f, 1e-40f, -1e-40f, 88.8f, -88.8f, 1e4f, -1e4f, 3e38f, -3e38f, quiet_nan<float>()})
      x(0, i++) = T(special);
    auto const check = [&](std::string const& name, auto const& run) {
      run(on(), a, a2), run(cpu, b, b2);
      INFO(name);
      CHECK(same_numbers(a, b));
      CHECK(same_numbers(a2, b2));
    };
    check("silu", [&](auto s, auto& y, auto& d_x) { moe::silu<T>(s, x.mat(), y.mat()), moe::silu_backward<T>(s, x.mat(), d.mat(), d_x.mat()); });
    check("gelu", [&](auto s, auto& y, auto& d_x) { moe::gelu<T>(s, x.mat(), y.mat()), moe::gelu_backward<T>(s, x.mat(), d.mat(), d_x.mat()); });
    check("relu", [&](auto s, auto& y, auto& d_x) { moe::relu<T>(s, x.mat(), y.mat()), moe::relu_backward<T>(s, x.mat(), d.mat(), d_x.mat()); });
    check("swiglu_backward", [&](auto s, auto& g, auto& u) { moe::swiglu_backward<T>(s, x.mat(), up.mat(), d.mat(), g.mat(), u.mat()); });
    check("swiglu",
          [&](auto s, auto& h, auto& same) { moe::swiglu<T>(s, x.mat(), up.mat(), h.mat()), moe::swiglu<T>(s, up.mat(), x.mat(), same.mat()); });
  }
}

TEST_CASE("activations: errors name the argument") {
  space const s = on();
  array<float> a(2, 3), b(2, 4), c(3, 3);
  for (auto const& f : functions<float>()) {
    std::string const& name = f.name;
    CHECK(error_of([&] { f.forward(s, b.mat(), a.mat()); }) == name + ": x is [2, 4], needs [2, 3]");
    CHECK(error_of([&] { f.backward(s, c.mat(), a.mat(), a.mat()); }) == name + "_backward: x is [3, 3], needs [2, 3]");
    CHECK(error_of([&] { f.backward(s, a.mat(), b.mat(), a.mat()); }) == name + "_backward: d_y is [2, 4], needs [2, 3]");
  }
  CHECK(error_of([&] { moe::swiglu(s, b.mat(), a.mat(), a.mat()); }) == "swiglu: gate is [2, 4], needs [2, 3]");
  CHECK(error_of([&] { moe::swiglu(s, a.mat(), c.mat(), a.mat()); }) == "swiglu: up is [3, 3], needs [2, 3]");
  auto const backward = [&](array<float>& gate, array<float>& up, array<float>& d_h, array<float>& d_up) {
    return error_of([&] { moe::swiglu_backward(s, gate.mat(), up.mat(), d_h.mat(), a.mat(), d_up.mat()); });
  };
  CHECK(backward(b, a, a, a) == "swiglu_backward: gate is [2, 4], needs [2, 3]");
  CHECK(backward(a, b, a, a) == "swiglu_backward: up is [2, 4], needs [2, 3]");
  CHECK(backward(a, a, b, a) == "swiglu_backward: d_h is [2, 4], needs [2, 3]");
  CHECK(backward(a, a, a, b) == "swiglu_backward: d_up is [2, 4], needs [2, 3]");
}
