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

TEST_CASE("causal_conv1d: taps that reach back further than a tile") {
  problem<causal_conv1d_config{.width = 100}, double> p({0, 1, 99, 130, 300}, 5);
  exact const e(p);
  p.forward(on()), p.backward(on());
  CHECK(distance(p.y, e.y) <= 1e-13);
  CHECK(distance(p.last, e.last) == 0);
  CHECK(distance(p.d_x, e.d_x) <= 1e-13);
  CHECK(distance(p.d_initial, e.d_initial) <= 1e-13);
  CHECK(distance(p.d_weight, e.d_weight) <= 1e-13);
}

TEST_CASE("causal_conv1d: gradients") {
  std::vector<index_t> const lengths = {0, 1, 2, 5, on_cuda ? 9 : 67};
  problem<causal_conv1d_config{}, double> p(lengths, 3, 1, 1);
  auto const c = p.d_y, e = p.d_last;
  auto const loss = [&] {
    p.forward(on());
    double l = 0;
    for (index_t t = 0; t < p.x.rows(); ++t)
      for (index_t i = 0; i < 3; ++i) l += c(t, i) * p.y(t, i);
    for (index_t t = 0; t < e.rows(); ++t)
      for (index_t i = 0; i < 3; ++i) l += e(t, i) * p.last(t, i);
    return l;
  };
  p.d_weight.fill(0), p.d_bias.fill(0);
  p.backward(on());
  check_gradient("bias", loss, p.bias.data(), 3, p.d_bias.values());
  for (index_t i = 0; i < 3; ++i) {
    check_gradient("weight", loss, &p.weight(i, 0), 4, std::vector<double>(&p.d_weight(i, 0), &p.d_weight(i, 0) + 4));
    auto const column = [&](char const* name, array<double>& x, array<double> const& d) {
      for (index_t t = 0; t < x.rows(); ++t) check_gradient(name, loss, &x(t, i), 1, {d(t, i)}, {.step = 1e-4, .relative = 1e-6});
    };
    column("x", p.x, p.d_x), column("initial_state", p.initial, p.d_initial);
  }
}

namespace {
/// Results of sequences that are cut into calls of the given numbers of rows, the state handed on in place.
template <causal_conv1d_config C, class T>
std::vector<double> in_pieces(space const& s, std::vector<index_t> const& pieces, index_t channels) {
  index_t rows = 0;
  for (index_t n : pieces) rows += n;
  problem<C, T> p({rows}, channels);
  index_t begin = 0;
  for (index_t n : pieces) {
    moe::causal_conv1d<C>(s, moe::rows_of(p.x.mat(), begin, begin + n), p.weight.mat(), p.bias.vec(), moe::equal_sequences(1, n), p.state(p.initial),
                          moe::rows_of(p.y.mat(), begin, begin + n), p.state(p.initial));
    begin += n;
  }
  std::vector<double> all;
  for (auto const v : p.y.values()) all.push_back(double(v));
  for (auto const v : p.initial.values()) all.push_back(double(v));
  return all;
}
template <causal_conv1d_config C, class T>
void check_pieces() {
  auto const whole = in_pieces<C, T>(on(), {140}, 37);
  for_each_execution([&](space const& s, int) { CHECK(in_pieces<C, T>(s, {140}, 37) == whole); });
  CHECK(in_pieces<C, T>(on(), {64, 64, 12}, 37) == whole);
  CHECK(in_pieces<C, T>(on(), {1, 0, 2, 61, 3, 0, 5, 68}, 37) == whole);
  CHECK(in_pieces<C, T>(on(), std::vector<index_t>(140, 1), 37) == whole);
}
}  // namespace

TEST_CASE_TEMPLATE("causal_conv1d: the same bits wherever a sequence is cut, down to single steps with the state in place", T, float, double, bf16) {
  check_pieces<causal_conv1d_config{}, T>();
  check_pieces<causal_conv1d_config{.width = 7}, T>();
  check_pieces<causal_conv1d_config{.width = 2, .silu = false}, T>();
}

TEST_CASE_TEMPLATE("causal_conv1d: the same bits however it runs, for any strides; packed sequences as one call each", T, float, double, bf16) {
  constexpr causal_conv1d_config config{};
  std::vector<index_t> const lengths{3, 0, 130, 1, 64, 200, 2};
  index_t const channels = on_cuda ? 21 : 600;  // more than a block
  problem<config, T> expected(lengths, channels);
  expected.forward(on()), expected.backward(on());
  for_each_execution([&](space const& s, int i) {
    problem<config, T> p(lengths, channels, 2 * i + 1, i % 4);
    p.forward(s), p.backward(s);
    CHECK(same_bits(p.outputs(), expected.outputs()));
  });
  problem<config, T> each(lengths, channels);
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    problem<config, T> one({lengths[s]}, channels);
    index_t const first = each.offsets[s], state = static_cast<index_t>(s) * 3;
    for (index_t c = 0; c < channels; ++c) {
      for (index_t t = 0; t < lengths[s]; ++t) one.x(t, c) = each.x(first + t, c), one.d_y(t, c) = each.d_y(first + t, c);
      for (index_t j = 0; j < 3; ++j) one.initial(j, c) = each.initial(state + j, c), one.d_last(j, c) = each.d_last(state + j, c);
    }
    one.d_weight = each.d_weight, one.d_bias = each.d_bias;
    one.packed = s % 2 == 0;
    one.forward(on()), one.backward(on());
    for (index_t c = 0; c < channels; ++c) {
      for (index_t t = 0; t < lengths[s]; ++t) each.y(first + t, c) = one.y(t, c), each.d_x(first + t, c) = one.d_x(t, c);
      for (index_t j = 0; j < 3; ++j) each.last(state + j, c) = one.last(j, c), each.d_initial(state + j, c) = one.d_initial(j, c);
    }
    each.d_weight = one.d_weight, each.d_bias = one.d_bias;
  }
  CHECK(same_bits(each.outputs(), expected.outputs()));
}

TEST_CASE_TEMPLATE("causal_conv1d: no state is a state of zeros, no bias a bias of zeros", T, float, double, bf16) {
  problem<causal_conv1d_config{}, T> p({5, 2}, 9), q({5, 2}, 9), r({5, 2}, 9);
  for (auto* each : {&p, &q, &r}) each->initial.fill(T(0.f)), each->d_last.fill(T(0.f)), each->bias.fill(T(0.f));
  q.with_state = false, r.with_bias = false;
  for (auto* each : {&p, &q, &r}) each->forward(on()), each->backward(on());
  for (auto* each : {&q, &r}) {
    CHECK(same_bits(each->y.values(), p.y.values()));
    CHECK(same_bits(each->d_x.values(), p.d_x.values()));
    CHECK(same_bits(each->d_weight.values(), p.d_weight.values()));
  }
  CHECK(same_bits(r.last.values(), p.last.values()));
}

TEST_CASE_TEMPLATE("causal_conv1d: outputs larger than the caches", T, float, double, bf16) {
  if constexpr (!on_cuda) {  // which are written past them
    constexpr index_t channels = 1088, rows = 2100;
    problem<causal_conv1d_config{}, T> p({rows}, channels), q({rows}, channels, 1);  // q: rows that are not whole cache lines
    p.with_state = q.with_state = false;
    memory<T> aligned(static_cast<std::size_t>(rows * channels * 2 + 64));
    auto const at = reinterpret_cast<std::uintptr_t>(aligned.data());
    T* const from = aligned.data() + (64 - at % 64) % 64 / sizeof(T);
    auto const y = moe::mat(from, rows, channels), d_x = moe::mat(from + rows * channels, rows, channels);
    q.forward(on()), q.backward(on());
    moe::causal_conv1d(on(), p.x.mat(), p.weight.mat(), p.bias.vec(), p.sequences(), {}, y, {});
    scratch memory(moe::causal_conv1d_backward_scratch_bytes<causal_conv1d_config{}, T>(on(), rows, channels, 1));
    auto a = memory.get();
    moe::causal_conv1d_backward(on(), p.x.mat(), p.weight.mat(), p.bias.vec(), p.sequences(), {}, p.d_y.mat(), {}, d_x, p.d_weight.mat(),
                                p.d_bias.vec(), {}, a);
    auto const y_of_q = q.y.values(), d_x_of_q = q.d_x.values();
    CHECK(std::memcmp(y.data(), y_of_q.data(), y_of_q.size() * sizeof(T)) == 0);
    CHECK(std::memcmp(d_x.data(), d_x_of_q.data(), d_x_of_q.size() * sizeof(T)) == 0);
    CHECK(same_bits(p.d_weight.values(), q.d_weight.values()));
  }
}

TEST_CASE_TEMPLATE("causal_conv1d: every space has the same bits", T, float, double, bf16) {
  if constexpr (on_cuda) {
    constexpr causal_conv1d_config config{.silu = !std::is_same_v<T, double>};
    problem<config, T> p({3, 0, 130, 64}, 21, 1, 1), q({3, 0, 130, 64}, 21);
    p.forward(on()), q.forward(moe::cpu{.threads = 1});
    p.backward(on()), q.backward(moe::cpu{.threads = 1});
    CHECK(same_bits(p.outputs(), q.outputs()));
  }
}

TEST_CASE("causal_conv1d: a NaN reaches what looks at it, and nothing else; zeros before the first row are multiplied") {
  problem<causal_conv1d_config{}, float> p({70}, 20);
  p.x(62, 7) = quiet_nan<float>();
  p.forward(on()), p.backward(on());
  for (index_t t = 0; t < 70; ++t)
    for (index_t c = 0; c < 20; ++c) {
      CHECK(std::isnan(p.y(t, c)) == (c == 7 && t >= 62 && t < 66));
      CHECK(std::isnan(p.d_x(t, c)) == (c == 7 && t >= 59 && t < 66));
    }
  for (index_t c = 0; c < 20; ++c) {
    CHECK(std::isnan(p.d_weight(c, 0)) == (c == 7));
    CHECK(std::isnan(p.d_bias(c)) == (c == 7));
  }

  problem<causal_conv1d_config{}, float> q({70}, 20);
  q.d_y(65, 3) = quiet_nan<float>();
  q.forward(on()), q.backward(on());
  for (index_t t = 0; t < 70; ++t)
    for (index_t c = 0; c < 20; ++c) CHECK(std::isnan(q.d_x(t, c)) == (c == 3 && t >= 62 && t < 66));

  problem<causal_conv1d_config{}, float> r({9}, 2);
  r.with_state = false, r.weight(1, 0) = std::numeric_limits<float>::infinity();
  r.forward(on());
  for (index_t t = 0; t < 3; ++t) {
    CHECK(std::isnan(r.y(t, 1)));
    CHECK(std::isfinite(r.y(t, 0)));
  }
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
TEST_CASE_TEMPLATE("causal_conv1d: touches nothing outside its operands", T, float, double, bf16) {
  constexpr causal_conv1d_config config{};
  using A = moe::accumulator<T>;
  for (guard where : {guard::after, guard::before})
    for (index_t d : {1, 7, 16, 33})
      for (index_t n : {1, 2, 63, 66}) {
        guarded<T> x(n * d, where), d_y(n * d, where), y(n * d, where), w(d * 4, where), b(d, where), initial(3 * d, where), last(3 * d, where),
            d_initial(3 * d, where);
        guarded<A> d_w(d * 4, where), d_b(d, where);
        auto const matrix = [&](guarded<T>& m) { return moe::mat(m.data(), n, d); };
        auto const state = [&](guarded<T>& m) { return moe::tensor<T, dyn, dyn, dyn>(m.data(), 1, 3, d); };
        moe::causal_conv1d<config>(on(), matrix(x), moe::mat(w.data(), d, 4), moe::vec(b.data(), d), moe::equal_sequences(1, n), state(initial),
                                   matrix(y), state(last));
        scratch memory(moe::causal_conv1d_backward_scratch_bytes<config, T>(on(), n, d, 1));
        auto a = memory.get();
        moe::causal_conv1d_backward<config>(on(), matrix(x), moe::mat(w.data(), d, 4), moe::vec(b.data(), d), moe::equal_sequences(1, n),
                                            state(initial), matrix(d_y), state(last), matrix(y), moe::mat(d_w.data(), d, 4), moe::vec(d_b.data(), d),
                                            state(d_initial), a);
      }
}
#endif

TEST_CASE("causal_conv1d: nothing happens with no rows, sequences or channels; errors name the argument") {
  constexpr causal_conv1d_config config{};
  for (auto const& lengths : {std::vector<index_t>{}, std::vector<index_t>{0, 0}}) {
    problem<config, float> p(lengths, 5);
    auto const d_weight = p.d_weight.values();
    p.forward(on()), p.backward(on());
    CHECK(same_bits(p.last.values(), p.initial.values()));
    CHECK(same_bits(p.d_initial.values(), p.d_last.values()));
    CHECK(same_bits(p.d_weight.values(), d_weight));
  }
  problem<config, float> none({5}, 0);
  none.forward(on()), none.backward(on());

  problem<config, float> p({4, 3}, 5), q({4, 3}, 6), r({4}, 5);
  space const s = on();
  auto const forward = [&](auto& x, auto& w, auto& b, auto n, auto& initial, auto& y, auto& last) {
    return error_of([&] {
      moe::causal_conv1d<config>(s, x.x.mat(), w.weight.mat(), b.bias.vec(), n, initial.state(initial.initial), y.y.mat(), last.state(last.last));
    });
  };
  auto const n = p.sequences();
  CHECK(forward(p, q, p, n, p, p, p) == "causal_conv1d: weight is [6, 4], needs [5, 4]");
  CHECK(forward(p, p, q, n, p, p, p) == "causal_conv1d: bias has 6 elements, needs 5");
  CHECK(forward(p, p, p, n, q, p, p) == "causal_conv1d: initial_state is [2, 3, 6], needs [2, 3, 5]");
  CHECK(forward(p, p, p, n, p, r, p) == "causal_conv1d: y is [4, 5], needs [7, 5]");
  CHECK(forward(p, p, p, n, p, p, r) == "causal_conv1d: final_state is [1, 3, 5], needs [2, 3, 5]");
  CHECK(contains(forward(p, p, p, moe::equal_sequences(2, 3), p, p, p), "causal_conv1d: sequences are 2 of 3 rows"));
  if constexpr (!on_cuda) {
    memory<index_t> const wrong{0, 8, 7};
    CHECK(contains(forward(p, p, p, moe::packed_sequences(moe::vec(wrong.data(), 3)), p, p, p), "causal_conv1d: offsets[2] is 7, below"));
  }
  auto const backward = [&](auto& d_y, auto& d_last, auto& d_x, auto& d_weight, auto& d_bias, auto& d_initial, std::size_t bytes) {
    scratch memory(bytes);
    auto a = memory.get();
    return error_of([&] {
      moe::causal_conv1d_backward<config>(s, p.x.mat(), p.weight.mat(), p.bias.vec(), n, p.state(p.initial), d_y.d_y.mat(),
                                          d_last.state(d_last.d_last), d_x.d_x.mat(), d_weight.d_weight.mat(), d_bias.d_bias.vec(),
                                          d_initial.state(d_initial.d_initial), a);
    });
  };
  std::size_t const bytes = moe::causal_conv1d_backward_scratch_bytes<config, float>(s, 7, 5, 2);
  CHECK(backward(r, p, p, p, p, p, bytes) == "causal_conv1d_backward: d_y is [4, 5], needs [7, 5]");
  CHECK(backward(p, r, p, p, p, p, bytes) == "causal_conv1d_backward: d_final_state is [1, 3, 5], needs [2, 3, 5]");
  CHECK(backward(p, p, r, p, p, p, bytes) == "causal_conv1d_backward: d_x is [4, 5], needs [7, 5]");
  CHECK(backward(p, p, p, q, p, p, bytes) == "causal_conv1d_backward: d_weight is [6, 4], needs [5, 4]");
  CHECK(backward(p, p, p, p, q, p, bytes) == "causal_conv1d_backward: d_bias has 6 elements, needs 5");
  CHECK(backward(p, p, p, p, p, r, bytes) == "causal_conv1d_backward: d_initial_state is [1, 3, 5], needs [2, 3, 5]");
  CHECK(backward(p, p, p, p, p, p, 16) == "causal_conv1d_backward: scratch has 16 bytes left, needs " + std::to_string(bytes));
  CHECK(backward(p, p, p, p, p, p, bytes).empty());
  scratch memory(bytes);
  auto in_place = memory.get();
  CHECK(error_of([&] {
          moe::causal_conv1d_backward<config>(s, p.x.mat(), p.weight.mat(), p.bias.vec(), n, p.state(p.initial), p.d_y.mat(), p.state(p.d_last),
                                              p.d_x.mat(), p.d_weight.mat(), p.d_bias.vec(), p.state(p.d_last), in_place);
        }) == "causal_conv1d_backward: d_initial_state is d_final_state, needs memory of its own");
}
