#pragma once
// A model small enough to know by heart: logits of the next token = W[token], a bigram table. It has a "router" that sends token t to expert t % 4.
#include <cmath>
#include <csignal>
#include <limits>

#include <examples/common/device.hpp>
#include <examples/common/memory_engine.hpp>
#include <examples/common/trainer.hpp>

namespace test {

using moe::index_t;

/// What shall go wrong, in every engine made from now on.
struct faults {
  index_t poison_pass = -1;               ///< the gradient of this pass (counted from 0) gets a NaN
  int raise_pass = -1, raise_signal = 0;  ///< sends this signal to the process in that pass
  bool constant_state = false;            ///< no fault: decoding keeps as much however many tokens came before
  index_t group = 1;  ///< no fault: sequences that the model looks at together; the logits of one are then those of its group's first
};

inline faults injected;

/// T: the numbers of its passes. In bf16 the table has the layout that products read.
template <class T>
class bigram_of final : public trainer::memory_engine<trainer::cpu_device, T> {
 public:
  static constexpr bool in_panels = std::is_same_v<T, moe::bf16>;

  index_t starts = 0;  ///< of decoding

  index_t vocab() const override { return 256; }
  index_t group_size() const override { return injected.group; }
  index_t buffer_size() const override { return 256 * 256 + 16; }
  index_t active_parameters() const override { return 256; }
  double flops_per_token(index_t) const override { return 6 * 256; }
  std::vector<trainer::parameter_info> parameters() const override {
    using namespace moe::nn;
    return {{"table.weight", parameter_group::unembedding, {}, 0, 256 * 256, 1, 256, 256, in_panels},
            {"unused.norm", parameter_group::norm, {}, 256 * 256, 16, 1, 1, 16, false}};
  }
  void add_load(trainer::expert_load& load) override {
    if (load.counts.empty()) load.counts.push_back(std::vector<index_t>(4, 0));
    for (index_t t = 0; t < last_.extent<0>(); ++t) load.counts[0][static_cast<std::size_t>(last_(t) % 4)] += this->target()(t) >= 0;
  }

 protected:
  void initial_weights(float* w, std::uint64_t seed) const override {
    moe::random_stream const random{seed, moe::random_purpose::initialisation, 0};
    for (index_t i = 0; i < 256 * 256; ++i)
      w[place<float>(i / 256, i % 256)] = static_cast<float>(0.02 * random.normal(static_cast<std::uint64_t>(i)));
    std::fill_n(w + 256 * 256, 16, 1.0f);
  }
  std::size_t activation_bytes(trainer::sequence_shape n) const override { return moe::aligned(static_cast<std::size_t>(n.tokens()) * sizeof(int)); }
  std::size_t scratch_bytes(moe::cpu const&, trainer::sequence_shape) const override { return 256 * sizeof(double); }
  std::size_t state_bytes(index_t capacity, index_t sequences) const override {
    return 64 * static_cast<std::size_t>(sequences * (injected.constant_state ? 1 : capacity));
  }
  std::size_t decode_scratch_bytes(moe::cpu const&, trainer::sequence_shape, index_t) const override { return 0; }

  void reserve(moe::cpu const&, moe::arena& memory, trainer::sequence_shape n) override { last_ = memory.vec<int>(n.tokens()); }
  trainer::losses pass_with_gradient(moe::cpu const&, T const* w, float* g, trainer::token_view token, trainer::token_view target, double scale,
                                     trainer::pass_key, moe::arena& scratch) override {
    index_t const number = passes_++;
    if (number == injected.raise_pass) raise(injected.raise_signal);
    trainer::losses const l = pass_over(w, g, token, target, scale, scratch);
    if (number == injected.poison_pass) g[300] = std::numeric_limits<float>::quiet_NaN();
    return l;
  }
  trainer::losses pass(moe::cpu const&, T const* w, trainer::token_view token, trainer::token_view target, moe::arena& scratch) override {
    return pass_over(w, nullptr, token, target, 0, scratch);
  }
  void start_states(moe::cpu const&, moe::arena& memory, index_t capacity, index_t sequences) override {
    memory.take<std::byte>(static_cast<index_t>(state_bytes(capacity, sequences)));
    ++starts, position_ = 0;
  }
  void decode_next(moe::cpu const&, T const* w, trainer::token_view token, trainer::sequence_shape n, moe::matrix_view<float> logits,
                   moe::arena&) override {
    position_ += n.length;
    moe::expects(position_ <= this->longest_context(), moe::errc::shape_mismatch, "bigram: ", position_, " tokens of a sequence");
    for (index_t t = 0; t < token.extent<0>(); ++t) {
      index_t const first = t / n.length / injected.group * injected.group * n.length + t % n.length;
      for (int i = 0; i < 256; ++i) logits(t, i) = static_cast<float>(w[place<T>(token(first), i)]);
    }
  }

 private:
  /// Where the table has element (row, i), in a buffer of type U.
  template <class U>
  static index_t place(index_t row, index_t i) {
    return in_panels ? moe::panel_layout<U>::offset(256, 256, row, i) : 256 * row + i;
  }
  trainer::losses pass_over(T const* w, float* g, trainer::token_view token, trainer::token_view target, double scale, moe::arena& scratch) {
    moe::arena::scope const scope(scratch);
    double* const p = scratch.take<double>(256);
    trainer::losses l;
    for (index_t t = 0; t < target.extent<0>(); ++t) l.targets += target(t) >= 0;
    for (index_t t = 0; t < token.extent<0>(); ++t) {
      last_(t) = token(t);
      if (target(t) < 0) continue;
      auto const at = [&](int i) { return static_cast<double>(w[place<T>(token(t), i)]); };
      double sum = 0;
      for (int i = 0; i < 256; ++i) sum += p[i] = std::exp(at(i));
      l.cross_entropy_sum += std::log(sum) - at(target(t));
      if (g == nullptr) continue;
      for (int i = 0; i < 256; ++i)
        g[place<float>(token(t), i)] += static_cast<float>(scale * (p[i] / sum - (i == target(t))) / static_cast<double>(l.targets));
    }
    return l;
  }
  moe::vector_view<int> last_;
  index_t passes_ = 0, position_ = 0;
};

using bigram = bigram_of<float>;

template <class T>
std::unique_ptr<trainer::engine> make_bigram() {
  return std::make_unique<bigram_of<T>>();
}
inline constexpr trainer::device_choice bigram_devices[] = {{"cpu", &make_bigram<float>}, {"cpu", &make_bigram<moe::bf16>, "bf16"}};

}  // namespace test
