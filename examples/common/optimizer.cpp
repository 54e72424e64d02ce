#include <examples/common/optimizer.hpp>

#include <moe/optim/clip.hpp>

namespace trainer {

moe::warmup_cosine base_schedule(run_config const& c) { return {c.lr, c.warmup, c.steps, c.floor * c.lr}; }

moe::group_schedule group_rates(run_config const& c, preset const& p) {
  moe::group_schedule rates(base_schedule(c));
  for (auto const g : moe::all_parameter_groups) {
    bool const learns = g != parameter_group::router_bias;  // that one is moved by the loads of the experts alone
    bool const decays = learns && g != parameter_group::norm && g != parameter_group::embedding && g != parameter_group::ssm_state;
    rates = rates.scaled(g, learns ? p.lr_scale[moe::index_of(g)] : 0).with_weight_decay(g, decays ? c.weight_decay : 0);
  }
  return rates;
}

optimizer::optimizer(run_config const& c, preset const& p, std::vector<parameter_info> const& parameters)
    : base_(base_schedule(c)), rates_(group_rates(c, p)), spans_(moe::parameter_spans(parameters)), clip_(c.clip) {}

void optimizer::update(engine& model, index_t step, double norm) const { model.update(spans_, rates_, moe::clip_scale(norm, clip_), step); }

}  // namespace trainer
