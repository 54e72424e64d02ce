#pragma once
#include <moe/nn/parameter.hpp>

#include "test/support.hpp"

namespace test {

/// Where the elements of a parameter are in a buffer of doubles (and of floats).
inline std::vector<index_t> places_of(moe::nn::parameter_info const& p) {
  std::vector<index_t> places;
  for (index_t n = 0; n < p.count; ++n)
    for (index_t r = 0; r < p.rows; ++r)
      for (index_t c = 0; c < p.columns; ++c) places.push_back(p.place<double>(n, r, c));
  return places;
}
/// The same parameters in another type, whose order may be another.
template <class L, class From, class To>
void copy_parameters(From const* from, To* to) {
  for (auto const& p : moe::nn::parameters_of<L, test::space>())
    for (index_t n = 0; n < p.count; ++n)
      for (index_t r = 0; r < p.rows; ++r)
        for (index_t c = 0; c < p.columns; ++c) to[p.template place<To>(n, r, c)] = static_cast<To>(from[p.template place<From>(n, r, c)]);
}

}  // namespace test
