#include <vector>

#include <bench/ssm/plain_scan.hpp>
#include <bench/support.hpp>
#include <moe/ssm/selective_scan.hpp>

namespace {

using namespace moe;
constexpr selective_scan_config config{};
constexpr index_t N = config.d_state;

/// Sequences of `length` rows of 1024 channels. Steps are those of a layer at its start: softplus(delta + bias) around 0.02, rates -1 .. -16.
template <class T>
struct sequences {
  index_t length, count, channels = 1024, tokens = count * length;
  bench::operands o{static_cast<std::size_t>(tokens) * 36 / 1024 + 64};
  matrix_view<T> u = o.mat<T>(tokens, channels), delta = o.mat<T>(tokens, channels), z = o.mat<T>(tokens, channels), out = o.mat<T>(tokens, channels),
                 d_out = o.mat<T>(tokens, channels), d_u = o.mat<T>(tokens, channels), d_delta = o.mat<T>(tokens, channels), b = o.mat<T>(tokens, N),
                 c = o.mat<T>(tokens, N), d_b = o.mat<T>(tokens, N), d_c = o.mat<T>(tokens, N);
  matrix_view<float> a = o.mat(channels, N), d_a = o.mat(channels, N);
  vector_view<float> skip = o.vec(channels), bias = o.vec(channels), d_skip = o.vec(channels), d_bias = o.vec(channels);
  selective_scan_checkpoints<T> kept = selective_scan_checkpoints<T>::take(o.memory(), tokens, count, channels, N);
  tensor<float, dyn, dyn, dyn> states{o.mat(count * channels, N).data(), count, channels, N};
  arena scratch = o.scratch(std::max(selective_scan_scratch_bytes<config, T>(bench::space(), tokens, channels, count),
                                     selective_scan_backward_scratch_bytes<config, T>(bench::space(), tokens, channels, count)));
  selective_scan_inputs<T> in{u, delta, a, b, c, skip, bias, {}};
  sequence_rows rows = equal_sequences(count, length);

  sequences(index_t length_, index_t count_) : length(length_), count(count_) {
    for (index_t d = 0; d < channels; ++d) {
      bias(d) -= 4;
      for (index_t n = 0; n < N; ++n) a(d, n) = static_cast<float>(-n - 1);
    }
  }
  explicit sequences(benchmark::State const& state) : sequences(state.range(0), 2) {}
  double updates() const { return static_cast<double>(tokens * channels * N); }
  /// flops of one update; matrices [tokens, channels] read or written.
  bench::work cost(double flops, double matrices) const {
    return {.items = updates(), .flops = flops * updates(), .bytes = sizeof(T) * matrices * static_cast<double>(u.size())};
  }
  void forward() { selective_scan<config>(bench::space(), in, rows, {}, out, {}, kept, scratch); }
  void backward() {
    selective_scan_backward<config>(bench::space(), in, rows, {}, kept, d_out, {}, {d_u, d_delta, d_a, d_b, d_c, d_skip, d_bias, {}}, {}, scratch);
  }
};
constexpr double forward_flops = 19, backward_flops = 37;  // of which 13 are the exponential: five madd, a reduction, a scaling

template <class T>
void forward(benchmark::State& state) {
  sequences<T> s(state);
  bench::run(state, s.cost(forward_flops, 3), [&] { s.forward(); });
}
template <class T>
void gradient(benchmark::State& state) {
  sequences<T> s(state);
  s.forward();
  bench::run(state, s.cost(backward_flops, 5), [&] { s.backward(); });
}
/// items: updates, each of them forward and backward.
template <class T>
void forward_and_gradient(benchmark::State& state) {
  sequences<T> s(state);
  bench::run(state, s.cost(forward_flops + backward_flops, 8), [&] { s.forward(), s.backward(); });
}
/// One row of each of `count` sequences, the states in place.
void decode(benchmark::State& state) {
  sequences<float> s(1, state.range(0));
  bench::run(state, s.cost(forward_flops, 3 + 2 * N),
             [&] { selective_scan<config>(bench::space(), s.in, s.rows, s.states, s.out, s.states, {}, s.scratch); });
}

double seconds_of(auto const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double>& v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}
/// As many powers of 2 as a scan takes, of numbers that stay in the first cache: what a scan would take if it did nothing else.
void exponentials(index_t count) {
  parallel_for(bench::space(), 64, static_cast<double>(count) / 64, [&](index_t) {
    using V = simd<float>;
    constexpr index_t lanes = 8;
    V x[lanes], y[lanes];
    for (index_t i = 0; i < lanes; ++i) x[i] = V::all(-0.3f * static_cast<float>(i));
    for (index_t done = 0; done < count / 64; done += lanes * V::width)
      for (index_t i = 0; i < lanes; ++i) {
        asm volatile("" : "+m"(x[i]));
        y[i] = detail::exp2(x[i]);
        asm volatile("" : : "m"(y[i]));
      }
  });
}
/// One state after the other: no exponential of the C library takes several lanes here.
void scan_scalar(bench::plain_scan const& p, int threads) {
  bench::for_rows(p, threads, [&p](float* h, float dt, float input, long row, long d) {
    float y = 0;
    for (long n = 0; n < p.states; ++n) {
      h[n] = std::exp(dt * p.a[d * p.states + n]) * h[n] + input * p.b[row * p.states + n];
      y += h[n] * p.c[row * p.states + n];
    }
    return y;
  });
}
/// The scan and a plain loop in turns, so that both see the same machine: how many times faster, medians. of_exponentials: the time of its
/// exponentials alone over the time of the scan.
void against(benchmark::State& state, void (*loop)(bench::plain_scan const&, int)) {
  sequences<float> s(state);
  bench::plain_scan const p{s.count,    s.length,      s.channels,    N,           s.u.data(), s.delta.data(), s.a.data(), s.b.data(),
                            s.c.data(), s.skip.data(), s.bias.data(), s.out.data()};
  std::vector<double> plain, scan, limit;
  for (auto _ : state) {
    plain.push_back(seconds_of([&] { loop(p, bench::space().threads); }));
    scan.push_back(seconds_of([&] { s.forward(); }));
    limit.push_back(seconds_of([&] { exponentials(static_cast<index_t>(s.updates())); }));
  }
  state.counters["times_faster"] = median(plain) / median(scan);
  state.counters["of_exponentials"] = median(limit) / median(scan);
  state.counters["updates/s"] = s.updates() / median(scan);
}
void against_simd_loop(benchmark::State& state) { against(state, bench::scan_simd); }
void against_scalar_loop(benchmark::State& state) { against(state, scan_scalar); }

BENCHMARK(forward<float>)->ArgName("L")->Arg(512)->Arg(2048)->Arg(8192)->UseRealTime();
BENCHMARK(forward<bf16>)->ArgName("L")->Arg(2048)->UseRealTime();
BENCHMARK(gradient<float>)->ArgName("L")->Arg(512)->Arg(2048)->Arg(8192)->UseRealTime();
BENCHMARK(gradient<bf16>)->ArgName("L")->Arg(2048)->UseRealTime();
BENCHMARK(forward_and_gradient<float>)->ArgName("L")->Arg(512)->Arg(2048)->Arg(8192)->UseRealTime();
BENCHMARK(decode)->ArgName("B")->Arg(1)->Arg(64)->UseRealTime();
BENCHMARK(against_simd_loop)->ArgName("L")->Arg(512)->Arg(2048)->Iterations(9)->UseRealTime();
BENCHMARK(against_scalar_loop)->ArgName("L")->Arg(512)->Iterations(5)->UseRealTime();

}  // namespace
