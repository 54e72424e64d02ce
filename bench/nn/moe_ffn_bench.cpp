#include <bench/support.hpp>
#include <moe/nn/moe_ffn.hpp>

namespace {

using namespace moe;

using layer = nn::moe_ffn<nn::moe_ffn_config{.d_model = 256, .d_ff = 512, .experts = 16, .granularity = 2}>;

/// 32 experts of width 256, two per token.
struct batch {
  nn::sequence_shape shape;
  bench::operands o{192};
  vector_view<float> w = o.memory().vec<float>(layer::parameter_count), g = o.vec(layer::parameter_count);
  matrix_view<float> x = o.mat(shape.tokens(), layer::d_model), y = o.mat(shape.tokens(), layer::d_model),
                     d_x = o.mat(shape.tokens(), layer::d_model);
  layer::activations<float> activations{bench::space(), o.memory(), shape};
  arena scratch = o.scratch(layer::scratch_bytes<float>(bench::space(), shape));

  explicit batch(benchmark::State const& state) : shape{1, state.range(0)} { nn::initialise<layer>(w.data(), 1); }
  void forward() { layer::forward(bench::space(), w.data(), matrix_view<float const>(x), y, shape, activations, scratch); }
  void backward() { layer::backward(bench::space(), w.data(), g.data(), matrix_view<float const>(y), d_x, shape, activations, 1.0, scratch); }
  /// The operands that no layout avoids: the weights, x and y (backward: and gradients).
  bench::work cost(double passes) const {
    auto const t = static_cast<double>(shape.tokens());
    return {.items = t,
            .flops = passes * t * layer::flops_per_token(shape.length),
            .bytes = 4 * passes * (layer::parameter_count + 2 * t * layer::d_model)};
  }
};

void forward(benchmark::State& state) {
  batch b(state);
  bench::run(state, b.cost(1), [&] { b.forward(); });
}
void forward_and_backward(benchmark::State& state) {
  batch b(state);
  bench::run(state, b.cost(3), [&] { b.forward(), b.backward(); });
}
BENCHMARK(forward)->ArgName("T")->Arg(512)->Arg(4096)->UseRealTime();
BENCHMARK(forward_and_backward)->ArgName("T")->Arg(512)->Arg(4096)->UseRealTime();

}  // namespace
