#include <examples/common/optimizer.hpp>

#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/schedule.hpp>

namespace trainer {

optimizer::optimizer(run_config const& c, preset const& p, std::vector<parameter_info> const& parameters, index_t buffer_size)
    : config_(c), size_(buffer_size) {
  for (auto const& x : parameters) {
    bool const decays = x.rows > 1 && x.group != parameter_group::norm && x.group != parameter_group::embedding;
    double const decay = decays ? c.weight_decay : 0, scale = p.lr_scale[static_cast<std::size_t>(x.group)];
    bool const alike = !spans_.empty() && spans_.back().end == x.offset && spans_.back().weight_decay == decay && spans_.back().lr_scale == scale;
    if (alike) spans_.back().end = x.offset + x.size;
    else spans_.push_back({x.offset, x.offset + x.size, decay, scale});
  }
  learning_rate(1);  // a schedule that cannot be throws here, before anything is trained
}

std::size_t optimizer::scratch_bytes(index_t buffer_size) { return moe::global_norm_scratch_bytes(moe::cpu{}, buffer_size); }

double optimizer::learning_rate(index_t step) const {
  moe::warmup_cosine const schedule{config_.lr, config_.warmup, config_.steps, config_.floor * config_.lr};
  return schedule.at(step);
}

double optimizer::norm(moe::cpu const& space, run_memory& memory) const {
  return moe::global_norm<float>(space, moe::vec(static_cast<float const*>(memory.gradients), size_), memory.scratch);
}

void optimizer::update(moe::cpu const& space, run_memory& memory, index_t step, double norm, double rate) const {
  double const clip = moe::clip_scale(norm, config_.clip);
  for (span const& s : spans_) {
    index_t const n = s.end - s.begin;
    auto const part = [&](float* all) { return moe::vec(all + s.begin, n); };
    moe::adamw(space, part(memory.weights), part(memory.first), part(memory.second), part(memory.gradients), rate * s.lr_scale, s.weight_decay, clip,
               step, moe::adamw_config{});
  }
}

}  // namespace trainer
