#include <bench/limits.hpp>
#include <bench/support.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <string>

namespace bench {
namespace {

template <class F>
double seconds_of(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
/// The shortest of several runs, the first of which starts threads and touches memory.
template <class F>
double shortest(int runs, F const& f) {
  double best = INFINITY;
  for (int i = 0; i < runs; ++i) best = std::min(best, seconds_of(f));
  return best;
}

double measure_peak() {
  double best = 0;
  for (int run = 0; run < 8; ++run) best = std::max(best, madd_flops(moe::thread_count(space())));
  return best;
}

/// A copy of `half` bytes, again and again until a million bytes at least are moved per run.
double measure_copy(std::size_t half) {
  moe::buffer const from(half), to(half);
  std::memset(from.data(), 1, half);
  auto const n = static_cast<index_t>(half), repetitions = std::max<index_t>(1, 1000000 / n);
  index_t const chunk = std::clamp<index_t>(n / (4 * moe::thread_count(space())), 4096, 65536);
  double const seconds = shortest(6, [&] {
    for (index_t r = 0; r < repetitions; ++r) {
      moe::parallel_chunks(space(), n, chunk, 1.0, [&](index_t, index_t begin, index_t end) {
        std::memcpy(to.data() + begin, from.data() + begin, static_cast<std::size_t>(end - begin));
      });
      benchmark::ClobberMemory();
    }
  });
  return 2.0 * static_cast<double>(n * repetitions) / seconds;
}

std::string in_giga(double x, char const* unit) { return std::to_string(static_cast<long long>(x * 1e-9 + 0.5)) + unit; }

}  // namespace

double peak_flops() {
  static double const peak = measure_peak();
  return peak;
}

double copy_bandwidth(double set_bytes) {
  static std::map<int, double> known;  // by the size rounded to a power of two
  int const size = std::clamp(static_cast<int>(std::lround(std::log2(std::max(set_bytes, 1.0)))), 14, 28);
  auto const [place, is_new] = known.try_emplace(size, 0.0);
  if (is_new) place->second = measure_copy(std::size_t{1} << (size - 1));
  return place->second;
}

void count(benchmark::State& state, work const& w, double seconds) {
  using benchmark::Counter;
  auto const rate = Counter::kIsIterationInvariantRate;
  state.counters["items"] = Counter(w.items, rate);
  if (w.flops > 0) state.counters["FLOP"] = Counter(w.flops, rate);
  state.counters["B"] = Counter(w.bytes, rate);
  double const least = std::max(w.flops / peak_flops(), w.bytes / copy_bandwidth(w.bytes));
  state.counters["share"] = least * static_cast<double>(state.iterations()) / seconds;
}

}  // namespace bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("compiler",
#if defined(__clang__)
                              __VERSION__
#else
                              "g++ " __VERSION__
#endif
  );
  benchmark::AddCustomContext("instruction set", moe::instruction_set());
  benchmark::AddCustomContext("threads", std::to_string(moe::thread_count(bench::space())));
  benchmark::AddCustomContext("madd peak", bench::in_giga(bench::peak_flops(), " GFLOP/s"));
  benchmark::AddCustomContext("copy of 128 MiB", bench::in_giga(bench::copy_bandwidth(0x1p28), " GB/s"));
  benchmark::RunSpecifiedBenchmarks();
}
