#include <examples/common/optimizer.hpp>

#include <moe/optim/clip.hpp>

namespace trainer {

moe::warmup_cosine base_schedule(run_config const& c) { return {c.lr, c.warmup, c.steps, c.floor * c.lr}; }

moe::group_schedule group_rates(run_config const& c, preset const& p) {
  moe::group_schedule rates(base_schedule(c));
  for (auto const g : moe::all_parameter_groups) {
    bool const decays = g != parameter_group::norm && g != parameter_group::embedding;
    rates = rates.scaled(g, p.lr_scale[moe::index_of(g)]).with_weight_decay(g, decays ? c.weight_decay : 0);
  }
  return rates;
}

optimizer::optimizer(run_config const& c, preset const& p, std::vector<parameter_info> const& parameters, index_t buffer_size)
    : base_(base_schedule(c)), rates_(group_rates(c, p)), spans_(moe::parameter_spans(parameters)), clip_(c.clip), size_(buffer_size) {}

std::size_t optimizer::scratch_bytes(index_t buffer_size) { return moe::global_norm_scratch_bytes(moe::cpu{}, buffer_size); }

double optimizer::norm(moe::cpu const& space, run_memory& memory) const {
  return moe::global_norm<float>(space, moe::vec(static_cast<float const*>(memory.gradients), size_), memory.scratch);
}

void optimizer::update(moe::cpu const& space, run_memory& memory, index_t step, double norm) const {
  auto const all = [&](float* p) { return moe::vec(p, size_); };
  moe::adamw_by_group(space, spans_, rates_, all(memory.weights), all(memory.first), all(memory.second), all(memory.gradients),
                      moe::clip_scale(norm, clip_), step);
}

}  // namespace trainer
