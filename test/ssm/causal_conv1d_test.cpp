#include <moe/ssm/causal_conv1d.hpp>

#include <test/guarded.hpp>
#include <test/support.hpp>

using namespace test;

namespace {
using moe::causal_conv1d_config;

/// The operands of one call. `lengths` are those of the sequences; rows are `gap` elements further apart than they are long, `offset` off alignment.
template <causal_conv1d_config C, class T>
struct problem {
  using A = moe::accumulator<T>;
  static constexpr index_t W = C.width;
  std::vector<index_t> lengths;
  index_t channels;
  memory<index_t> offsets{0};
  array<T> x, weight, bias, y, d_y, d_x, initial, last, d_last, d_initial;
  array<A> d_weight, d_bias;
  bool with_state = true, with_bias = true, packed = true;

  problem(std::vector<index_t> const& n, index_t d, index_t gap = 0, index_t offset = 0)
      : lengths(n), channels(d), x(rows(n), d, d + gap, offset), weight(d, W, W + gap, offset), bias(d, 1, 0, offset), y(rows(n), d, d + gap, offset),
        d_y(rows(n), d, d + gap, offset), d_x(rows(n), d, d + gap, offset), initial(states(n), d, d + gap, offset),
        last(states(n), d, d + gap, offset), d_last(states(n), d, d + gap, offset), d_initial(states(n), d, d + gap, offset),
        d_weight(d, W, W + gap, offset), d_bias(d, 1, 0, offset) {
    for (index_t l : n) offsets.push_back(offsets.back() + l);
    x.normal(1), weight.normal(2, 0.6), bias.normal(3, 0.5), d_y.normal(4), initial.normal(5), d_last.normal(6), d_weight.normal(7), d_bias.normal(8);
  }
  static index_t rows(std::vector<index_t> const& n) {
    index_t r = 0;
    for (index_t l : n) r += l;
    return r;
  }
  static index_t states(std::vector<index_t> const& n) { return static_cast<index_t>(n.size()) * (W - 1); }
  moe::sequence_rows sequences() const {
    if (!packed) return moe::equal_sequences(static_cast<index_t>(lengths.size()), lengths.empty() ? 0 : lengths[0]);
    return moe::packed_sequences(moe::vec(offsets.data(), static_cast<index_t>(offsets.size())));
  }
  auto state(array<T>& a) {
    using view = moe::tensor<T, dyn, dyn, dyn>;
    return with_state ? view(a.data(), static_cast<index_t>(lengths.size()), W - 1, channels).with_row_stride(a.mat().row_stride()) : view();
  }
  moe::vector_view<T> bias_view() { return with_bias ? bias.vec() : moe::vector_view<T>(); }
  moe::vector_view<A> d_bias_view() { return with_bias ? d_bias.vec() : moe::vector_view<A>(); }
  void forward(auto const& s) { forward(s, last); }
  void forward(auto const& s, array<T>& to_state) {
    moe::causal_conv1d<C>(s, x.mat(), weight.mat(), bias_view(), sequences(), state(initial), y.mat(), state(to_state));
  }
  void backward(auto const& s) { backward(s, d_initial); }
  void backward(auto const& s, array<T>& to_state) {
    scratch memory(moe::causal_conv1d_backward_scratch_bytes<C, T>(s, x.rows(), channels, static_cast<index_t>(lengths.size())));
    auto a = memory.get();
    moe::causal_conv1d_backward<C>(s, x.mat(), weight.mat(), bias_view(), sequences(), state(initial), d_y.mat(), state(d_last), d_x.mat(),
                                   d_weight.mat(), d_bias_view(), state(to_state), a);
  }
  std::vector<double> outputs() const {
    std::vector<double> all;
    auto const append = [&](auto const& a) {
      for (auto const v : a.values()) all.push_back(static_cast<double>(v));
    };
    append(y), append(last), append(d_x), append(d_initial), append(d_weight), append(d_bias);
    return all;
  }
  void integers() {
    x.integers(1), weight.integers(2), bias.integers(3), d_y.integers(4), initial.integers(5), d_last.integers(6), d_weight.integers(7),
        d_bias.integers(8);
  }
};

/// The formulas, in double, one output at a time.
template <causal_conv1d_config C, class T>
struct exact {
  static constexpr index_t W = C.width;
  std::vector<double> y, last, d_x, d_initial, d_weight, d_bias;

  explicit exact(problem<C, T> const& p) {
    index_t const channels = p.channels;
    auto const size = [](index_t n) { return static_cast<std::size_t>(n); };
    y.resize(size(p.x.size())), d_x.resize(y.size()), last.resize(size(p.last.size())), d_initial.resize(last.size());
    d_weight.resize(size(channels * W)), d_bias.resize(size(channels));
    for (index_t c = 0; c < channels; ++c) {
      for (index_t k = 0; k < W; ++k) d_weight[size(c * W + k)] = double(p.d_weight(c, k));
      d_bias[size(c)] = double(p.d_bias(c));
      for (std::size_t s = 0; s < p.lengths.size(); ++s) {
        index_t const first = p.offsets[s], n = p.lengths[s], states = static_cast<index_t>(s) * (W - 1);
        // in, d_in: the W - 1 inputs of the state and those of the rows, with their gradients
        std::vector<double> in(size(n + W - 1)), d_in(in.size());
        for (index_t i = 0; i < W - 1; ++i) in[size(i)] = p.with_state ? double(p.initial(states + i, c)) : 0;
        for (index_t t = 0; t < n; ++t) in[size(W - 1 + t)] = double(p.x(first + t, c));
        for (index_t i = 0; i < W - 1; ++i) d_in[size(n + i)] = p.with_state ? double(p.d_last(states + i, c)) : 0;
        for (index_t t = 0; t < n; ++t) {
          double v = p.with_bias ? double(p.bias(c)) : 0;
          for (index_t k = 0; k < W; ++k) v += double(p.weight(c, k)) * in[size(t + k)];
          double const gate = 1 / (1 + std::exp(-v));
          y[size((first + t) * channels + c)] = C.silu ? v * gate : v;
          double const g = double(p.d_y(first + t, c)) * (C.silu ? gate * (1 + v * (1 - gate)) : 1);
          for (index_t k = 0; k < W; ++k) d_in[size(t + k)] += g * double(p.weight(c, k)), d_weight[size(c * W + k)] += g * in[size(t + k)];
          d_bias[size(c)] += g;
        }
        for (index_t i = 0; i < W - 1; ++i)
          last[size((states + i) * channels + c)] = in[size(n + i)], d_initial[size((states + i) * channels + c)] = d_in[size(i)];
        for (index_t t = 0; t < n; ++t) d_x[size((first + t) * channels + c)] = d_in[size(W - 1 + t)];
      }
    }
  }
};

/// Largest difference relative to the largest number; NaN if any is.
template <class T>
double distance(array<T> const& a, std::vector<double> const& b) {
  auto const v = a.values();
  REQUIRE(v.size() == b.size());
  double worst = 0, largest = 1e-30;
  for (std::size_t i = 0; i < b.size(); ++i) {
    double const d = std::abs(double(v[i]) - b[i]);
    if (!(d <= worst)) worst = d;
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

template <causal_conv1d_config C, class T>
void check_formula(std::vector<index_t> const& lengths, index_t channels, index_t gap, index_t offset, bool state, bool bias) {
  double const tolerance = std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 3e-6 : 4e-3;
  problem<C, T> p(lengths, channels, gap, offset);
  p.with_state = state, p.with_bias = bias;
  exact<C, T> const e(p);
  p.forward(on()), p.backward(on());
  int const width = C.width;
  CAPTURE(width);
  CAPTURE(channels);
  CAPTURE(state);
  CAPTURE(bias);
  CHECK(distance(p.y, e.y) <= tolerance);
  CHECK(distance(p.d_x, e.d_x) <= tolerance);
  CHECK(distance(p.d_weight, e.d_weight) <= (std::is_same_v<T, double> ? 1e-13 : 1e-5));
  if (bias) CHECK(distance(p.d_bias, e.d_bias) <= (std::is_same_v<T, double> ? 1e-13 : 1e-5));
  if (state) CHECK(distance(p.last, e.last) == 0);
  if (state) CHECK(distance(p.d_initial, e.d_initial) <= tolerance);
}
/// Lengths around the width, the tile of 64 rows and its halo; channels around a vector and a block.
template <causal_conv1d_config C, class T>
void check_formulas() {
  constexpr index_t W = C.width;
  std::vector<index_t> const lengths{0, 1, 2, W - 1, W, W + 1, 0, 63, 64, 65, 64 + W, 130, 0};
  int i = 0;
  for (index_t channels : {1, 3, 16, 17, 40}) check_formula<C, T>(lengths, channels, i % 3, i % 2, i % 4 != 2, i % 3 != 1), ++i;
  for (index_t n : {index_t{0}, index_t{1}, W - 1, W, index_t{5}, index_t{62}, index_t{66}})
    check_formula<C, T>({n}, 9, i % 2, i % 3, i % 3 != 0, i % 2 == 0), ++i;
}
template <class T>
void check_widths() {
  check_formulas<causal_conv1d_config{.width = 1}, T>();
  check_formulas<causal_conv1d_config{.width = 2}, T>();
  check_formulas<causal_conv1d_config{.width = 3, .silu = false}, T>();
  check_formulas<causal_conv1d_config{.width = 4}, T>();
  check_formulas<causal_conv1d_config{.width = 7}, T>();
}
}  // namespace

TEST_CASE("causal_conv1d: looks back only, oldest tap first; the state is the last inputs") {
  problem<causal_conv1d_config{.width = 3, .silu = false}, double> p({4}, 1);
  p.x = array<double>({1, 2, 3, 4}, 4, 1), p.weight = array<double>({100, 10, 1}, 1, 3), p.initial = array<double>({7, 8}, 2, 1);
  p.bias.fill(0.5);
  p.forward(on());
  CHECK(p.y.values() == std::vector<double>{781.5, 812.5, 123.5, 234.5});
  CHECK(p.last.values() == std::vector<double>{3, 4});
}

TEST_CASE_TEMPLATE("causal_conv1d: agrees with the formula for any width, length, stride, state, bias", T, float, double, bf16) { check_widths<T>(); }
