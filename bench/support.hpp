#pragma once
// Shared by the benchmarks: random operands, rates, and the share of what this machine can do at most.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include <bench/operands.hpp>

namespace bench {

/// What one iteration does. flops: products and sums of the formula; bytes: every operand once, read or written.
struct work {
  double items = 0, flops = 0, bytes = 0;
};

/// Limits of this machine, measured in this process on all threads.
double peak_flops();                      ///< per second: float madd on registers
double copy_bandwidth(double set_bytes);  ///< bytes per second, read and written: a copy whose source and target are set_bytes together

/// Adds rates per second to the report of a benchmark, and `share`: the time that the limits allow over the time taken. The limits are the peak of
/// madd, and a copy of as many bytes, wherever in the caches they lie; the slower of the two counts. A share above 1 says that the operands were
/// nearer than those of the copy, or that the machine was slower during the probe.
void count(benchmark::State& state, work const& w, double seconds);

/// The loop of a benchmark whose iteration is f() and does `w`.
template <class F>
void run(benchmark::State& state, work const& w, F const& f) {
  auto const start = std::chrono::steady_clock::now();
  for (auto _ : state) f();
  count(state, w, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace bench
