#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include <moe/core/tensor.hpp>

namespace trainer {

using moe::index_t;

/// Draws a token from logits: those with the largest probabilities at this temperature, as many as it takes to reach `top_p` together (at least
/// one), in proportion to their probability. `uniform` in [0, 1) decides. Temperature 0, and top_p 0, take the likeliest; ties go to the lower token.
/// Throws bad_argument if a logit is NaN, all are -inf, or a setting is out of range.
class sampler {
 public:
  sampler(double temperature, double top_p);
  int draw(moe::in<float, moe::dyn> logits, double uniform);

 private:
  double temperature_, top_p_;
  std::vector<std::pair<double, int>> ranked_;  // kept, so that drawing does not allocate after the first call
};

}  // namespace trainer
