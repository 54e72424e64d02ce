#pragma once
#include <array>

#include <moe/core/types.hpp>
#include <moe/optim/parameter_group.hpp>

namespace trainer {

/// What a preset says beside its model type: defaults of the flags. Each can be given on the command line.
struct preset {
  char const* name = "";          ///< also the default directory: runs/<name>
  char const* what = "";          ///< one line for --help
  double minutes = 2;             ///< of training
  moe::index_t batch = 8;         ///< sequences per micro-batch
  moe::index_t length = 256;      ///< tokens of a sequence
  moe::index_t accumulate = 1;    ///< micro-batches per step
  moe::index_t vocab = 0;         ///< entries of the tokenizer; 0: as many as the model has
  char const* tokenizer = "bpe";  ///< "bpe" or "bytes"
  double lr = 2e-3;               ///< peak
  double warmup = 0.05;           ///< part of all steps
  double floor = 0.1;             ///< the last learning rate, as a part of the peak
  double weight_decay = 0.1;      ///< of matrices; norms, embeddings and what the state of an ssm evolves by have none
  double clip = 1;                ///< largest norm of the gradient
  /// Multiplies the learning rate of a parameter group; in the order of moe::parameter_group.
  std::array<double, moe::parameter_group_count> lr_scale{1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
};

}  // namespace trainer
