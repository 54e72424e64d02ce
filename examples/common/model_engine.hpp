#pragma once
// The trainer's view of a model type: the only part of the trainer that is compiled again for each preset.
#include <optional>

#include <examples/common/engine.hpp>
#include <examples/common/trainer.hpp>

namespace trainer {

template <class Model>
class model_engine final : public engine {
 public:
  index_t vocab() const override { return Model::vocab; }
  index_t buffer_size() const override { return Model::parameter_count; }
  index_t active_parameters() const override { return Model::active_parameters(); }
  double flops_per_token(index_t length) const override { return Model::flops_per_token(length); }
  std::vector<parameter_info> parameters() const override { return moe::nn::parameters_of<Model>(); }
  void initialise(float* w, std::uint64_t seed) const override { moe::nn::initialise<Model>(w, seed); }

  std::size_t activation_bytes(sequence_shape n) const override {
    return moe::nn::detail::measured([&](moe::arena& a) { activations(moe::cpu{}, a, n); });
  }
  std::size_t scratch_bytes(moe::cpu const& space, sequence_shape n) const override { return Model::template scratch_bytes<float>(space, n); }
  std::size_t state_bytes(index_t capacity) const override {
    return moe::nn::detail::measured([&](moe::arena& a) { state(moe::cpu{}, a, capacity); });
  }
  std::size_t decode_scratch_bytes(moe::cpu const& space, index_t rows, index_t capacity) const override {
    return Model::template logits_scratch_bytes<float>(space, rows, capacity);
  }

  void reserve(moe::arena& memory, sequence_shape n) override {
    shape_ = n;
    activations_.emplace(moe::cpu{}, memory, n);
  }
  losses loss_and_gradient(moe::cpu const& space, float const* w, float* g, token_view token, token_view target, double scale,
                           moe::arena& scratch) override {
    Model::loss_and_gradient(space, w, g, token, target, shape_, *activations_, scratch, scale);
    return last_losses(space);
  }
  losses loss(moe::cpu const& space, float const* w, token_view token, token_view target, moe::arena& scratch) override {
    Model::loss(space, w, token, target, shape_, *activations_, scratch);
    return last_losses(space);
  }
  void add_load(expert_load& load) override {
    std::size_t layer = 0;
    Model::for_each_router(*activations_, [&](auto const& routed) {
      auto const& plan = routed.plan;
      index_t const experts = plan.counts.template extent<0>();
      if (load.counts.size() == layer) load.counts.push_back(std::vector<index_t>(static_cast<std::size_t>(experts), 0));
      index_t asked = 0;
      for (index_t e = 0; e < experts; ++e) asked += plan.counts(e), load.counts[layer][static_cast<std::size_t>(e)] += plan.counts(e);
      load.dropped += asked - plan.rows();
      ++layer;
    });
  }

  void start_decoding(moe::arena& memory, index_t capacity) override { state_.emplace(moe::cpu{}, memory, capacity); }
  void decode(moe::cpu const& space, float const* w, token_view token, moe::matrix_view<float> logits, moe::arena& scratch) override {
    Model::logits(space, w, token, *state_, logits, scratch);
  }

 private:
  using activations = typename Model::template activations<float>;
  using state = typename Model::template state<float>;
  losses last_losses(moe::cpu const& space) {
    auto const l = Model::losses_of(space, *activations_);
    return {l.cross_entropy_sum, l.targets, l.balance, l.z};
  }

  sequence_shape shape_;
  std::optional<activations> activations_;
  std::optional<state> state_;
};

}  // namespace trainer
