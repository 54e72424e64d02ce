#include <bench/support.hpp>
#include <moe/routing/dispatch.hpp>

namespace {

using namespace moe;

constexpr index_t k = 2, d = 512;

/// T tokens with two choices each of E experts, drawn at random.
struct routed {
  index_t tokens, experts;
  bench::operands o{128};
  matrix_view<float> x = o.mat(tokens, d), xs = o.mat(k * tokens, d), d_xs = o.mat(k * tokens, d), weight = o.mat(tokens, k),
                     d_weight = o.mat(tokens, k);
  matrix_view<int> expert{o.ids(k * tokens, experts).data(), tokens, k};
  dispatch_plan plan = dispatch_plan::take(o.memory(), tokens, k, experts);
  arena scratch = o.scratch(make_dispatch_scratch_bytes(bench::space(), tokens, experts));

  explicit routed(benchmark::State const& state) : tokens(state.range(0)), experts(state.range(1)) {
    for (index_t t = 0; t < tokens; ++t)
      if (expert(t, 0) == expert(t, 1)) expert(t, 1) = static_cast<int>((expert(t, 0) + 1) % experts);
    make_dispatch(bench::space(), expert, 0, plan, scratch);
  }
  bench::work cost(double rows_of_d, double integers, double flops = 0) const {
    auto const t = static_cast<double>(tokens);
    return {.items = t, .flops = flops * t * k * d, .bytes = 4 * t * (rows_of_d * d + integers * k)};
  }
};

void plan(benchmark::State& state) {
  routed r(state);
  bench::run(state, r.cost(0, 4), [&] { make_dispatch(bench::space(), r.expert, 0, r.plan, r.scratch); });
}
void forward(benchmark::State& state) {
  routed r(state);
  bench::run(state, r.cost(1 + k, 1), [&] { dispatch(bench::space(), r.x, r.plan, r.xs); });
}
void backward(benchmark::State& state) {
  routed r(state);
  bench::run(state, r.cost(1 + k, 1, 1), [&] { dispatch_backward(bench::space(), r.xs, r.plan, k, r.x); });
}
void combine_forward(benchmark::State& state) {
  routed r(state);
  bench::run(state, r.cost(1 + k, 2, 2), [&] { combine(bench::space(), r.xs, r.weight, r.plan, r.x); });
}
void combine_gradient(benchmark::State& state) {
  routed r(state);
  bench::run(state, r.cost(1 + 2 * k, 3, 3), [&] { combine_backward(bench::space(), r.x, r.xs, r.weight, r.plan, r.d_xs, r.d_weight); });
}
void shapes(benchmark::internal::Benchmark* b) { b->ArgNames({"T", "E"})->Args({512, 64})->Args({4096, 64})->UseRealTime(); }
BENCHMARK(plan)->Apply(shapes);
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);
BENCHMARK(combine_forward)->Apply(shapes);
BENCHMARK(combine_gradient)->Apply(shapes);

}  // namespace
