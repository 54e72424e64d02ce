#include <bench/nn/norm_rows.hpp>
#include <moe/nn/rms_norm.hpp>

namespace {

using namespace moe;

void forward(benchmark::State& state) {
  bench::norm_rows r(state);
  bench::run(state, r.cost(4, 2), [&] { rms_norm(bench::space(), r.x, r.weight, 1e-5f, r.y, r.rstd); });
}
void backward(benchmark::State& state) {
  bench::norm_rows r(state);
  arena scratch = r.o.scratch(rms_norm_backward_scratch_bytes<float>(bench::space(), r.tokens, r.d));
  rms_norm(bench::space(), r.x, r.weight, 1e-5f, r.d_x, r.rstd);
  bench::run(state, r.cost(10, 3), [&] { rms_norm_backward(bench::space(), r.y, r.x, r.weight, r.rstd, r.d_x, r.d_weight, scratch); });
}
BENCHMARK(forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(backward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();

}  // namespace
