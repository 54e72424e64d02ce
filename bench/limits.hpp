#pragma once
// What this machine can do at most, measured in the process that uses it as a yardstick. Needs nothing beyond the library.
#include <cstddef>

namespace bench {

/// Products and sums per second of `threads` threads together, from a common start to the last one's end. float: chains of madd on registers.
/// bf16: of madd_pairs, the pairwise dot product; 0 where the build has no such instruction, and products of bf16 run at the rate of float.
double madd_flops(int threads, int repetitions = 20000);
double dot_flops(int threads, int repetitions = 20000);

/// Bytes per second of sets far larger than the caches, each byte that the program names counted once (what the machine reads before it writes is not).
struct memory_rates {
  double read = 0, copy = 0, triad = 0;
};
memory_rates measure_memory(int threads, std::size_t bytes);

/// The limits at their best of several runs each, which is what a share is taken of.
struct limits {
  int threads;
  double madd_one, madd, dot_one, dot;  ///< flops per second of one thread and of all
  memory_rates memory_one, memory;
  /// How many times faster than float the machine multiplies bf16.
  double dot_factor() const { return dot_one > madd_one ? dot_one / madd_one : 1.0; }
};
limits measure_limits(int threads, std::size_t bytes);

}  // namespace bench
