#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <iterator>
#include <thread>

#include <bench/limits.hpp>
#include <bench/peers/sampling.hpp>

namespace bench::peers {
namespace {

double seconds_of(int calls, std::function<void()> const& f) {
  auto const start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

/// Calls that take seconds_each together, found by calls: the first of them starts threads and touches memory.
int calls_for(sampling const& s, std::function<void()> const& f) {
  seconds_of(1, f);
  return static_cast<int>(std::clamp(std::ceil(s.seconds_each / seconds_of(1, f)), 1.0, 10000.0));
}

double probe(sampling const& s) { return madd_flops(s.threads, 100000); }  // a third of a millisecond

/// How often the system took a processor from a thread of this process: someone else is computing.
long preemptions() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return use.ru_nivcsw;
}

double quantile(std::vector<double> const& sorted, double q) {
  double const at = q * static_cast<double>(sorted.size() - 1);
  auto const i = static_cast<std::size_t>(at);
  return i + 1 < sorted.size() ? std::lerp(sorted[i], sorted[i + 1], at - static_cast<double>(i)) : sorted[i];
}

}  // namespace

spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)};
}

comparison compare(sampling const& s, std::function<void()> const& a, std::function<void()> const& b) {
  int const calls_a = calls_for(s, a), calls_b = calls_for(s, b);
  std::vector<double> of_a, of_b, ratios, probes;
  comparison c;
  double const least = s.floor * s.threads * s.madd_one;
  int in_a_row = 0;
  for (int left = s.pairs * (1 + s.retakes); left > 0 && std::ssize(ratios) < s.pairs; --left) {
    long const taken = preemptions();
    double const before = probe(s), seconds_a = seconds_of(calls_a, a), seconds_b = seconds_of(calls_b, b), after = probe(s);
    if (std::min(before, after) >= least && preemptions() - taken <= s.preemptions) {
      of_a.push_back(seconds_a), of_b.push_back(seconds_b), ratios.push_back(seconds_b / seconds_a);
      probes.push_back(0.5 * (before + after));
      in_a_row = 0;
      continue;
    }
    ++c.retaken;
    std::this_thread::sleep_for(std::chrono::milliseconds(20 << std::min(in_a_row++, 3)));  // a mode lasts from tens of milliseconds to seconds
  }
  c.a = spread_of(of_a), c.b = spread_of(of_b), c.ratio = spread_of(ratios), c.probe = spread_of(probes).median;
  c.pairs = static_cast<int>(ratios.size()), c.low = s.pairs - c.pairs;
  return c;
}

}  // namespace bench::peers
