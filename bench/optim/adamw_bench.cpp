#include <bench/support.hpp>
#include <moe/optim/adamw.hpp>

namespace {

using namespace moe;

struct parameters {
  index_t n;
  bench::operands o;
  vector_view<float> w = o.vec(n), m = o.vec(n), v = o.vec(n), g = o.vec(n);
  vector_view<bf16> rounded = o.vec<bf16>(n);
  explicit parameters(benchmark::State const& state) : n(state.range(0)), o(std::size_t{1} + static_cast<std::size_t>(n * 5 >> 18)) {
    for (index_t i = 0; i < n; ++i) v(i) = v(i) < 0 ? -v(i) : v(i);
  }
  /// For that many bytes per parameter.
  void run(benchmark::State& state, double bytes, adamw_outputs<float> const& also) {
    index_t t = 0;
    auto const count = static_cast<double>(n);
    bench::run(state, {.items = count, .flops = 15 * count, .bytes = bytes * count},
               [&] { adamw(bench::space(), w, m, v, g, 1e-3, 0.1, 1.0, ++t, {}, also); });
  }
};

void step(benchmark::State& state) { parameters(state).run(state, 28, {}); }
/// What a training step with weights rounded to bf16 needs, in one pass.
void step_zero_and_round(benchmark::State& state) {
  parameters p(state);
  p.run(state, 34, {.zeroed = p.g, .rounded = p.rounded, .layout = bf16_layout::row_pairs});
}
BENCHMARK(step)->ArgName("n")->Arg(1 << 16)->Arg(1 << 22)->Arg(1 << 24)->UseRealTime();
BENCHMARK(step_zero_and_round)->ArgName("n")->Arg(1 << 16)->Arg(1 << 22)->Arg(1 << 24)->UseRealTime();

}  // namespace
