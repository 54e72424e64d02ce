#pragma once
#include <examples/common/engine.hpp>
#include <examples/common/options.hpp>
#include <moe/optim/group_schedule.hpp>
#include <moe/optim/schedule.hpp>

namespace trainer {

/// The learning rate before the scales of the groups: linear warm-up and a cosine to floor * lr. Throws bad_argument for a schedule that cannot be.
moe::warmup_cosine base_schedule(run_config const& c);
/// What each group is trained with: the base schedule times the preset's scale. Norms and embeddings have no weight decay.
moe::group_schedule group_rates(run_config const& c, preset const& p);

/// AdamW with global-norm clipping over one buffer of parameters, each group with its rates. Vectors (norms, biases) have no weight decay.
class optimizer {
 public:
  /// Throws as group_rates, before anything is trained.
  optimizer(run_config const& c, preset const& p, std::vector<parameter_info> const& parameters);

  double learning_rate(index_t step) const { return base_.at(step); }  ///< of the base schedule; step 1 is the first
  /// Clips gradients of that norm, and updates weights and moments.
  void update(engine& model, index_t step, double norm) const;

 private:
  moe::warmup_cosine base_;
  moe::group_schedule rates_;
  std::vector<moe::parameter_span> spans_;
  double clip_;
};

}  // namespace trainer
