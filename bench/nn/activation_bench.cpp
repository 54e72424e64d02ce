#include <bench/support.hpp>
#include <moe/nn/activation.hpp>

namespace {

using namespace moe;

struct units {
  index_t rows, width = 512;
  bench::operands o{128};
  matrix_view<float> gate = o.mat(rows, width), up = o.mat(rows, width), h = o.mat(rows, width), d_gate = o.mat(rows, width),
                     d_up = o.mat(rows, width);

  explicit units(benchmark::State const& state) : rows(state.range(0)) {}
  bench::work cost(double flops, double matrices) const {
    auto const elements = static_cast<double>(rows * width);
    return {.items = elements, .flops = flops * elements, .bytes = 4 * matrices * elements};
  }
};
constexpr double exponential = 18;  // flops of the degree-6 polynomial and what is around it

void swiglu_forward(benchmark::State& state) {
  units u(state);
  bench::run(state, u.cost(exponential + 4, 3), [&] { swiglu(bench::space(), u.gate, u.up, u.h); });
}
void swiglu_gradient(benchmark::State& state) {
  units u(state);
  bench::run(state, u.cost(exponential + 9, 5), [&] { swiglu_backward(bench::space(), u.gate, u.up, u.h, u.d_gate, u.d_up); });
}
void gelu_forward(benchmark::State& state) {
  units u(state);
  bench::run(state, u.cost(exponential + 7, 2), [&] { gelu(bench::space(), u.gate, u.h); });
}
void gelu_gradient(benchmark::State& state) {
  units u(state);
  bench::run(state, u.cost(exponential + 13, 3), [&] { gelu_backward(bench::space(), u.gate, u.h, u.d_gate); });
}
BENCHMARK(swiglu_forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(swiglu_gradient)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(gelu_forward)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();
BENCHMARK(gelu_gradient)->ArgName("T")->Arg(512)->Arg(8192)->UseRealTime();

}  // namespace
