#include "test/guarded.hpp"
#include "test/ssm/scan_problem.hpp"

using namespace test;
using moe::selective_scan_config;

namespace {
constexpr selective_scan_config three{.d_state = 3}, sixteen{}, seventeen_in_groups{.d_state = 17, .groups = 2},
    plain_delta{.d_state = 5, .softplus = false}, one{.d_state = 1}, many{.d_state = 300};
constexpr index_t chunk = moe::scan_chunk;

/// Element i of x, row by row, or column by column as the vectors are written down, is offset + scale sin(k (i + 1)).
void generate(array<double>& x, double k, double scale, double offset) {
  for (index_t i = 0; i < x.size(); ++i) x(i % x.rows(), i / x.rows()) = offset + scale * std::sin(k * double(i + 1));
}
void check_values(char const* name, array<double> const& x, std::vector<double> const& expected) {
  for (index_t i = 0; i < x.size(); ++i) {
    INFO(name << "[" << i << "]");
    CHECK(std::abs(x(i % x.rows(), i / x.rows()) - expected[static_cast<std::size_t>(i)]) < 1e-9);
  }
}
}  // namespace

TEST_CASE("selective_scan: reference values, forward and backward") {
  scan_problem<three, double> p({4}, 2);
  generate(p.u, .7, 1, 0), generate(p.delta, .5, .5, -.5), generate(p.b, .9, 1, 0), generate(p.c, 1.1, 1, 0), generate(p.z, 1.3, 1, 0);
  generate(p.d_out, .3, 1, 0);
  p.skip.fill(1), p.first.fill(0), p.d_last.fill(0), p.d_a.fill(0), p.d_skip.fill(0), p.d_bias.fill(0);
  p.bias(0) = .1, p.bias(1) = -.2;
  for (index_t i = 0; i < 6; ++i) p.a(i / 3, i % 3) = -double(i % 3 + 1);
  p.run(on());
  check_values("out", p.out, {0.710690156, 0.363694706, -0.171091193, -0.016371448, -0.061991636, -0.674405981, -0.143113304, 0.069961705});
  check_values("last", p.last, {0.218243458, -0.266722629, 0.160493154, -0.049316283, -0.266554498, 0.216852962});
  check_values("d_u", p.d_u, {0.363063954, 0.273024247, -0.160403013, -0.293684696, 0.182780326, 0.755667368, 0.192439339, -0.185206958});
  check_values("d_delta", p.d_delta, {0.075481322, 0.060873274, -0.052099743, -0.061918286, -0.017562669, -0.063513165, -0.036273950, 0.030252488});
  check_values("d_bias", p.d_bias, {0.022336567, -0.087097296});
  check_values("d_a", p.d_a, {0.117850830, -0.052394996, 0.024970956, 0.012301262, -0.000986127, 0.017286214});
  check_values("d_skip", p.d_skip, {0.076125101, -0.710401649});
  check_values("d_b", p.d_b,
               {0.020558214, -0.090761806, 0.057094120, 0.025430538, -0.062623939, -0.095142721, -0.170716746, -0.015631280, 0.001384138, 0.157891123,
                0.080357540, -0.015822525});
  check_values("d_c", p.d_c,
               {0.047358077, -0.171865791, -0.194975547, -0.007201993, -0.059099140, 0.142658404, 0.051635056, -0.030263598, 0.058637225,
                -0.082872800, 0.060157874, 0.027316243});
  check_values("d_z", p.d_z, {0.275967762, 0.475148702, 0.105676743, 0.006475579, -0.315055870, -0.834547205, -0.439139207, -0.024199491});
}

TEST_CASE("selective_scan: reference values of one channel, row by row") {
  constexpr selective_scan_config two{.d_state = 2};
  scan_problem<two, double> p({1}, 1, {.bias = false});
  p.a(0, 0) = -1, p.a(0, 1) = -2, p.skip(0) = .5, p.first.fill(0);
  p.u(0) = 1, p.delta(0) = 0, p.b(0, 0) = 1, p.b(0, 1) = .5, p.c(0, 0) = 1, p.c(0, 1) = -1, p.z(0) = .5;
  p.forward(on());
  check_values("out", p.out, {.263478815});
  check_values("last", p.last, {.693147181, .34657359});
  p.first = p.last;
  p.u(0) = -.5, p.delta(0) = 1, p.b(0, 0) = .2, p.b(0, 1) = 1, p.c(0, 0) = .5, p.c(0, 1) = 2, p.z(0) = -1;
  p.forward(on());
  check_values("out", p.out, {.39953448});
  check_values("last", p.last, {.055089819, -.631563353});
}

namespace {
template <selective_scan_config C, class T>
void check_formula(std::vector<index_t> const& lengths, index_t channels, scan_parts parts, index_t extra) {
  scan_problem<C, T> p(lengths, channels, parts, extra);
  p.run(on());
  std::vector<double> expected = scan_by_formula(p), got = p.forward_outputs();
  if (!parts.states) expected.resize(static_cast<std::size_t>(p.tokens * channels)), got.resize(expected.size());
  double const bound = std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 1e-6 : 4e-3;
  INFO("d_state " << C.d_state << ", groups " << C.groups << ", channels " << channels << ", tokens " << p.tokens << ", extra " << extra);
  CHECK(relative_distance(got, expected) <= bound);

  scan_problem<C, double> q(lengths, channels, parts);  // the same operands; its gradients are held against finite differences below
  auto const widen = [](auto const& from, array<double>& to) {
    for (index_t i = 0; i < from.rows(); ++i)
      for (index_t j = 0; j < from.columns(); ++j) to(i, j) = double(from(i, j));
  };
  scan_problem<C, T> fresh(lengths, channels, parts, extra);
  widen(p.u, q.u), widen(p.delta, q.delta), widen(p.b, q.b), widen(p.c, q.c), widen(p.z, q.z), widen(p.d_out, q.d_out), widen(p.a, q.a);
  widen(p.skip, q.skip), widen(p.bias, q.bias), widen(p.first, q.first), widen(p.d_last, q.d_last);
  widen(fresh.d_a, q.d_a), widen(fresh.d_skip, q.d_skip), widen(fresh.d_bias, q.d_bias);
  q.run(on());
  auto const agrees = [&](char const* name, auto const& x, array<double> const& y, double factor) {
    INFO(name);
    std::vector<double> values;
    for (auto e : x.values()) values.push_back(double(e));
    CHECK(relative_distance(values, y.values()) <= factor * bound);
  };
  agrees("d_u", p.d_u, q.d_u, 2), agrees("d_delta", p.d_delta, q.d_delta, 4), agrees("d_b", p.d_b, q.d_b, 2), agrees("d_c", p.d_c, q.d_c, 2);
  agrees("d_a", p.d_a, q.d_a, 4);
  if (parts.gate) agrees("d_z", p.d_z, q.d_z, 2);
  if (parts.skip) agrees("d_skip", p.d_skip, q.d_skip, 4);
  if (parts.bias) agrees("d_bias", p.d_bias, q.d_bias, 4);
  if (parts.states) agrees("d_first", p.d_first, q.d_first, 4);
}
}  // namespace

TEST_CASE_TEMPLATE("selective_scan: agrees with the formula for any d_state, groups, channels and strides, with and without each optional part", T,
                   float, double, bf16) {
  check_formula<one, T>({5}, 1, {}, 0);
  check_formula<three, T>({7, 0, 2}, 18, {.gate = false}, 3);
  check_formula<plain_delta, T>({20}, 9, {.skip = false, .bias = false}, 0);
  check_formula<sixteen, T>({chunk + 1, 3}, on_cuda ? 5 : 37, {.states = false}, 1);
  check_formula<sixteen, T>({4}, 100, {}, 0);  // more channels than a block has on CUDA
  check_formula<seventeen_in_groups, T>({chunk}, 2 * (on_cuda ? 3 : 19), {}, 5);
  check_formula<many, T>({2}, 3, {}, 0);
}

namespace {
/// Gradients of sum w out + sum v last_state at some places of every input: all of small ones, else about 25.
template <selective_scan_config C>
void check_gradients(index_t length, index_t channels, scan_parts parts) {
  scan_problem<C, double> p({length}, channels, parts);
  auto const sums = [&] { return std::vector<std::vector<double>>{p.d_a.values(), p.d_skip.values(), p.d_bias.values()}; };
  p.forward(on());
  auto const before = sums();
  p.backward(on());
  auto after = sums();
  for (std::size_t i = 0; i < after.size(); ++i)
    for (std::size_t j = 0; j < after[i].size(); ++j) after[i][j] -= before[i][j];
  auto const loss = [&] {
    p.forward(on());
    double total = 0;
    for (index_t i = 0; i < p.out.rows(); ++i)
      for (index_t j = 0; j < channels; ++j) total += p.out(i, j) * p.d_out(i, j);
    for (index_t i = 0; i < p.last.size() && parts.states; ++i) total += p.last.data()[i] * p.d_last.data()[i];
    return total;
  };
  auto const check = [&](char const* name, array<double>& x, std::vector<double> const& gradient) {
    INFO("d_state " << C.d_state << ", length " << length);
    std::vector<index_t> places;
    index_t const n = x.size(), step = std::max<index_t>(1, n / (on_cuda ? 7 : 25));
    for (index_t i = 0; i < n; i += step) places.push_back(i);
    if (n > 0) places.push_back(n - 1);
    if (n > 0) check_gradient_at(name, loss, x.data(), places, gradient.data(), {.step = 3e-4, .relative = 1e-8});
  };
  check("u", p.u, p.d_u.values()), check("delta", p.delta, p.d_delta.values()), check("b", p.b, p.d_b.values()), check("c", p.c, p.d_c.values());
  check("a", p.a, after[0]);
  if (parts.gate) check("z", p.z, p.d_z.values());
  if (parts.skip) check("skip", p.skip, after[1]);
  if (parts.bias) check("bias", p.bias, after[2]);
  if (parts.states) check("first", p.first, p.d_first.values());
}
}  // namespace

TEST_CASE("selective_scan_backward: agrees with finite differences, around each border of chunks") {
  for (index_t length : {index_t{0}, index_t{1}, index_t{2}, chunk - 1, chunk, chunk + 1, 3 * chunk + 5}) {
    check_gradients<three>(length, 3, {});
    if (length <= 2 || length == chunk + 1) check_gradients<seventeen_in_groups>(length, 4, {});
  }
  check_gradients<plain_delta>(4, 2, {});
  check_gradients<sixteen>(3, 19, {.gate = false});
  check_gradients<one>(5, 2, {.skip = false, .bias = false, .states = false});
}

TEST_CASE("selective_scan: the same bits however it runs") {
  std::vector<double> outputs[4];
  for_each_execution([&](space const& s, int i) {
    scan_problem<sixteen, float> many_sequences({5, chunk + 3, 0, 1, 40, 2, 2 * chunk}, on_cuda ? 18 : 83, {}, 1);
    scan_problem<seventeen_in_groups, bf16> long_one({on_cuda ? chunk + 2 : 3 * chunk + 5}, 6);
    scan_problem<three, double> narrow({9, 9, 9}, 2);
    many_sequences.run(s), long_one.run(s), narrow.run(s);
    std::vector<double> got = many_sequences.outputs();
    for (auto const& more : {long_one.outputs(), narrow.outputs()}) got.insert(got.end(), more.begin(), more.end());
    if (i == 0) outputs[0] = got;
    CHECK(same_bits(got, outputs[0]));
  });
}

namespace {
template <selective_scan_config C, class T>
void check_packed(std::vector<index_t> const& lengths, index_t channels) {
  scan_problem<C, T> p(lengths, channels, {}, 2);
  auto sums = p;  // d_a, d_skip and d_delta_bias: added to by one sequence after the other
  p.run(on());
  for (index_t s = 0; s < p.sequences; ++s) {
    index_t const length = lengths[static_cast<std::size_t>(s)];
    scan_problem<C, T> q({length}, channels);
    auto const copy = [&](auto const& from, auto& to, index_t first) {
      for (index_t i = 0; i < to.rows(); ++i)
        for (index_t j = 0; j < to.columns(); ++j) to(i, j) = from(first + i, j);
    };
    index_t const t = p.offsets(s);
    copy(p.u, q.u, t), copy(p.delta, q.delta, t), copy(p.b, q.b, t), copy(p.c, q.c, t), copy(p.z, q.z, t), copy(p.d_out, q.d_out, t);
    copy(p.first, q.first, s * channels), copy(p.d_last, q.d_last, s * channels);
    copy(p.a, q.a, 0), copy(p.skip, q.skip, 0), copy(p.bias, q.bias, 0);
    copy(sums.d_a, q.d_a, 0), copy(sums.d_skip, q.d_skip, 0), copy(sums.d_bias, q.d_bias, 0);
    q.run(on());
    copy(q.d_a, sums.d_a, 0), copy(q.d_skip, sums.d_skip, 0), copy(q.d_bias, sums.d_bias, 0);
    auto part = q;
    copy(p.out, part.out, t), copy(p.d_u, part.d_u, t), copy(p.d_delta, part.d_delta, t), copy(p.d_b, part.d_b, t), copy(p.d_c, part.d_c, t);
    copy(p.d_z, part.d_z, t), copy(p.last, part.last, s * channels), copy(p.d_first, part.d_first, s * channels);
    INFO("sequence " << s);
    CHECK(same_bits(part.forward_outputs(), q.forward_outputs()));
    CHECK(same_bits(part.row_gradients(), q.row_gradients()));
  }
  CHECK(same_bits(p.sums(), sums.sums()));
}
}  // namespace

TEST_CASE_TEMPLATE("selective_scan: each sequence of a packed batch has the bits of that sequence alone", T, float, double, bf16) {
  check_packed<three, T>({3, 0, chunk + 9, 1, 0, chunk, 17, 2}, on_cuda ? 5 : 21);
}
TEST_CASE("selective_scan: so it has among more sequences than the backward works on at once") {
  std::vector<index_t> lengths;
  for (index_t s = 0; s < (on_cuda ? 5 : 40); ++s) lengths.push_back(s % 4);
  check_packed<many, float>(lengths, 2);
}

TEST_CASE("selective_scan: equal sequences are packed ones, and no scan leaves a state behind") {
  scan_problem<three, float> p({6, 6}, 4), q({6, 6}, 4);
  p.forward(on());
  scratch memory(moe::selective_scan_scratch_bytes<three, float>(on(), 12, 4, 2));
  auto m = memory.get();
  moe::selective_scan<three>(on(), q.inputs(), moe::equal_sequences(2, 6), q.states(q.first), q.out.mat(), {}, {}, m);
  CHECK(q.out.values() == p.out.values());
  moe::selective_scan<three>(on(), q.inputs(), q.where(), q.states(q.first), q.out.mat(), q.states(q.first), {}, m);  // in place
  CHECK(q.out.values() == p.out.values());
  CHECK(q.first.values() == p.last.values());
}

namespace {
/// The sequence of p in pieces that end at `cuts`, states handed on, forward and backward.
template <selective_scan_config C, class T>
void check_cuts(scan_problem<C, T> const& p, std::vector<index_t> const& cuts) {
  auto q = p;
  for (array<T>* x : {&q.out, &q.d_u, &q.d_delta, &q.d_b, &q.d_c, &q.d_z}) x->poison();
  using A = moe::accumulator<T>;
  array<A> state(p.channels, C.d_state), adjoint(p.channels, C.d_state);
  std::vector<array<A>> before, kept;
  auto const view = [&](array<A>& x) { return moe::view<dyn, dyn, dyn>(x.data(), index_t{1}, p.channels, index_t{C.d_state}); };
  auto const piece = [&](std::size_t i) {
    index_t const begin = i == 0 ? 0 : cuts[i - 1], end = cuts[i];
    auto const in = q.inputs();
    auto const rows = [&](auto const& m) { return moe::rows_of(m, begin, end); };
    return std::pair{moe::selective_scan_inputs<T>{rows(in.u), rows(in.delta), in.a, rows(in.b), rows(in.c), in.skip, in.delta_bias, rows(in.z)},
                     std::pair{begin, end}};
  };
  scratch memory(std::max(moe::selective_scan_scratch_bytes<C, T>(on(), p.tokens, p.channels, 1),
                          moe::selective_scan_backward_scratch_bytes<C, T>(on(), p.tokens, p.channels, 1)));
  for (index_t i = 0; i < state.rows(); ++i)
    for (index_t n = 0; n < C.d_state; ++n) state(i, n) = q.first(i, n), adjoint(i, n) = q.d_last(i, n);
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    auto const [in, range] = piece(i);
    before.push_back(state);
    kept.emplace_back(moe::selective_scan_checkpoints<T>::slots(range.second - range.first, 1) * C.d_state, p.channels);
    auto m = memory.get();
    moe::selective_scan<C>(on(), in, moe::equal_sequences(1, range.second - range.first), view(state),
                           moe::rows_of(q.out.mat(), range.first, range.second), view(state), moe::selective_scan_checkpoints<T>{kept.back().mat()},
                           m);
  }
  for (std::size_t i = cuts.size(); i-- > 0;) {
    auto const [in, range] = piece(i);
    auto const rows = [r = range](auto const& x) { return moe::rows_of(x, r.first, r.second); };
    auto const g = q.gradients();
    moe::selective_scan_gradients<T> const part{rows(g.d_u), rows(g.d_delta), g.d_a, rows(g.d_b), rows(g.d_c), g.d_skip, g.d_delta_bias, rows(g.d_z)};
    auto m = memory.get();
    moe::selective_scan_backward<C>(on(), in, moe::equal_sequences(1, range.second - range.first), view(before[i]),
                                    moe::selective_scan_checkpoints<T>{kept[i].mat()}, rows(q.d_out.mat()), view(adjoint), part, view(adjoint), m);
  }
  for (index_t i = 0; i < state.rows(); ++i)
    for (index_t n = 0; n < C.d_state; ++n) q.last(i, n) = state(i, n), q.d_first(i, n) = adjoint(i, n);
  CHECK(same_bits(q.forward_outputs(), p.forward_outputs()));
  CHECK(same_bits(q.row_gradients(), p.row_gradients()));
}
}  // namespace

TEST_CASE_TEMPLATE("selective_scan: a sequence cut into chunks, or into single rows, has the bits of the whole, states and gradients too", T, float,
                   double, bf16) {
  index_t const length = on_cuda ? chunk + 7 : 2 * chunk + 7;
  scan_problem<sixteen, T> p({length}, on_cuda ? 3 : 18);
  p.run(on());
  check_cuts(p, {1, 2, chunk, chunk + 3, length});
  check_cuts(p, {5, 5, length - 1, length});
  std::vector<index_t> every;
  for (index_t t = 1; t <= length; ++t) every.push_back(t);
  check_cuts(p, every);
}
TEST_CASE("selective_scan: so it has where it is longer than the backward works on at once") {
  index_t const length = (on_cuda ? 7 : 37) * chunk + 7;
  scan_problem<one, float> p({length}, 3);
  p.run(on());
  check_cuts(p, {length - 5 * chunk - 1, length});
}

TEST_CASE_TEMPLATE("selective_scan: steps of any size; decay exactly 0 and exactly 1", T, float, double, bf16) {
  scan_problem<sixteen, T> p({6}, 3, {.bias = false});
  p.a.fill(-1), p.a(2, 4) = 0;
  for (index_t t = 0; t < 6; ++t) p.delta(t, 0) = T(10000.0f), p.delta(t, 1) = T(-10000.0f), p.delta(t, 2) = T(t % 2 == 0 ? 10000.0f : -30.0f);
  p.run(on());
  for (index_t n = 0; n < 16; ++n) {
    moe::accumulator<T> const input = moe::accumulator<T>(p.delta(5, 0)) * moe::accumulator<T>(p.u(5, 0));
    CHECK(p.last(0, n) == input * moe::accumulator<T>(p.b(5, n)));  // nothing of the past
    CHECK(p.last(1, n) == p.first(1, n));                           // nothing but the past
    CHECK(p.d_first(0, n) == 0);
  }
  for (double x : p.outputs()) CHECK(std::isfinite(x));
  CHECK(relative_distance(p.forward_outputs(), scan_by_formula(p)) < (std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 1e-6 : 4e-3));
}

TEST_CASE_TEMPLATE("selective_scan: a NaN stays in its channel and sequence, from its row on", T, float, double, bf16) {
  index_t const channels = on_cuda ? 5 : 19, where = 2;
  for (int operand = 0; operand < 4; ++operand) {
    scan_problem<three, T> clean({4, 5, 3}, channels), p({4, 5, 3}, channels);
    index_t const t = 4 + 2;  // row 2 of sequence 1
    array<T>& x = operand == 0 ? p.u : operand == 1 ? p.delta : operand == 2 ? p.z : p.d_out;
    x(t, where) = quiet_nan<T>();
    clean.run(on()), p.run(on());
    for (index_t i = 0; i < p.tokens; ++i)
      for (index_t d = 0; d < channels; ++d) {
        bool const reached = d == where && i >= t && i < 9;
        INFO("operand " << operand << ", row " << i << ", channel " << d);
        if (operand < 3) CHECK(std::isnan(float(p.out(i, d))) == (operand == 2 ? i == t && d == where : reached));
        if (d != where || i < 4 || i >= 9) {
          CHECK(float(p.out(i, d)) == float(clean.out(i, d)));
          CHECK(float(p.d_u(i, d)) == float(clean.d_u(i, d)));
          CHECK(float(p.d_delta(i, d)) == float(clean.d_delta(i, d)));
          CHECK(float(p.d_z(i, d)) == float(clean.d_z(i, d)));
        }
      }
    CHECK(std::isnan(float(operand == 2 || operand == 3 ? p.d_u(t, where) : operand == 0 ? p.d_delta(t, where) : p.d_u(t, where))));
    for (index_t n = 0; n < 3; ++n) {
      CHECK(float(p.d_b(3, n)) == float(clean.d_b(3, n)));
      CHECK(float(p.d_c(9, n)) == float(clean.d_c(9, n)));
      CHECK(std::isnan(float(operand == 0 || operand == 1 ? p.d_c(t, n) : p.d_b(t, n))));
    }
    for (index_t d = 0; d < channels; ++d) CHECK(std::isnan(float(p.d_a(d, 0))) == (d == where));
  }
}

TEST_CASE_TEMPLATE("selective_scan: every space has the same bits in float and bf16, but for sums that it forms in its own order", T, float, bf16) {
  if constexpr (on_cuda) {
    scan_problem<sixteen, T> p({chunk + 3, 0, 2 * chunk}, 18, {}, 1), q({chunk + 3, 0, 2 * chunk}, 18);
    p.delta(4, 3) = q.delta(4, 3) = T(500.0f);  // decays that are denormal, or 0
    p.run(on()), q.run(moe::cpu{.threads = 1});
    CHECK(same_bits(p.forward_outputs(), q.forward_outputs()));
    CHECK(same_bits(p.d_first.values(), q.d_first.values()));
    CHECK(same_bits(p.d_a.values(), q.d_a.values()));
    for (auto const& [x, y] : {std::pair{&p.d_b, &q.d_b}, {&p.d_c, &q.d_c}, {&p.d_u, &q.d_u}, {&p.d_delta, &q.d_delta}, {&p.d_z, &q.d_z}}) {
      std::vector<double> got, expected;
      for (T v : x->values()) got.push_back(double(v));
      for (T v : y->values()) expected.push_back(double(v));
      CHECK(relative_distance(got, expected) <= (std::is_same_v<T, float> ? 1e-6 : 1e-2));
    }
  }
}

TEST_CASE("selective_scan: nothing to do") {
  scan_problem<three, float> p({0, 0}, 4), none({}, 4), narrow({3}, 0);
  p.run(on());
  CHECK(p.last.values() == p.first.values());
  CHECK(p.d_first.values() == p.d_last.values());
  auto const sums = none.sums();
  none.run(on());
  CHECK(none.sums() == sums);
  narrow.run(on());
  for (float x : narrow.d_b.values()) CHECK(x == 0);
  for (float x : narrow.d_c.values()) CHECK(x == 0);
}

TEST_CASE("selective_scan: scratch does not grow with the length of a sequence, and no two chunks share a checkpoint") {
  for (index_t channels : {3, 1024})
    if (!on_cuda)  // there the sums over channels stand in scratch, of each row
      CHECK(moe::selective_scan_backward_scratch_bytes<sixteen, float>(on(), 64 * chunk, channels, 2) ==
            moe::selective_scan_backward_scratch_bytes<sixteen, float>(on(), 1000 * chunk, channels, 2));
  for (index_t channels : {index_t{1} << 50, index_t{1} << 53, index_t{1} << 62})  // scratch that would not fit 64 bits
    if (!on_cuda)
      CHECK(code_of([&] { moe::selective_scan_backward_scratch_bytes<many, double>(on(), 4, channels, 1); }) == moe::errc::bad_argument);
  std::vector<index_t> const lengths{1, chunk, 0, chunk + 1, chunk - 1, 3 * chunk, 2, 0, 5 * chunk - 1};
  scan_problem<one, float> p(lengths, 1);
  using kept = moe::selective_scan_checkpoints<float>;
  std::vector<index_t> slots;
  for (index_t s = 0; s < p.sequences; ++s)
    for (index_t k = 0; k * chunk < lengths[static_cast<std::size_t>(s)]; ++k) slots.push_back(kept::slot(p.where(), s, k));
  std::sort(slots.begin(), slots.end());
  CHECK(std::adjacent_find(slots.begin(), slots.end()) == slots.end());
  CHECK(slots.back() < kept::slots(p.tokens, p.sequences));
  moe::arena measure;
  kept::take(measure, 100, 3, 10, 4);
  CHECK(measure.peak() == moe::aligned(sizeof(float) * static_cast<std::size_t>((100 / chunk + 3) * 4 * 10)));
}

#if !(defined(MOE_TEST_CUDA) && defined(__CUDACC__))  // a GPU does not read such pages
TEST_CASE_TEMPLATE("selective_scan: touches nothing outside its operands", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  constexpr index_t N = 3, tokens = 5, channels = 17, stride = channels + 2;
  scan_problem<three, T> p({tokens}, channels);
  for (guard side : {guard::after, guard::before}) {
    index_t const length = (tokens - 1) * stride + channels;
    guarded<T> u(length, side), delta(length, side), z(length, side), d_out(length, side), out(length, side), d_u(length, side),
        d_delta(length, side), d_z(length, side), b(tokens * N, side), c(tokens * N, side), d_b(tokens * N, side), d_c(tokens * N, side);
    guarded<A> a(channels * N, side), skip(channels, side), bias(channels, side), first(channels * N, side), last(channels * N, side),
        d_a(channels * N, side), d_skip(channels, side), d_bias(channels, side), d_first(channels * N, side), kept(N * channels, side);
    auto const wide = [](guarded<T>& x) { return moe::mat(x.data(), tokens, channels).with_row_stride(stride); };
    auto const narrow = [](guarded<T>& x) { return moe::mat(x.data(), tokens, N); };
    auto const states = [](guarded<A>& x) { return moe::view<dyn, dyn, dyn>(x.data(), index_t{1}, channels, N); };
    for (index_t i = 0; i < channels * N; ++i) a[i] = p.a.data()[i], first[i] = p.first.data()[i];
    for (index_t i = 0; i < channels; ++i) skip[i] = p.skip(i), bias[i] = p.bias(i);
    for (index_t i = 0; i < tokens * N; ++i) b[i] = p.b.data()[i], c[i] = p.c.data()[i];
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < channels; ++d)
        wide(u)(t, d) = p.u(t, d), wide(delta)(t, d) = p.delta(t, d), wide(z)(t, d) = p.z(t, d), wide(d_out)(t, d) = p.d_out(t, d);
    moe::selective_scan_inputs<T> const in{
        wide(u), wide(delta), moe::mat(a.data(), channels, N), narrow(b), narrow(c), moe::vec(skip.data(), channels), moe::vec(bias.data(), channels),
        wide(z)};
    moe::selective_scan_checkpoints<T> const checkpoints{moe::mat(kept.data(), N, channels)};
    moe::selective_scan_gradients<T> const g{wide(d_u),
                                             wide(d_delta),
                                             moe::mat(d_a.data(), channels, N),
                                             narrow(d_b),
                                             narrow(d_c),
                                             moe::vec(d_skip.data(), channels),
                                             moe::vec(d_bias.data(), channels),
                                             wide(d_z)};
    scratch memory(moe::selective_scan_scratch_bytes<three, T>(on(), tokens, channels, 1) +
                   moe::selective_scan_backward_scratch_bytes<three, T>(on(), tokens, channels, 1));
    auto m = memory.get();
    moe::selective_scan<three>(on(), in, moe::equal_sequences(1, tokens), states(first), wide(out), states(last), checkpoints, m);
    moe::selective_scan_backward<three>(on(), in, moe::equal_sequences(1, tokens), states(first), checkpoints, wide(d_out), states(last), g,
                                        states(d_first), m);
    p.forward(on());
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < channels; ++d) CHECK(float(wide(out)(t, d)) == float(p.out(t, d)));
  }
}
#endif

TEST_CASE("selective_scan: errors name the operator, the argument and what it needs") {
  constexpr selective_scan_config two_groups{.d_state = 3, .groups = 2};
  scan_problem<three, float> p({2, 3}, 4);
  array<float> five(5), wide(5, 5), states(8, 4);
  moe::scan_states<float> const bad_states = moe::view<dyn, dyn, dyn>(states.data(), 2, 4, 4);
  struct call {
    moe::selective_scan_inputs<float> in;
    moe::sequence_rows where;
    moe::scan_states<float> first, last;
    moe::matrix_view<float> out;
    moe::selective_scan_checkpoints<float> kept;
  };
  call const good{p.inputs(), p.where(), p.states(p.first), p.states(p.last), p.out.mat(), p.kept()};
  scratch memory(std::size_t{4} << 20);
  auto const forward = [&](auto&& change) {
    call c = good;
    change(c);
    auto m = memory.get();
    return error_of([&] { moe::selective_scan<three>(on(), c.in, c.where, c.first, c.out, c.last, c.kept, m); });
  };
  CHECK(forward([](call&) {}) == "");
  CHECK(forward([&](call& c) { c.in.u = wide.mat(); }) == "selective_scan: delta is [5, 4], needs [5, 5]");
  CHECK(forward([&](call& c) { c.in.delta = wide.mat(); }) == "selective_scan: delta is [5, 5], needs [5, 4]");
  CHECK(forward([&](call& c) { c.in.a = wide.mat(); }) == "selective_scan: a is [5, 5], needs [4, 3]");
  CHECK(forward([&](call& c) { c.in.b = wide.mat(); }) == "selective_scan: b is [5, 5], needs [5, 3]");
  CHECK(forward([&](call& c) { c.in.c = wide.mat(); }) == "selective_scan: c is [5, 5], needs [5, 3]");
  CHECK(forward([&](call& c) { c.in.skip = five.vec(); }) == "selective_scan: skip has 5 elements, needs 4");
  CHECK(forward([&](call& c) { c.in.delta_bias = five.vec(); }) == "selective_scan: delta_bias has 5 elements, needs 4");
  CHECK(forward([&](call& c) { c.in.z = wide.mat(); }) == "selective_scan: z is [5, 5], needs [5, 4]");
  CHECK(forward([&](call& c) { c.out = wide.mat(); }) == "selective_scan: out is [5, 5], needs [5, 4]");
  CHECK(forward([&](call& c) { c.first = bad_states; }) == "selective_scan: initial_state is [2, 4, 4], needs [2, 4, 3]");
  CHECK(forward([&](call& c) { c.last = bad_states; }) == "selective_scan: final_state is [2, 4, 4], needs [2, 4, 3]");
  CHECK(forward([&](call& c) { c.kept = {wide.mat()}; }) == "selective_scan: checkpoints is [5, 5], needs [6, 4]");
  CHECK(forward([&](call& c) { c.where = moe::equal_sequences(2, 3); }) == "selective_scan: sequences are 2 of 3 rows, there are 5 rows");
  if (!on_cuda) {  // there the offsets are memory that the host does not read
    auto const offsets = [&](index_t x, index_t y, index_t z) {
      p.offsets(0) = x, p.offsets(1) = y, p.offsets(2) = z;
      std::string const text = forward([](call&) {});
      p.offsets(0) = 0, p.offsets(1) = 2, p.offsets(2) = 5;
      return text;
    };
    CHECK(offsets(1, 2, 5) == "selective_scan: offsets[0] is 1, needs to be 0");
    CHECK(offsets(0, 6, 5) == "selective_scan: offsets[2] is 5, below offsets[1] = 6");
    CHECK(offsets(0, -1, 5) == "selective_scan: offsets[1] is -1, below offsets[0] = 0");
    CHECK(offsets(0, 2, 4) == "selective_scan: the last offset is 4, there are 5 rows");
  }
  std::size_t const need = moe::selective_scan_scratch_bytes<three, float>(on(), 5, 4, 2);
  if (need > 0) {
    moe::arena none;
    CHECK(code_of([&] { moe::selective_scan<three>(on(), good.in, good.where, {}, good.out, {}, {}, none); }) == moe::errc::out_of_memory);
  }
  scan_problem<two_groups, float> odd({2}, 3);
  CHECK(error_of([&] { odd.forward(on()); }) == "selective_scan: u has 3 channels, which 2 groups cannot share equally");
}

TEST_CASE("selective_scan_backward: errors") {
  scan_problem<three, float> p({2, 3}, 4), bare({2, 3}, 4, {.gate = false, .skip = false, .bias = false});
  array<float> five(5), wide(5, 5), states(8, 4);
  moe::scan_states<float> const bad_states = moe::view<dyn, dyn, dyn>(states.data(), 2, 4, 4);
  p.forward(on());
  scratch memory(std::size_t{4} << 20);
  moe::selective_scan_inputs<float> in = p.inputs();
  moe::selective_scan_gradients<float> g = p.gradients();
  auto const backward = [&](moe::matrix_view<float> d_out, moe::scan_states<float> first, moe::scan_states<float> d_last,
                            moe::scan_states<float> d_first, moe::selective_scan_checkpoints<float> kept) {
    auto m = memory.get();
    return error_of([&] { moe::selective_scan_backward<three>(on(), in, p.where(), first, kept, d_out, d_last, g, d_first, m); });
  };
  auto const call = [&] { return backward(p.d_out.mat(), {}, {}, {}, p.kept()); };
  std::string const op = "selective_scan_backward: ";
  CHECK(call() == "");
  CHECK(backward(wide.mat(), {}, {}, {}, p.kept()) == op + "d_out is [5, 5], needs [5, 4]");
  CHECK(backward(p.d_out.mat(), bad_states, {}, {}, p.kept()) == op + "initial_state is [2, 4, 4], needs [2, 4, 3]");
  CHECK(backward(p.d_out.mat(), {}, bad_states, {}, p.kept()) == op + "d_final_state is [2, 4, 4], needs [2, 4, 3]");
  CHECK(backward(p.d_out.mat(), {}, {}, bad_states, p.kept()) == op + "d_initial_state is [2, 4, 4], needs [2, 4, 3]");
  CHECK(backward(p.d_out.mat(), {}, {}, {}, {}) == op + "checkpoints is [0, 0], needs [6, 4]");
  auto const with = [&](auto member, auto value, std::string const& text) {
    auto const saved = g;
    g.*member = value;
    CHECK(call() == op + text);
    g = saved;
  };
  using G = moe::selective_scan_gradients<float>;
  with(&G::d_u, wide.mat(), "d_u is [5, 5], needs [5, 4]");
  with(&G::d_delta, wide.mat(), "d_delta is [5, 5], needs [5, 4]");
  with(&G::d_a, wide.mat(), "d_a is [5, 5], needs [4, 3]");
  with(&G::d_b, wide.mat(), "d_b is [5, 5], needs [5, 3]");
  with(&G::d_c, wide.mat(), "d_c is [5, 5], needs [5, 3]");
  with(&G::d_skip, five.vec(), "d_skip has 5 elements, needs 4");
  with(&G::d_delta_bias, five.vec(), "d_delta_bias has 5 elements, needs 4");
  with(&G::d_z, wide.mat(), "d_z is [5, 5], needs [5, 4]");
  in = bare.inputs();  // what the input has not, its gradients must not have
  CHECK(call() == op + "d_skip has 4 elements, needs 0");
  in = p.inputs(), in.delta = wide.mat();
  CHECK(call() == op + "delta is [5, 5], needs [5, 4]");
  in = p.inputs();
  if (!on_cuda) {
    p.offsets(2) = 4;
    CHECK(call() == op + "the last offset is 4, there are 5 rows");
    p.offsets(2) = 5;
  }
  std::vector<std::byte> few(64);
  moe::arena small(few.data(), few.size());
  std::size_t const need = moe::selective_scan_backward_scratch_bytes<three, float>(on(), 5, 4, 2);
  CHECK(error_of([&] { moe::selective_scan_backward<three>(on(), in, p.where(), {}, p.kept(), p.d_out.mat(), {}, g, {}, small); }) ==
        op + "scratch has 64 bytes left, needs " + std::to_string(need));
}
