#pragma once
// What is compared: shapes by group. The default ones take minutes; `all` is the whole grid.
#include <bench/peers/problem.hpp>

namespace bench::peers {

struct pair_of_shapes {
  shape first, second;
};

enum class amount { quick, usual, all };

std::vector<shape> dense_shapes(amount);
std::vector<shape> forward_shapes(amount);
std::vector<shape> backward_shapes(amount);
std::vector<pair_of_shapes> odd_shapes(amount);   ///< odd, and its even neighbour
std::vector<pair_of_shapes> skew_shapes(amount);  ///< Zipf, and balanced
std::vector<shape> scaling_shapes(amount);        ///< one thread, and all

}  // namespace bench::peers
