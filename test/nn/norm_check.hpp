#pragma once
// What the tests of the norms share. A norm is a template P: P<T>(tokens, d, gap, offset) holds the operands of one call, filled, and offers
//   forward(space, y), backward(space, d_x)   the operators, with another array as output if one is given
//   exact(t)                                  row t of the result by the formula, in double
//   weights()                                 its weights, each with its gradient
//   outputs()                                 everything it computed, as numbers
#include <test/guarded.hpp>
#include <test/support.hpp>

namespace test {

template <class T>
struct norm_weight {
  char const* name;
  array<T>* value;
  array<moe::accumulator<T>>* gradient;
};
struct norm_row {
  std::vector<double> y;
  double rstd;
};

/// The operands that all norms have, rows `gap` elements further apart than they are long, `offset` elements off alignment.
template <class T>
struct norm_operands {
  using A = moe::accumulator<T>;
  array<T> x, w, y, d_y, d_x;
  array<A> d_w, rstd;
  A eps = A(1e-5);
  norm_operands(index_t tokens, index_t d, index_t gap = 0, index_t offset = 0)
      : x(tokens, d, d + gap, offset), w(d, 1, 0, offset), y(tokens, d, d + gap, offset), d_y(tokens, d, d + gap, offset),
        d_x(tokens, d, d + gap, offset), d_w(d, 1, 0, offset), rstd(tokens) {
    x.normal(1), w.normal(2), d_y.normal(3), d_w.normal(4);
  }
};

/// The numbers of all arrays one after the other, for comparison bit by bit.
std::vector<double> numbers_of(auto const&... arrays) {
  std::vector<double> all;
  auto const append = [&](auto const& a) {
    for (auto const v : a.values()) all.push_back(static_cast<double>(v));
  };
  (append(arrays), ...);
  return all;
}

/// `tolerance` is relative to the size of an element plus `base`.
template <template <class> class P, class T>
void check_norm_formula(double tolerance, double base) {
  for (index_t d : {1, 3, 7, 8, 9, 16, 31, 33, 64, 65, 130, 300})
    for (index_t tokens : {0, 1, 5, 9}) {
      P<T> p(tokens, d, d % 3, tokens % 2);
      p.forward(on());
      for (index_t t = 0; t < tokens; ++t) {
        norm_row const row = p.exact(t);
        CHECK(std::abs(double(p.rstd(t)) - row.rstd) <= (std::is_same_v<T, double> ? 1e-13 : 1e-6) * row.rstd);
        for (index_t c = 0; c < d; ++c) {
          double const y = row.y[static_cast<std::size_t>(c)];
          CHECK(std::abs(double(p.y(t, c)) - y) <= tolerance * (std::abs(y) + base));
        }
      }
    }
}

template <template <class> class P>
void check_norm_gradients() {
  for (index_t tokens : {1, 3, on_cuda ? 5 : 70}) {
    index_t const d = tokens == 70 ? 4 : 13;
    P<double> p(tokens, d, 2, 1);
    array<double> const c = p.d_y;
    auto const loss = [&] {
      p.forward(on());
      double l = 0;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t i = 0; i < d; ++i) l += c(t, i) * p.y(t, i);
      return l;
    };
    loss();
    for (auto const& w : p.weights()) w.gradient->fill(0);
    p.backward(on());
    for (auto const& w : p.weights()) check_gradient(w.name, loss, w.value->data(), d, w.gradient->values());
    for (index_t t = 0; t < tokens; ++t)
      check_gradient("x", loss, &p.x(t, 0), d, std::vector<double>(&p.d_x(t, 0), &p.d_x(t, 0) + d), {.step = 1e-4, .relative = 1e-7});
  }
}

template <template <class> class P, class T>
void check_norm_adds_to_gradients() {
  P<T> p(9, 21), q(9, 21);
  p.forward(on()), q.forward(on());
  for (auto const& w : p.weights()) w.gradient->fill(0);
  for (auto const& w : q.weights()) w.gradient->fill(1);
  p.backward(on()), q.backward(on());
  auto const of_p = p.weights(), of_q = q.weights();
  for (std::size_t i = 0; i < of_p.size(); ++i)
    for (index_t c = 0; c < 21; ++c) {
      double const g = double((*of_p[i].gradient)(c));
      CHECK(std::abs(double((*of_q[i].gradient)(c)) - 1 - g) <= 1e-5 * (1 + std::abs(g)));
    }
}

template <template <class> class P, class T>
void check_norm_bits() {
  index_t const tokens = on_cuda ? 70 : 200, d = 83;
  P<T> expected(tokens, d);
  expected.forward(on()), expected.backward(on());
  for_each_execution([&](space const& s, int i) {
    P<T> p(tokens, d, 2 * i + 1, i % 4);
    p.forward(s), p.backward(s);
    CHECK(same_bits(p.outputs(), expected.outputs()));
  });
  for (index_t t : {index_t{0}, index_t{63}, index_t{64}, tokens - 1}) {  // a row alone as in a batch
    P<T> one(1, d);
    for (index_t c = 0; c < d; ++c) one.x(0, c) = expected.x(t, c), one.d_y(0, c) = expected.d_y(t, c);
    one.forward(on()), one.backward(on());
    for (index_t c = 0; c < d; ++c) {
      CHECK(double(one.y(0, c)) == double(expected.y(t, c)));
      CHECK(double(one.d_x(0, c)) == double(expected.d_x(t, c)));
    }
  }
  P<T> in_place(tokens, d);
  in_place.forward(on());
  in_place.backward(on(), in_place.d_y);
  CHECK(same_bits(in_place.d_y.values(), expected.d_x.values()));
  CHECK(same_bits(in_place.d_w.values(), expected.d_w.values()));
  in_place.forward(on(), in_place.x);
  CHECK(same_bits(in_place.x.values(), expected.y.values()));
}

/// Where all sums are exact, their order is free, and every space has the bits of the CPU. `prepare` sets what the forward computes to whole numbers.
template <template <class> class P, class T, class F>
void check_norm_spaces(F const& prepare) {
  if constexpr (on_cuda) {
    P<T> p(70, 32, 1, 1), q(70, 32);
    for (P<T>* each : {&p, &q}) each->x.integers(1), each->d_y.integers(2), each->w.integers(3);
    moe::cpu const cpu{.threads = 1};
    p.forward(on()), q.forward(cpu);
    CHECK(same_bits(p.y.values(), q.y.values()));
    prepare(p), prepare(q);
    p.backward(on()), q.backward(cpu);
    CHECK(same_bits(p.outputs(), q.outputs()));
  }
}

/// A NaN in d_y spoils its row of d_x and its column of the weights' gradients, and nothing else.
template <template <class> class P, class T>
void check_norm_nan_gradient() {
  P<T> q(70, 20);
  q.forward(on());
  q.d_y(69, 7) = quiet_nan<T>();
  q.backward(on());
  for (index_t c = 0; c < 20; ++c) {
    CHECK(std::isnan(q.d_x(69, c)));
    CHECK(!std::isnan(q.d_x(68, c)));
    for (auto const& w : q.weights()) CHECK(std::isnan((*w.gradient)(c)) == (c == 7));
  }
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
/// run(x, d_y, y, w, d_w) goes forward and back; it touches nothing outside its operands.
template <class T, class F>
void check_norm_guarded(F const& run) {
  for (guard where : {guard::after, guard::before})
    for (index_t d : {1, 7, 16, 33})
      for (index_t tokens : {1, 63, 66}) {
        guarded<T> x(tokens * d, where), d_y(tokens * d, where), y(tokens * d, where), w(d, where);
        guarded<moe::accumulator<T>> d_w(d, where);
        auto const matrix = [&](guarded<T>& m) { return moe::mat(m.data(), tokens, d); };
        run(matrix(x), matrix(d_y), matrix(y), moe::vec(w.data(), d), moe::vec(d_w.data(), d));
      }
}
#endif

template <template <class> class P>
void check_norm_nothing() {
  P<float> none(0, 4);
  auto const before = none.outputs();
  none.forward(on()), none.backward(on());
  CHECK(same_bits(none.outputs(), before));
  P<float> empty(3, 0);  // rows of no columns: only their rstd exists
  empty.forward(on()), empty.backward(on());
  for (index_t t = 0; t < 3; ++t) CHECK(empty.rstd(t) == 1 / std::sqrt(empty.eps));
}

}  // namespace test
