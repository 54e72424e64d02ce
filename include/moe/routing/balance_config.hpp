#pragma once
#include <moe/core/sequence_shape.hpp>
#include <moe/routing/score_function.hpp>

namespace moe::inline MOE_ISA {

struct balance_config {
  double balance = 0.01;  ///< coefficient of the balance loss, and its value when the load is uniform; 0: its arguments are not read
  double z = 0.001;       ///< coefficient of the z-loss
  score_function score = score_function::softmax;  ///< what the balance loss sees of the logits
  bool per_sequence = false;                       ///< a balance loss of each sequence from its own choices, and their mean; false: one of the batch
};

/// What balance_config::per_sequence asks about: which experts each token chose, and which tokens are a sequence.
struct sequence_choices {
  matrix_view<int const> expert;  ///< [tokens, k] in [0, experts), or -1: no choice
  sequence_shape shape;
};

}  // namespace moe::inline MOE_ISA
