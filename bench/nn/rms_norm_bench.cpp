#include <bench/support.hpp>
#include <moe/nn/rms_norm.hpp>

namespace {

using namespace moe;

struct rows {
  index_t tokens, d = 512;
  bench::operands o{128};
  matrix_view<float> x = o.mat(tokens, d), y = o.mat(tokens, d), d_x = o.mat(tokens, d);
  vector_view<float> weight = o.vec(d), d_weight = o.vec(d), rstd = o.vec(tokens);
  arena scratch = o.scratch(rms_norm_backward_scratch_bytes<float>(bench::space(), tokens, d));

  explicit rows(benchmark::State const& state) : tokens(state.range(0)) {}
  bench::work cost(double flops, double matrices) const {
    auto const elements = static_cast<double>(tokens * d);
    return {.items = static_cast<double>(tokens), .flops = flops * elements, .bytes = 4 * matrices * elements};
  }
};

void forward(benchmark::State& state) {
  rows r(state);
  bench::run(state, r.cost(4, 2), [&] { rms_norm(bench::space(), r.x, r.weight, 1e-5f, r.y, r.rstd); });
}
void backward(benchmark::State& state) {
  rows r(state);
  rms_norm(bench::space(), r.x, r.weight, 1e-5f, r.d_x, r.rstd);
  bench::run(state, r.cost(10, 3), [&] { rms_norm_backward(bench::space(), r.y, r.x, r.weight, r.rstd, r.d_x, r.d_weight, r.scratch); });
}
BENCHMARK(forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(backward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();

}  // namespace
