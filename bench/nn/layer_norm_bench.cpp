#include <bench/nn/norm_rows.hpp>
#include <moe/nn/layer_norm.hpp>

namespace {

using namespace moe;

struct rows : bench::norm_rows {
  using norm_rows::norm_rows;
  vector_view<float> bias = o.vec(d), d_bias = o.vec(d), mean = o.vec(tokens);
};

void forward(benchmark::State& state) {
  rows r(state);
  bench::run(state, r.cost(7, 2), [&] { layer_norm(bench::space(), r.x, r.weight, r.bias, 1e-5f, r.y, r.mean, r.rstd); });
}
void backward(benchmark::State& state) {
  rows r(state);
  arena scratch = r.o.scratch(layer_norm_backward_scratch_bytes<float>(bench::space(), r.tokens, r.d));
  layer_norm(bench::space(), r.x, r.weight, r.bias, 1e-5f, r.d_x, r.mean, r.rstd);
  bench::run(state, r.cost(14, 3),
             [&] { layer_norm_backward(bench::space(), r.y, r.x, r.weight, r.mean, r.rstd, r.d_x, r.d_weight, r.d_bias, scratch); });
}
BENCHMARK(forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(backward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();

}  // namespace
