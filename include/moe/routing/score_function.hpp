#pragma once
#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA {

/// What a router makes of the logits of a token.
enum class score_function {
  softmax,  ///< over all experts
  sigmoid,  ///< of each logit alone
};

}  // namespace moe::inline MOE_ISA
