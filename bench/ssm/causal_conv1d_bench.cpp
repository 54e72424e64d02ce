#include <bench/support.hpp>
#include <moe/ssm/causal_conv1d.hpp>

namespace {

using namespace moe;
constexpr causal_conv1d_config config{};

/// Sequences of 2048 rows of 1024 channels.
template <class T>
struct sequences {
  index_t count, length = 2048, channels = 1024, tokens = count * length;
  bench::operands o{192 * static_cast<std::size_t>(count)};
  matrix_view<T> x = o.mat<T>(tokens, channels), y = o.mat<T>(tokens, channels), d_x = o.mat<T>(tokens, channels),
                 weight = o.mat<T>(channels, config.width);
  vector_view<T> bias = o.vec<T>(channels);
  matrix_view<accumulator<T>> d_weight = o.mat<accumulator<T>>(channels, config.width);
  vector_view<accumulator<T>> d_bias = o.vec<accumulator<T>>(channels);
  arena scratch = o.scratch(causal_conv1d_backward_scratch_bytes<config, T>(bench::space(), tokens, channels, count));

  explicit sequences(benchmark::State const& state) : count(state.range(0)) {}
  bench::work cost(double flops, double matrices) const {
    auto const elements = static_cast<double>(x.size());
    return {.items = elements, .flops = flops * elements, .bytes = sizeof(T) * matrices * elements};
  }
};
constexpr double exponential = 18;  // flops of the degree-6 polynomial and what is around it

template <class T>
void forward(benchmark::State& state) {
  sequences<T> s(state);
  bench::run(state, s.cost(2 * config.width + exponential + 4, 2),
             [&] { causal_conv1d<config, T>(bench::space(), s.x, s.weight, s.bias, equal_sequences(s.count, s.length), {}, s.y, {}); });
}
template <class T>
void gradient(benchmark::State& state) {
  sequences<T> s(state);
  bench::run(state, s.cost(6 * config.width + exponential + 10, 3), [&] {
    causal_conv1d_backward<config, T>(bench::space(), s.x, s.weight, s.bias, equal_sequences(s.count, s.length), {}, s.y, {}, s.d_x, s.d_weight,
                                      s.d_bias, {}, s.scratch);
  });
}
/// One row of each of `count` sequences, the state in place.
void decode(benchmark::State& state) {
  index_t const count = state.range(0), channels = 2048;
  bench::operands o{64};
  auto const x = o.mat(count, channels), y = o.mat(count, channels), weight = o.mat(channels, 4), states = o.mat(count * 3, channels);
  auto const bias = o.vec(channels);
  tensor<float, dyn, dyn, dyn> const inputs(states.data(), count, 3, channels);
  auto const elements = static_cast<double>(x.size());
  bench::run(state, {.items = elements, .flops = (2 * config.width + exponential + 4) * elements, .bytes = 32 * elements},
             [&] { causal_conv1d<config, float>(bench::space(), x, weight, bias, equal_sequences(count, 1), inputs, y, inputs); });
}
BENCHMARK(forward<float>)->ArgName("B")->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK(forward<bf16>)->ArgName("B")->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK(gradient<float>)->ArgName("B")->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK(gradient<bf16>)->ArgName("B")->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK(decode)->ArgName("B")->Arg(1)->Arg(64)->UseRealTime();

}  // namespace
