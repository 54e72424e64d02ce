#pragma once
// The half of an engine that knows a device and no model: buffers, copies to and from the host, the optimizer.
//
// Weights, gradients and moments are float. Where passes compute in bf16 they read a rounded copy of the weights, which follows them: every update
// writes both, and put() rounds what came from the host.
#include <limits>

#include <examples/common/engine.hpp>
#include <moe/core/elementwise.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/rounded_weights.hpp>

namespace trainer {

template <class T>
inline constexpr char const* dtype_of = std::is_same_v<T, moe::bf16> ? "bf16" : "fp32";

/// T: the numbers of the passes, float or bf16.
template <class Device, class T = float>
class memory_engine : public engine {
 public:
  using space = typename Device::space;
  static constexpr bool rounds = !std::is_same_v<T, float>;

  std::string device() const override { return Device::describe(space_) + (rounds ? std::string(", ") + dtype_of<T> : std::string()); }
  void use_threads(int n) override { Device::use_threads(space_, n); }
  memory_plan plan(sequence_shape n, purpose what) const override;
  void allocate(sequence_shape n, purpose what) override;

  void initialise(std::uint64_t seed) override;
  host_tensors fetch() override;
  void put() override;

  moe::vector_view<int> token() override { return host_token_; }
  moe::vector_view<int> target() override { return host_target_; }
  void zero_gradients() override {
    if (!zeroed_) moe::fill(space_, rows_of_buffer(tensors_.gradients), 0.0f);
    zeroed_ = false;
  }
  losses loss_and_gradient(double scale, pass_key key) override {
    send_batch();
    moe::arena scratch = scratch_;
    return pass_with_gradient(space_, weights_of_passes(), tensors_.gradients, token_, target_, scale, key, scratch);
  }
  losses loss() override {
    send_batch();
    moe::arena scratch = scratch_;
    return pass(space_, weights_of_passes(), token_, target_, scratch);
  }
  double gradient_norm() override;
  void update(std::span<moe::parameter_span const> spans, moe::group_schedule const& rates, double gradient_scale, index_t step) override {
    auto const all = [&](float* p) { return moe::vec(p, buffer_size()); };
    move_biases(space_, tensors_.weights);  // before: adamw, which leaves them as they are, rounds them with the rest
    moe::adamw_by_group(space_, spans, rates, all(tensors_.weights), all(tensors_.first), all(tensors_.second), all(tensors_.gradients), gradient_scale,
                        step, {}, {.zeroed = all(tensors_.gradients), .rounded = rounded_});
    zeroed_ = true;
  }

  index_t longest_context() const override { return state_bytes(1, 1) == state_bytes(4096, 1) ? std::numeric_limits<index_t>::max() : length_; }
  void start_decoding() override {
    moe::arena state(decoding_, decoding_bytes_);
    start_states(space_, state, length_, decoded_);
  }
  index_t decoded() const override { return decoded_; }
  moe::in<float, moe::dyn, moe::dyn> decode(token_view token) override;

 protected:
  // What the model adds. All pointers and views are memory of the device.
  virtual std::size_t activation_bytes(sequence_shape n) const = 0;
  virtual std::size_t scratch_bytes(space const& s, sequence_shape n) const = 0;
  virtual std::size_t state_bytes(index_t capacity, index_t sequences) const = 0;
  virtual std::size_t decode_scratch_bytes(space const& s, sequence_shape n, index_t capacity) const = 0;
  virtual void initial_weights(float* host, std::uint64_t seed) const = 0;
  /// Activations of all later passes lie in `memory`.
  virtual void reserve(space const& s, moe::arena& memory, sequence_shape n) = 0;
  virtual losses pass_with_gradient(space const& s, T const* w, float* g, token_view token, token_view target, double scale, pass_key key,
                                    moe::arena& scratch) = 0;
  virtual losses pass(space const& s, T const* w, token_view token, token_view target, moe::arena& scratch) = 0;
  /// What of the weights follows the load of routers, and not a gradient.
  virtual void move_biases(space const&, float* /*weights*/) {}
  /// What decoding keeps of the earlier tokens of each sequence lies in `memory`.
  virtual void start_states(space const& s, moe::arena& memory, index_t capacity, index_t sequences) = 0;
  /// The logits [n.tokens(), vocab] behind each of the next n.length tokens of n.sequences sequences.
  virtual void decode_next(space const& s, T const* w, token_view token, sequence_shape n, moe::matrix_view<float> logits, moe::arena& scratch) = 0;

  space space_;

 private:
  std::size_t buffer_bytes() const { return moe::aligned(static_cast<std::size_t>(buffer_size()) * sizeof(float)); }
  /// A buffer as a matrix, so that all threads have rows to work on. Its size is a multiple of 16: parameters begin at cache lines.
  moe::matrix_view<float> rows_of_buffer(float* p) const { return moe::mat(p, buffer_size() / 16, 16); }
  T const* weights_of_passes() const {
    if constexpr (rounds) return rounded_.data();
    else return tensors_.weights;
  }
  void allocate_host(sequence_shape n, purpose what);
  /// Sequences and tokens of each that one call of decode takes.
  sequence_shape decoding_shape(sequence_shape n, purpose what) const {
    index_t const sequences = what == purpose::decoding ? n.sequences : this->group_size();
    moe::expects(sequences >= 1 && sequences % this->group_size() == 0, moe::errc::bad_argument, "decoding ", sequences,
                 " sequences: the model looks at ", this->group_size(), " together, needs a multiple of it");
    return {sequences, std::max<index_t>(1, decode_rows / sequences)};
  }
  void send_batch();
  template <class U>
  void copy(U* to, U const* from, index_t n) const {
    if (to != nullptr) moe::copy(space_, to, from, n);
  }

  typename Device::buffer memory_;
  moe::buffer host_memory_;
  host_tensors tensors_, host_;  ///< on the device; on the host
  moe::vector_view<moe::bf16> rounded_;  ///< the copy of the weights, on the device; empty where passes read the weights themselves
  moe::vector_view<int> token_, target_, host_token_, host_target_;
  moe::matrix_view<float> logits_;
  moe::matrix_view<float> host_logits_;
  moe::vector_view<double> norm_;
  moe::arena scratch_;
  std::byte* decoding_ = nullptr;
  std::size_t decoding_bytes_ = 0;
  index_t length_ = 0, decoded_ = 1;
  bool zeroed_ = false;  ///< the gradients, by the last update
};

template <class Device, class T>
memory_plan memory_engine<Device, T>::plan(sequence_shape n, purpose what) const {
  memory_plan plan;
  plan.weights = buffer_bytes();
  if (rounds) plan.rounded = moe::aligned(static_cast<std::size_t>(buffer_size()) * sizeof(T));
  if (what == purpose::training) plan.gradients = plan.weights, plan.moments = 2 * plan.weights;
  sequence_shape const next = decoding_shape(n, what);
  plan.scratch = moe::aligned(decode_scratch_bytes(space_, next, n.length));
  if (what != purpose::decoding) {
    plan.activations = moe::aligned(activation_bytes(n));
    plan.scratch = std::max(plan.scratch, moe::aligned(scratch_bytes(space_, n)));
  }
  if (what == purpose::training) plan.scratch = std::max(plan.scratch, moe::aligned(moe::global_norm_scratch_bytes(space_, buffer_size())));
  plan.batch =
      2 * moe::aligned(static_cast<std::size_t>(what == purpose::decoding ? next.tokens() : std::max(n.tokens(), next.tokens())) * sizeof(int)) +
      moe::alignment;  // and the norm
  plan.decoding =
      moe::aligned(state_bytes(n.length, next.sequences)) + moe::aligned(static_cast<std::size_t>(next.tokens() * vocab()) * sizeof(float));
  return plan;
}

template <class Device, class T>
void memory_engine<Device, T>::allocate(sequence_shape n, purpose what) {
  memory_plan const p = plan(n, what);
  memory_ = typename Device::buffer(p.total());
  moe::arena all(memory_.data(), memory_.bytes());
  sequence_shape const next = decoding_shape(n, what);
  index_t const tokens = what == purpose::decoding ? next.tokens() : std::max(n.tokens(), next.tokens());
  tensors_ = {.weights = all.take<float>(buffer_size())};
  if (what == purpose::training)
    for (float** const t : {&tensors_.gradients, &tensors_.first, &tensors_.second}) *t = all.take<float>(buffer_size());
  if constexpr (rounds) rounded_ = all.vec<T>(buffer_size());
  token_ = all.vec<int>(tokens), target_ = all.vec<int>(tokens), norm_ = all.vec<double>(1);
  if (what != purpose::decoding) reserve(space_, all, n);
  logits_ = all.mat<float>(next.tokens(), vocab());
  decoding_bytes_ = moe::aligned(state_bytes(n.length, next.sequences));
  decoding_ = all.take<std::byte>(static_cast<index_t>(decoding_bytes_));
  scratch_ = moe::arena(all.take<std::byte>(static_cast<index_t>(p.scratch)), p.scratch);
  length_ = n.length, decoded_ = next.sequences, zeroed_ = false;
  allocate_host(n, what);
  auto const batch = [&](moe::vector_view<int> all_tokens) { return what == purpose::decoding ? all_tokens : moe::vec(all_tokens.data(), n.tokens()); };
  host_token_ = batch(host_token_), host_target_ = batch(host_target_);
  if (what != purpose::decoding) token_ = batch(token_), target_ = batch(target_);
}

template <class Device, class T>
void memory_engine<Device, T>::allocate_host(sequence_shape, purpose) {
  if constexpr (Device::is_host) {
    host_ = tensors_, host_token_ = token_, host_target_ = target_;
    return;
  }
  auto const lay_out = [&](moe::arena& a) {
    host_ = {};
    for (auto const member : {&host_tensors::weights, &host_tensors::gradients, &host_tensors::first, &host_tensors::second})
      if (tensors_.*member != nullptr) host_.*member = a.take<float>(buffer_size());
    host_token_ = a.vec<int>(token_.size()), host_target_ = a.vec<int>(target_.size());
    host_logits_ = a.mat<float>(decoded_, vocab());
  };
  moe::arena measure;
  lay_out(measure);
  host_memory_ = moe::buffer(measure.peak());
  moe::arena memory(host_memory_);
  lay_out(memory);
}

template <class Device, class T>
void memory_engine<Device, T>::initialise(std::uint64_t seed) {
  initial_weights(host_.weights, seed);
  for (float* const moment : {host_.first, host_.second})
    if (moment != nullptr) std::fill_n(moment, buffer_size(), 0.0f);
  put();
}

template <class Device, class T>
host_tensors memory_engine<Device, T>::fetch() {
  if constexpr (!Device::is_host) {
    for (auto const member : {&host_tensors::weights, &host_tensors::gradients, &host_tensors::first, &host_tensors::second})
      copy(host_.*member, static_cast<float const*>(tensors_.*member), buffer_size());
    space_.wait();
  }
  return host_;
}

template <class Device, class T>
void memory_engine<Device, T>::put() {
  if constexpr (!Device::is_host) {
    for (auto const member : {&host_tensors::weights, &host_tensors::first, &host_tensors::second})
      copy(tensors_.*member, static_cast<float const*>(host_.*member), buffer_size());
    space_.wait();
  }
  if constexpr (rounds) {
    auto const spans = moe::parameter_spans(parameters());
    moe::round_weights(space_, spans, moe::vec<float const>(tensors_.weights, buffer_size()), rounded_);
  }
}

template <class Device, class T>
void memory_engine<Device, T>::send_batch() {
  if constexpr (!Device::is_host) {
    copy(token_.data(), static_cast<int const*>(host_token_.data()), token_.size());
    copy(target_.data(), static_cast<int const*>(host_target_.data()), target_.size());
  }
}

template <class Device, class T>
double memory_engine<Device, T>::gradient_norm() {
  moe::arena scratch = scratch_;
  moe::global_norm<float>(space_, moe::vec(static_cast<float const*>(tensors_.gradients), buffer_size()), moe::view<1>(norm_.data(), 1), scratch);
  double norm = 0;
  moe::copy(space_, &norm, static_cast<double const*>(norm_.data()), 1);
  space_.wait();
  return norm;
}

template <class Device, class T>
moe::in<float, moe::dyn, moe::dyn> memory_engine<Device, T>::decode(token_view token) {
  sequence_shape const n{decoded_, token.size() / decoded_};
  moe::expects(n.length >= 1 && n.length <= this->decoded_at_once() && n.tokens() == token.size(), moe::errc::bad_argument, "decode: ", token.size(),
               " tokens of ", decoded_, " sequences, needs 1 to ", this->decoded_at_once(), " of each");
  token_view here = token;
  if constexpr (!Device::is_host) {
    copy(token_.data(), token.data(), n.tokens());
    here = moe::vec(static_cast<int const*>(token_.data()), n.tokens());
  }
  moe::arena scratch = scratch_;
  decode_next(space_, weights_of_passes(), here, n, moe::mat(logits_.data(), n.tokens(), vocab()), scratch);
  auto const last = moe::mat(logits_.row(n.length - 1), decoded_, vocab()).with_row_stride(n.length * vocab());
  if constexpr (Device::is_host) return last;
  for (index_t s = 0; s < decoded_; ++s) copy(host_logits_.row(s), static_cast<float const*>(last.row(s)), vocab());
  space_.wait();
  return host_logits_;
}

}  // namespace trainer
