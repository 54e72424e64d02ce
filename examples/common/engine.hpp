#pragma once
// What the trainer asks of a model with its memory, wherever that is. The trainer is compiled once and sees host memory only; a preset compiles its model
// and the thin wall of model_engine.hpp around it, once for each device.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <moe/core/tensor.hpp>
#include <moe/nn/layer.hpp>
#include <moe/optim/group_adamw.hpp>

namespace trainer {

using moe::index_t;
using moe::nn::parameter_group;
using moe::nn::parameter_info;
using moe::nn::sequence_shape;
using token_view = moe::in<int, moe::dyn>;

inline constexpr index_t decode_rows = 32;  ///< a prompt is read in pieces of this many tokens, of all sequences together

struct losses {
  double cross_entropy_sum = 0;  ///< nats
  index_t targets = 0;
  double balance = 0, z = 0, entropy = 0;
};

/// Choices of each expert of each layer before capacity, and those it had no room for.
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

/// Which of all training passes one is: where a router has noise while it trains, seed and number decide it.
struct pass_key {
  std::uint64_t seed = 0;
  std::uint32_t number = 0;
};

/// What memory is for. Evaluation needs no gradients and moments; a sample needs no batch and no activations either.
enum class purpose { training, evaluation, decoding };

/// Bytes of everything a run allocates on its device, all at once and before the first step.
struct memory_plan {
  std::size_t weights = 0, rounded = 0, gradients = 0, moments = 0, activations = 0, scratch = 0, decoding = 0, batch = 0;
  std::size_t total() const { return weights + rounded + gradients + moments + activations + scratch + decoding + batch; }
};

/// The model's buffers as the host sees them: the memory itself on the CPU, copies elsewhere. Null what was not allocated. They are float whatever
/// the dtype of the passes.
struct host_tensors {
  float *weights = nullptr, *gradients = nullptr, *first = nullptr, *second = nullptr;  ///< first, second: the moments of AdamW
};

class engine {
 public:
  virtual ~engine() = default;
  virtual index_t vocab() const = 0;
  virtual index_t buffer_size() const = 0;  ///< elements of weights, of gradients, and of each moment; padding included
  virtual index_t active_parameters() const = 0;
  /// Sequences of a batch that a pass looks at together, at the same position: a batch is a multiple of it, and so is what is decoded side by side.
  /// 1: every sequence by itself.
  virtual index_t group_size() const { return 1; }
  virtual double flops_per_token(index_t length) const = 0;  ///< of training
  virtual std::vector<parameter_info> parameters() const = 0;

  virtual std::string device() const = 0;  ///< "2 threads, avx512", or the name of a GPU; behind it "bf16" where that is the dtype
  virtual void use_threads(int n) = 0;     ///< of the host, where the device is the host; call it before anything is planned or allocated
  virtual memory_plan plan(sequence_shape n, purpose what) const = 0;
  /// All memory of a run. Every later pass has the shape given here; purpose::decoding decodes n.sequences side by side, training one group.
  virtual void allocate(sequence_shape n, purpose what) = 0;

  /// Fills the weights; the moments become 0.
  virtual void initialise(std::uint64_t seed) = 0;
  /// The buffers as the device has them now. The pointers stay good; put() brings weights and moments that were changed there to the device.
  virtual host_tensors fetch() = 0;
  virtual void put() = 0;

  /// The batch of the next pass, in host memory, for the caller to fill. A negative target is ignored.
  virtual moe::vector_view<int> token() = 0;
  virtual moe::vector_view<int> target() = 0;
  virtual void zero_gradients() = 0;
  /// Gradients += scale * d(mean cross-entropy + auxiliary losses) / d weights.
  virtual losses loss_and_gradient(double scale, pass_key key) = 0;
  virtual losses loss() = 0;  ///< without noise
  /// Adds the load of the last pass, of its tokens whose target is not negative: padding and context that was counted before are no load.
  virtual void add_load(expert_load& load) = 0;
  /// Of the gradients; NaN or infinite if one of them is.
  virtual double gradient_norm() = 0;
  /// One step: of the weights against their gradients, and of the selection biases of routers against the load of the passes since the last step.
  virtual void update(std::span<moe::parameter_span const> spans, moe::group_schedule const& rates, double gradient_scale, index_t step) = 0;

  /// Tokens that a decoded sequence may have: the length given to allocate, or no limit where what the model keeps of a sequence does not grow.
  virtual index_t longest_context() const = 0;
  virtual void start_decoding() = 0;
  virtual index_t decoded() const = 0;  ///< sequences that are decoded side by side
  /// Tokens of each that one call takes at most.
  index_t decoded_at_once() const { return std::max<index_t>(1, decode_rows / decoded()); }
  /// Feeds the next tokens of all sequences, as many of each, one sequence after the other. Returns the logits [decoded(), vocab] behind the last of
  /// each, in host memory.
  virtual moe::in<float, moe::dyn, moe::dyn> decode(token_view token) = 0;
};

/// A device that a program can run on, and the numbers of its passes: what --device and --dtype name, and how to get its engine.
struct device_choice {
  char const* name;
  std::unique_ptr<engine> (*make)();
  char const* dtype = "fp32";
};

}  // namespace trainer
