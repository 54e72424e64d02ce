#include <bench/support.hpp>
#include <moe/optim/adamw.hpp>

namespace {

using namespace moe;

void step(benchmark::State& state) {
  index_t const n = state.range(0);
  bench::operands o(std::size_t{1} + static_cast<std::size_t>(n >> 16));
  auto const w = o.vec(n), m = o.vec(n), v = o.vec(n), g = o.vec(n);
  for (index_t i = 0; i < n; ++i) v(i) = v(i) < 0 ? -v(i) : v(i);
  index_t t = 0;
  auto const count = static_cast<double>(n);
  bench::run(state, {.items = count, .flops = 15 * count, .bytes = 28 * count}, [&] { adamw(bench::space(), w, m, v, g, 1e-3, 0.1, 1.0, ++t); });
}
BENCHMARK(step)->ArgName("n")->Arg(1 << 16)->Arg(1 << 22)->Arg(1 << 24)->UseRealTime();

}  // namespace
