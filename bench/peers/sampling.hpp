#pragma once
// Pairs of measurements that stand beside each other in time, each between two probes of the machine.
//
// Virtual CPUs are sometimes cores and sometimes the two threads of one core, and the host moves them: a number taken alone says little. So A and B are
// timed in turn, A B A B, and before and after each pair a probe compares the joint rate of madd of all threads with that many times the rate of one.
// A pair whose probe is low, or whose threads were preempted, is taken again, a bounded number of times; pairs that are still missing then are
// counted in `low`.
#include <algorithm>
#include <functional>
#include <vector>

namespace bench::peers {

struct sampling {
  int threads = 2, pairs = 5, retakes = 5;
  long preemptions = 2;           ///< of a pair's threads that are put up with: more say that another program computes
  double floor = 0.9;             ///< of threads times one thread's rate: below it, the threads have not a core each
  double seconds_each = 0.015;    ///< calls are repeated for as long at least
  double madd_one = 0, madd = 0;  ///< the limits: of one thread, and of all
};

struct spread {
  double median = 0, low = 0, high = 0;  ///< low and high: the quartiles
};
spread spread_of(std::vector<double> values);

/// Times are per call.
struct comparison {
  spread a, b, ratio;  ///< seconds, and those of b over those of a: above 1, a is the faster
  double probe = 0;    ///< median of the joint rate of madd beside the pairs, flops per second
  int pairs = 0, retaken = 0, low = 0;
};
comparison compare(sampling const& s, std::function<void()> const& a, std::function<void()> const& b);

}  // namespace bench::peers
