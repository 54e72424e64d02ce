#include <bench/cuda/bench.hpp>

#include <moe/ssm/selective_scan.cuh>

namespace {

using moe::index_t;

/// A = -1, ..., -16 in every channel, as models begin.
template <class A>
struct initial_rates {
  moe::matrix_view<A> a;
  __device__ void operator()(index_t d, index_t n) const { a(d, n) = -static_cast<A>(n + 1); }
};

template <class T>
struct scan {
  static constexpr moe::selective_scan_config config{};
  static constexpr index_t N = config.d_state;
  using A = moe::accumulator<T>;
  bench::run& r;
  index_t batch = r["batch"], length = r["length"], channels = r["channels"], tokens = batch * length;
  moe::matrix_view<T> u = r.mat<T>(tokens, channels), delta = r.mat<T>(tokens, channels), z = r.mat<T>(tokens, channels), b = r.mat<T>(tokens, N),
                      c = r.mat<T>(tokens, N), out = r.empty<T>(tokens, channels);
  moe::matrix_view<A> a = r.empty<A>(channels, N);
  moe::vector_view<A> skip = r.vec<A>(channels), bias = r.vec<A>(channels);
  moe::selective_scan_inputs<T> in{u, delta, a, b, c, skip, bias, z};
  moe::selective_scan_checkpoints<T> kept{r.empty<A>(moe::selective_scan_checkpoints<T>::slots(tokens, batch) * N, channels)};
  moe::sequence_rows sequences = moe::equal_sequences(batch, length);

  explicit scan(bench::run& run) : r(run) { moe::for_each_element("rates", r.space, channels, N, initial_rates<A>{a}); }
  void forward(moe::cuda const& s, bool keep) const {
    moe::arena none;
    moe::selective_scan<config>(s, in, sequences, {}, out, {}, keep ? kept : moe::selective_scan_checkpoints<T>(), none);
  }
  /// Column d of a matrix, the rows of the last sequence.
  std::vector<double> column(moe::matrix_view<T> const& m, index_t d) const {
    return r.host_columns(moe::rows_of(m, tokens - length, tokens), d, d + 1);
  }
};

/// One channel of the last sequence in double: h before each row, dt and y.
struct reference {
  std::vector<double> dt, y, slope, decay, h;  // decay, h: [length][N]
  template <class T>
  reference(scan<T> const& p, index_t d) {
    constexpr std::size_t N = scan<T>::N;
    auto const u = p.column(p.u, d), delta = p.column(p.delta, d);
    auto const first = p.tokens - p.length;
    auto const b = p.r.host(p.b.row(first), p.length * p.N), c = p.r.host(p.c.row(first), p.length * p.N);
    double const skip = p.r.host(p.skip.data() + d, 1)[0], bias = p.r.host(p.bias.data() + d, 1)[0];
    std::vector<double> state(N);
    for (std::size_t t = 0; t < u.size(); ++t) {
      double const x = delta[t] + bias;
      dt.push_back(std::log1p(std::exp(x))), slope.push_back(1 / (1 + std::exp(-x))), y.push_back(skip * u[t]);
      for (std::size_t n = 0; n < N; ++n) {
        decay.push_back(std::exp(-dt[t] * double(n + 1))), h.push_back(state[n]);
        state[n] = decay.back() * state[n] + dt[t] * u[t] * b[t * N + n];
        y[t] += c[t * N + n] * state[n];
      }
    }
  }
};

template <class T>
void forward(bench::run& r) {
  scan<T> const p(r);
  auto const f = [&](moe::cuda const& s) { p.forward(s, true); };
  r.first(f);
  bench::error e;
  for (auto const d : bench::some_rows(p.channels)) {
    reference const exact(p, d);
    auto const z = p.column(p.z, d), got = p.column(p.out, d);
    for (std::size_t t = 0; t < got.size(); ++t) e.add(got[t], exact.y[t] * z[t] / (1 + std::exp(-z[t])));
  }
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(p.u.size()) * sizeof(T)}, f);
}

template <class T>
void backward(bench::run& r) {
  using A = moe::accumulator<T>;
  constexpr std::size_t N = scan<T>::N;
  scan<T> const p(r);
  auto const rows = [&](index_t columns) { return r.empty<T>(p.tokens, columns); };
  auto const d_out = r.mat<T>(p.tokens, p.channels);
  moe::selective_scan_gradients<T> const g{rows(p.channels), rows(p.channels),     r.mat<A>(p.channels, p.N), rows(p.N),
                                           rows(p.N),        r.vec<A>(p.channels), r.vec<A>(p.channels),      rows(p.channels)};
  auto scratch = r.scratch(moe::selective_scan_backward_scratch_bytes<p.config, T>(r.space, p.tokens, p.channels, p.batch));
  auto const f = [&](moe::cuda const& s) { moe::selective_scan_backward<p.config>(s, p.in, p.sequences, {}, p.kept, d_out, {}, g, {}, scratch); };
  p.forward(r.space, true);
  r.first(f);
  bench::error e;
  for (auto const d : bench::some_rows(p.channels)) {
    reference const exact(p, d);
    auto const first = p.tokens - p.length;
    auto const u = p.column(p.u, d), z = p.column(p.z, d), d_o = p.column(d_out, d), got_u = p.column(g.d_u, d), got_delta = p.column(g.d_delta, d);
    auto const b = r.host(p.b.row(first), p.length * p.N), c = r.host(p.c.row(first), p.length * p.N);
    double const skip = r.host(p.skip.data() + d, 1)[0];
    std::vector<double> l(N);
    for (std::size_t t = u.size(); t-- > 0;) {
      double const d_y = d_o[t] * z[t] / (1 + std::exp(-z[t]));
      double through_b = 0, through_a = 0;
      for (std::size_t n = 0; n < N; ++n) {
        double const adjoint = d_y * c[t * N + n] + l[n];
        through_b += adjoint * b[t * N + n];
        l[n] = exact.decay[t * N + n] * adjoint;
        through_a -= l[n] * exact.h[t * N + n] * double(n + 1);
      }
      e.add(got_u[t], skip * d_y + exact.dt[t] * through_b);
      e.add(got_delta[t], (through_b * u[t] + through_a) * exact.slope[t]);
    }
  }
  r.check(e);
  r.time({.bytes = 7.0 * static_cast<double>(p.u.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"batch", 8, 2}, {"length", 2048, 70}, {"channels", 2048, 40}};
  g.add<bench::bf16>("selective_scan", shape, forward<bench::bf16>);
  g.add<bench::bf16>("selective_scan_backward", shape, backward<bench::bf16>);
  g.add<bench::bf16>("selective_scan", {{"batch", 64, 2}, {"length", 128, 3}, {"channels", 2048, 40}}, forward<bench::bf16>);
  g.add<bench::bf16>("selective_scan", {{"batch", 1, 1}, {"length", 16384, 80}, {"channels", 2048, 9}}, forward<bench::bf16>);
  g.add<float>("selective_scan", shape, forward<float>);
  g.add<float>("selective_scan_backward", shape, backward<float>);
});

}  // namespace
