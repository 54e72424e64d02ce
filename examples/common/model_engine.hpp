#pragma once
// The trainer's view of a model type on a device: the only part of the trainer that is compiled again for each preset.
#include <optional>

#include <examples/common/memory_engine.hpp>
#include <examples/common/trainer.hpp>
#include <moe/nn/routers.hpp>
#include <moe/routing/dispatch_plan.hpp>

namespace trainer {

template <class Model, class Device, class T>
class model_engine final : public memory_engine<Device, T> {
 public:
  using space = typename Device::space;

  index_t vocab() const override { return Model::vocab; }
  index_t buffer_size() const override { return Model::parameter_count; }
  index_t active_parameters() const override { return Model::active_parameters(); }
  index_t group_size() const override { return Model::group_size; }
  double flops_per_token(index_t length) const override { return Model::flops_per_token(length); }
  std::vector<parameter_info> parameters() const override { return moe::nn::parameters_of<Model, space>(); }

  void add_load(expert_load& load) override {
    auto const target = this->target();
    bool const all = std::none_of(target.data(), target.data() + target.size(), [](int t) { return t < 0; });
    std::size_t layer = 0;
    Model::for_each_router(*activations_, [&](auto const& routed) {
      auto const experts = static_cast<std::size_t>(routed.plan.experts());
      if (load.counts.size() == layer) load.counts.push_back(std::vector<index_t>(experts, 0));
      if (all) add_counts(routed.plan, load.counts[layer], load.dropped);
      else add_choices(routed, load.counts[layer], load.dropped);
      ++layer;
    });
  }

 protected:
  std::size_t activation_bytes(sequence_shape n) const override {
    return moe::nn::detail::measured([&](moe::arena& a) { activations(this->space_, a, n); });
  }
  std::size_t scratch_bytes(space const& s, sequence_shape n) const override { return Model::template scratch_bytes<T>(s, n); }
  std::size_t state_bytes(index_t capacity, index_t sequences) const override {
    return moe::nn::detail::measured([&](moe::arena& a) {
      for (index_t i = 0; i < sequences; ++i) state(this->space_, a, capacity);
    });
  }
  std::size_t decode_scratch_bytes(space const& s, sequence_shape n, index_t capacity) const override {
    return Model::template logits_of_group_scratch_bytes<T>(s, n, capacity);
  }
  void initial_weights(float* host, std::uint64_t seed) const override { moe::nn::initialise<Model, space>(host, seed); }

  void reserve(space const& s, moe::arena& memory, sequence_shape n) override {
    shape_ = n;
    activations_.emplace(s, memory, n);
  }
  losses pass_with_gradient(space const& s, T const* w, float* g, token_view token, token_view target, double scale, pass_key key,
                            moe::arena& scratch) override {
    moe::nn::set_router_noise<Model>(*activations_, key.seed, key.number);
    Model::loss_and_gradient(s, w, g, token, target, shape_, *activations_, scratch, scale);
    return last_losses(s);
  }
  losses pass(space const& s, T const* w, token_view token, token_view target, moe::arena& scratch) override {
    moe::nn::set_router_noise<Model>(*activations_, 0, std::nullopt);
    Model::loss(s, w, token, target, shape_, *activations_, scratch);
    return last_losses(s);
  }
  void move_biases(space const& s, float* weights) override { moe::nn::update_selection_biases<Model>(s, weights, *activations_); }
  void start_states(space const& s, moe::arena& memory, index_t capacity, index_t sequences) override {
    states_.clear();
    states_.reserve(static_cast<std::size_t>(sequences));
    for (index_t i = 0; i < sequences; ++i) states_.emplace_back(s, memory, capacity);
  }
  void decode_next(space const& s, T const* w, token_view token, sequence_shape n, moe::matrix_view<float> logits, moe::arena& scratch) override {
    Model::logits_of_group(s, w, token, n, std::span<state>(states_), logits, scratch);
  }

 private:
  using activations = typename Model::template activations<T>;
  using state = typename Model::template state<T>;
  template <class U>
  std::vector<U> fetched(U const* from, index_t n) const {
    std::vector<U> here(static_cast<std::size_t>(n));
    moe::copy(this->space_, here.data(), from, n);
    this->space_.wait();
    return here;
  }
  void add_counts(moe::dispatch_plan const& plan, std::vector<index_t>& counts, index_t& dropped) const {
    auto const n = fetched<index_t>(plan.counts.data(), plan.experts());
    for (std::size_t e = 0; e < n.size(); ++e) counts[e] += n[e], dropped += n[e];
    dropped -= fetched<index_t>(plan.offsets.data() + plan.experts(), 1)[0];
  }
  /// Of the tokens with a target, one by one.
  template <class Routing>
  void add_choices(Routing const& routed, std::vector<index_t>& counts, index_t& dropped) {
    index_t const slots = routed.plan.slots();
    auto const expert = fetched<int>(routed.expert.data(), slots), position = fetched<int>(routed.plan.position.data(), slots);
    for (index_t i = 0; i < slots; ++i) {
      auto const slot = static_cast<std::size_t>(i);
      if (this->target()(i / routed.plan.k) < 0 || expert[slot] < 0) continue;
      ++counts[static_cast<std::size_t>(expert[slot])];
      dropped += position[slot] < 0;
    }
  }
  losses last_losses(space const& s) {
    auto const l = Model::losses_of(s, *activations_);
    return {l.cross_entropy_sum, l.targets, l.balance, l.z, l.entropy};
  }

  sequence_shape shape_;
  std::optional<activations> activations_;
  std::vector<state> states_;  ///< of the sequences that are decoded
};

/// The engine of a preset's model. Not inline: a program can compile each number type in a unit of its own, by `extern template` and an explicit
/// instantiation.
template <class Preset, class Device, class T>
struct engine_of {
  static std::unique_ptr<engine> make();
};
template <class Preset, class Device, class T>
std::unique_ptr<engine> engine_of<Preset, Device, T>::make() {
  return std::make_unique<model_engine<typename Preset::model, Device, T>>();
}

/// A row of the table of devices that a program gives to run().
template <class Preset, class Device, class T>
constexpr device_choice choice(char const* name) {
  return {name, &engine_of<Preset, Device, T>::make, dtype_of<T>};
}

}  // namespace trainer
