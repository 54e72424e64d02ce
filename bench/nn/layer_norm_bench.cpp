#include <bench/support.hpp>
#include <moe/nn/layer_norm.hpp>

namespace {

using namespace moe;

struct rows {
  index_t tokens, d = 512;
  bench::operands o{128};
  matrix_view<float> x = o.mat(tokens, d), y = o.mat(tokens, d), d_x = o.mat(tokens, d);
  vector_view<float> weight = o.vec(d), bias = o.vec(d), d_weight = o.vec(d), d_bias = o.vec(d), mean = o.vec(tokens), rstd = o.vec(tokens);
  arena scratch = o.scratch(layer_norm_backward_scratch_bytes<float>(bench::space(), tokens, d));

  explicit rows(benchmark::State const& state) : tokens(state.range(0)) {}
  bench::work cost(double flops, double matrices) const {
    auto const elements = static_cast<double>(tokens * d);
    return {.items = static_cast<double>(tokens), .flops = flops * elements, .bytes = 4 * matrices * elements};
  }
};

void forward(benchmark::State& state) {
  rows r(state);
  bench::run(state, r.cost(7, 2), [&] { layer_norm(bench::space(), r.x, r.weight, r.bias, 1e-5f, r.y, r.mean, r.rstd); });
}
void backward(benchmark::State& state) {
  rows r(state);
  layer_norm(bench::space(), r.x, r.weight, r.bias, 1e-5f, r.d_x, r.mean, r.rstd);
  bench::run(state, r.cost(14, 3),
             [&] { layer_norm_backward(bench::space(), r.y, r.x, r.weight, r.mean, r.rstd, r.d_x, r.d_weight, r.d_bias, r.scratch); });
}
BENCHMARK(forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(backward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();

}  // namespace
