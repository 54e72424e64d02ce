#include <bench/support.hpp>
#include <moe/optim/clip.hpp>

namespace {

using namespace moe;

void norm(benchmark::State& state) {
  index_t const n = state.range(0);
  bench::operands o(std::size_t{1} + static_cast<std::size_t>(n >> 17));
  auto const g = o.vec(n);
  arena scratch = o.scratch(global_norm_scratch_bytes(bench::space(), n));
  auto const count = static_cast<double>(n);
  bench::run(state, {.items = count, .flops = 2 * count, .bytes = 4 * count},
             [&] { benchmark::DoNotOptimize(global_norm(bench::space(), g, scratch)); });
}
BENCHMARK(norm)->ArgName("n")->Arg(1 << 16)->Arg(1 << 22)->Arg(1 << 25)->UseRealTime();

}  // namespace
