#pragma once
#include <cmath>

#include <moe/core/space.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline void check_selection_update(in<index_t, dyn> load, double rate, index_t experts) {
  expects(load.extent<0>() == experts, errc::shape_mismatch, "update_selection_bias: load has ", load.extent<0>(), " entries, bias has ", experts);
  expects(rate >= 0 && rate < std::numeric_limits<double>::infinity(), errc::bad_argument, "update_selection_bias: rate is ", rate,
          ", needs to be finite and not negative");
}
inline void check_loads(char const* who, in<index_t, dyn> load) {
  index_t sum = 0;
  for (index_t e = 0; e < load.extent<0>(); ++e) {
    expects(load(e) >= 0, errc::bad_argument, who, ": load[", e, "] is ", load(e));
    expects(!__builtin_add_overflow(sum, load(e), &sum), errc::bad_argument, who, ": loads add up to more than 64 bits hold, at entry ", e);
  }
}
/// sign(total / experts - load) for total >= 0 and experts >= 1, in whole numbers.
MOE_HD inline int load_sign(index_t total, index_t experts, index_t load) {
  index_t const mean = total / experts;
  return load < mean || (load == mean && total % experts > 0) ? 1 : load == mean ? 0 : -1;
}
}  // namespace detail

/// Balances load without a loss: experts with less than the mean load get a larger selection bias, those with more a smaller one.
///   bias[e] += rate * sign(mean(load) - load[e]),  sign(0) = 0;  then load[e] = 0
///
///   load  [experts]  in out  choices of each expert since the last update; cleared
///   rate             in      0 clears load and leaves bias alone
///   bias  [experts]  in out
///
/// Edges   no experts, or loads that are all equal (no tokens, one expert), change no bias. NaN in bias stays.
/// Throws  shape_mismatch if the extents differ; bad_argument for a negative load, loads that add up to more than 64 bits hold, or a rate that is negative
///         or not finite.
/// Order   whole numbers but for one addition in accumulator<T> per expert.
/// Cost    one thread; reads load twice.
/// Source  Wang et al. 2024, arXiv:2408.15664, algorithm 1.
template <class T>
void update_selection_bias(cpu const&, vector_view<index_t> load, double rate, vector_view<T> bias) {
  using A = accumulator<T>;
  index_t const experts = bias.template extent<0>();
  detail::check_selection_update(load, rate, experts);
  detail::check_loads("update_selection_bias", load);
  index_t total = 0;
  for (index_t e = 0; e < experts; ++e) total += load(e);
  for (index_t e = 0; e < experts; ++e) {
    int const sign = detail::load_sign(total, experts, load(e));
    if (sign != 0) bias(e) = T(static_cast<A>(bias(e)) + (sign > 0 ? static_cast<A>(rate) : -static_cast<A>(rate)));
    load(e) = 0;
  }
}

}  // namespace moe::inline MOE_ISA
