#include <moe/nn/linear.hpp>

#include "test/support.hpp"

TEST_CASE("linear: values and gradients") {
  moe::cpu const space{.threads = 2};
  test::array<double> x(5, 3), w(4, 3), y(5, 4), c(5, 4), d_x(5, 3), g(4, 3);
  x.normal(1), w.normal(2), c.normal(3), g.fill(0);
  moe::buffer memory(moe::nn::linear_scratch_bytes<double, moe::nn::layout::row_major>(space, 5, 4, 3));
  moe::arena scratch(memory);
  auto const loss = [&] {
    moe::nn::linear<double>(space, x.mat(), w.mat(), y.mat(), scratch);
    double sum = 0;
    for (int t = 0; t < 5; ++t)
      for (int o = 0; o < 4; ++o) sum += c(t, o) * y(t, o);
    return sum;
  };
  loss();
  for (int t = 0; t < 5; ++t)
    for (int o = 0; o < 4; ++o) CHECK(std::abs(y(t, o) - (x(t, 0) * w(o, 0) + x(t, 1) * w(o, 1) + x(t, 2) * w(o, 2))) < 1e-14);
  moe::nn::linear_backward<double>(space, x.mat(), w.mat(), c.mat(), d_x.mat(), g.mat(), scratch);
  test::check_gradient("x", loss, x.data(), 15, d_x.values());
  test::check_gradient("w", loss, w.data(), 12, g.values());
}

TEST_CASE("linear_backward: weight gradients add up, input gradients add up where asked") {
  moe::cpu const space{.threads = 2};
  test::array<double> x(5, 3), w(4, 3), d_y(5, 4), d_x(5, 3), g(4, 3);
  x.integers(1), w.integers(2), d_y.integers(3), g.fill(1), d_x.fill(2);
  moe::buffer memory(moe::nn::linear_scratch_bytes<double, moe::nn::layout::row_major>(space, 5, 4, 3));
  moe::arena scratch(memory);
  moe::nn::linear_backward<double, true>(space, x.mat(), w.mat(), d_y.mat(), d_x.mat(), g.mat(), scratch);
  for (int t = 0; t < 5; ++t)
    for (int i = 0; i < 3; ++i) {
      double sum = 2;
      for (int o = 0; o < 4; ++o) sum += d_y(t, o) * w(o, i);
      CHECK(d_x(t, i) == sum);
    }
  for (int o = 0; o < 4; ++o)
    for (int i = 0; i < 3; ++i) {
      double sum = 1;
      for (int t = 0; t < 5; ++t) sum += d_y(t, o) * x(t, i);
      CHECK(g(o, i) == sum);
    }
}
