#pragma once
#include <algorithm>

#include <moe/core/math.hpp>
#include <moe/routing/selection_bias.hpp>

namespace moe::inline MOE_ISA {

/// How evenly the experts are used.
struct load_summary {
  index_t total = 0;     ///< choices
  index_t smallest = 0;  ///< of the experts' loads
  index_t largest = 0;
  index_t dead = 0;          ///< experts without a choice
  double max_violation = 0;  ///< largest / mean - 1: 0 when all loads are equal, experts - 1 when one expert has them all
  double entropy = 0;        ///< of the loads as shares of the total, in nats: log(experts) when all are equal, 0 when one expert has them all
};

/// What the loads of the experts come to, on the host: counts in device memory are copied first.
///
///   counts  [experts]  in  choices of each expert
///
/// Edges   no experts give zeros. Without a choice max_violation and entropy are 0, and every expert is dead.
/// Throws  bad_argument for a negative count, or counts that add up to more than 64 bits hold.
/// Order   experts ascending, in double.
/// Cost    reads counts three times.
/// Source  max_violation: Wang et al. 2024, arXiv:2408.15664, eq. 4.
inline load_summary summary_of(in<index_t, dyn> counts) {
  detail::check_loads("summary_of", counts);
  index_t const experts = counts.extent<0>();
  load_summary s;
  for (index_t e = 0; e < experts; ++e) {
    s.total += counts(e);
    s.smallest = e == 0 ? counts(e) : std::min(s.smallest, counts(e));
    s.largest = std::max(s.largest, counts(e));
    s.dead += counts(e) == 0;
  }
  if (s.total == 0) return s;
  double const total = static_cast<double>(s.total), n = static_cast<double>(experts);
  s.max_violation = static_cast<double>(s.largest) * n / total - 1;
  for (index_t e = 0; e < experts; ++e) {
    double const share = static_cast<double>(counts(e)) / total;
    if (counts(e) > 0) s.entropy = madd(-share, log_scalar(share), s.entropy);
  }
  return s;
}

}  // namespace moe::inline MOE_ISA
