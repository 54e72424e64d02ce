#pragma once
// What the trainer asks of a model. The trainer is compiled once; a preset compiles its model and this thin wall around it.
#include <cstdint>
#include <vector>

#include <moe/core/buffer.hpp>
#include <moe/core/space.hpp>
#include <moe/nn/layer.hpp>

namespace trainer {

using moe::index_t;
using moe::nn::parameter_group;
using moe::nn::parameter_info;
using moe::nn::sequence_shape;
using token_view = moe::in<int, moe::dyn>;

struct losses {
  double cross_entropy_sum = 0;  ///< nats
  index_t targets = 0;
  double balance = 0, z = 0;
};

/// Tokens that each expert of each layer was asked to take, and those it had no room for.
struct expert_load {
  std::vector<std::vector<index_t>> counts;  ///< [layer][expert]
  index_t dropped = 0;

  void clear() {
    for (auto& layer : counts) std::fill(layer.begin(), layer.end(), 0);
    dropped = 0;
  }
  /// Load of the emptiest and of the fullest expert of all layers, over the mean of its layer; {0, 0} without experts or tokens.
  std::pair<double, double> extremes() const {
    double low = 1e300, high = 0;
    for (auto const& layer : counts) {
      index_t sum = 0;
      for (index_t c : layer) sum += c;
      if (sum == 0) continue;
      double const mean = static_cast<double>(sum) / static_cast<double>(layer.size());
      for (index_t c : layer) low = std::min(low, static_cast<double>(c) / mean), high = std::max(high, static_cast<double>(c) / mean);
    }
    return high > 0 ? std::pair{low, high} : std::pair{0.0, 0.0};
  }
};

class engine {
 public:
  virtual ~engine() = default;
  virtual index_t vocab() const = 0;
  virtual index_t buffer_size() const = 0;  ///< elements of weights, of gradients, and of each moment; padding included
  virtual index_t active_parameters() const = 0;
  virtual double flops_per_token(index_t length) const = 0;  ///< of training
  virtual std::vector<parameter_info> parameters() const = 0;
  virtual void initialise(float* w, std::uint64_t seed) const = 0;

  virtual std::size_t activation_bytes(sequence_shape n) const = 0;
  virtual std::size_t scratch_bytes(moe::cpu const& space, sequence_shape n) const = 0;
  virtual std::size_t state_bytes(index_t capacity) const = 0;
  virtual std::size_t decode_scratch_bytes(moe::cpu const& space, index_t rows, index_t capacity) const = 0;

  /// Activations of all later passes lie in `memory`. A pass takes the shape given here.
  virtual void reserve(moe::arena& memory, sequence_shape n) = 0;
  /// g += scale * d(mean cross-entropy + auxiliary losses) / d w. A negative target is ignored.
  virtual losses loss_and_gradient(moe::cpu const& space, float const* w, float* g, token_view token, token_view target, double scale,
                                   moe::arena& scratch) = 0;
  virtual losses loss(moe::cpu const& space, float const* w, token_view token, token_view target, moe::arena& scratch) = 0;
  /// Adds the load of the last pass.
  virtual void add_load(expert_load& load) = 0;

  /// Starts decoding a sequence of at most `capacity` tokens; what it keeps lies in `memory`, which the caller has zeroed.
  virtual void start_decoding(moe::arena& memory, index_t capacity) = 0;
  /// The logits [token.size(), vocab] after each of the next tokens of the sequence.
  virtual void decode(moe::cpu const& space, float const* w, token_view token, moe::matrix_view<float> logits, moe::arena& scratch) = 0;
};

}  // namespace trainer
