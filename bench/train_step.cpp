// The training step (forward, backward, clipping, AdamW) of the models that bench/peers/torch_step.py also times, on random tokens:
//   bench.train_step [--steps n] [--threads n] [--dtype fp32|bf16] [twin] [twin_dense] [moe_mamba]
// One JSON line per preset. In bf16 weights, moments and gradients stay float, and the step ends with the rounded copy that the next one
// reads. See bench/peers/compare.sh.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <examples/moe_transformer/model.hpp>
#include <moe/nn/mamba.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/group_adamw.hpp>
#include <moe/optim/rounded_weights.hpp>
#include <moe/version.hpp>

namespace {

using moe::index_t;
using moe_transformer::shape;
using twin =
    moe_transformer::transformer<shape{.vocab = 8192, .d_model = 256, .layers = 6, .heads = 8, .d_ff = 512, .experts = 16, .granularity = 2}>::model;
using twin_dense =
    moe_transformer::transformer<shape{.vocab = 8192, .d_model = 256, .layers = 6, .heads = 8, .d_ff = 512, .experts = 0, .granularity = 1}>::model;
/// 4 Mamba layers, each with the experts of `twin` behind it.
using twin_experts =
    moe_transformer::transformer<shape{.vocab = 8192, .d_model = 256, .layers = 4, .heads = 8, .d_ff = 512, .experts = 16, .granularity = 2}>;
constexpr moe::nn::mamba_config selective{.d_model = 256};
using moe_mamba = moe::nn::language_model<
    twin_experts::ends,
    moe::nn::repeat<4, moe::nn::sequence<moe::nn::residual<moe::nn::mamba<selective>>, moe::nn::residual<moe::nn::moe_ffn<twin_experts::sparse>>>>>;

struct options {
  int steps = 7;
  moe::cpu space{};
  bool in_bf16 = false;
  std::vector<std::string_view> presets;
};

/// A model, its optimizer's state, and one batch that is trained on again and again.
template <class Model, class T>
class training {
 public:
  explicit training(moe::cpu const& space) : space_(space) {
    moe::nn::initialise<Model>(weights_.data(), 1);
    if constexpr (rounds) moe::round_weights(space_, spans_, weights_, rounded_);
    moe::random_stream const random{1, moe::random_purpose::data_order, 0};
    for (index_t t = 0; t < batch.tokens(); ++t) {
      tokens_(t) = static_cast<int>(random.below(static_cast<std::uint64_t>(t), Model::vocab));
      targets_(t) = t % batch.length == 0 ? -1 : tokens_(t);
    }
    std::rotate(targets_.data(), targets_.data() + 1, targets_.data() + batch.tokens());  // the last of a sequence has no next token
  }

  /// Returns the seconds it took.
  double step() {
    auto const start = std::chrono::steady_clock::now();
    Model::loss_and_gradient(space_, read_by_passes(), gradients_.data(), tokens_, targets_, batch, activations_, scratch_);
    double const clip = moe::clip_scale(moe::global_norm(space_, gradients_, scratch_), 1.0);
    moe::adamw_by_group(space_, spans_, rates_, weights_, first_, second_, gradients_, clip, ++step_, {},
                        {.zeroed = gradients_, .rounded = rounded_});
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  static constexpr moe::nn::sequence_shape batch{.sequences = 8, .length = 256};

 private:
  static constexpr bool rounds = std::is_same_v<T, moe::bf16>;
  using activations = typename Model::template activations<T>;
  T const* read_by_passes() const {
    if constexpr (rounds) return rounded_.data();
    else return weights_.data();
  }
  static std::size_t bytes(moe::cpu const& space) {
    moe::arena a;
    for (int i = 0; i < 4; ++i) a.vec<float>(Model::parameter_count);
    if (rounds) a.vec<T>(Model::parameter_count);
    activations(space, a, batch);
    return a.peak() + 2 * moe::aligned(sizeof(int) * static_cast<std::size_t>(batch.tokens())) + scratch_bytes(space);
  }
  static std::size_t scratch_bytes(moe::cpu const& space) {
    return moe::aligned(std::max(Model::template scratch_bytes<T>(space, batch), moe::global_norm_scratch_bytes(space, Model::parameter_count)));
  }

  moe::cpu space_;
  moe::buffer buffer_{bytes(space_)};
  moe::arena memory_{buffer_};
  moe::vector_view<float> weights_ = memory_.vec<float>(Model::parameter_count), gradients_ = memory_.vec<float>(Model::parameter_count),
                          first_ = memory_.vec<float>(Model::parameter_count), second_ = memory_.vec<float>(Model::parameter_count);
  moe::vector_view<moe::bf16> rounded_ = rounds ? memory_.vec<moe::bf16>(Model::parameter_count) : moe::vector_view<moe::bf16>();
  std::vector<moe::parameter_span> spans_ = moe::parameter_spans(moe::nn::parameters_of<Model>());
  moe::group_schedule rates_ = moe::group_schedule(moe::warmup_cosine(1e-3, 0, 1, 1e-3), 0.1);
  moe::vector_view<int> tokens_ = memory_.vec<int>(batch.tokens()), targets_ = memory_.vec<int>(batch.tokens());
  activations activations_{space_, memory_, batch};
  moe::arena scratch_{memory_.take<std::byte>(static_cast<index_t>(scratch_bytes(space_))), scratch_bytes(space_)};
  index_t step_ = 0;
};

template <class Model, class T>
void measure(char const* preset, options const& o) {
  training<Model, T> run(o.space);
  std::vector<double> seconds;
  for (int i = 0; i < o.steps + 2; ++i) seconds.push_back(run.step());
  seconds.erase(seconds.begin(), seconds.begin() + 2);  // the first touch of the memory, and the start of the threads
  std::sort(seconds.begin(), seconds.end());
  std::size_t const half = seconds.size() / 2;
  double const median = seconds.size() % 2 == 1 ? seconds[half] : 0.5 * (seconds[half - 1] + seconds[half]);
  auto const tokens = static_cast<double>(run.batch.tokens());
  std::printf(
      R"({"preset": "%s", "dtype": "%s", "moe": "%d.%d.%d %s", "threads": %d, "parameters": %lld, "tokens_per_second_median": %.1f, "tokens_per_second_best": %.1f})"
      "\n",
      preset, o.in_bf16 ? "bf16" : "fp32", MOE_VERSION_MAJOR, MOE_VERSION_MINOR, MOE_VERSION_PATCH, moe::instruction_set(), o.space.threads,
      static_cast<long long>(Model::parameters()), tokens / median, tokens / seconds[0]);
  std::fflush(stdout);
}

template <class Model>
void measure_if_asked(char const* preset, options const& o) {
  if (!o.presets.empty() && std::find(o.presets.begin(), o.presets.end(), preset) == o.presets.end()) return;
  if (o.in_bf16) measure<Model, moe::bf16>(preset, o);
  else measure<Model, float>(preset, o);
}

options read(int count, char** argument) {
  options o;
  for (int i = 1; i < count; ++i) {
    std::string_view const a = argument[i];
    if ((a == "--steps" || a == "--threads") && i + 1 < count) {
      int const n = std::max(1, std::atoi(argument[++i]));
      (a == "--steps" ? o.steps : o.space.threads) = n;
    } else if (std::string_view const dtype = i + 1 < count ? argument[i + 1] : ""; a == "--dtype" && (dtype == "fp32" || dtype == "bf16")) {
      o.in_bf16 = dtype == "bf16", ++i;
    } else if (a == "twin" || a == "twin_dense" || a == "moe_mamba") {
      o.presets.push_back(a);
    } else {
      std::fprintf(stderr, "usage: %s [--steps n] [--threads n] [--dtype fp32|bf16] [twin] [twin_dense] [moe_mamba]\n", argument[0]);
      std::exit(2);
    }
  }
  return o;
}

}  // namespace

int main(int count, char** argument) try {
  options const o = read(count, argument);
  measure_if_asked<twin>("twin", o);
  measure_if_asked<twin_dense>("twin_dense", o);
  measure_if_asked<moe_mamba>("moe_mamba", o);
} catch (moe::error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
