#include <bench/support.hpp>
#include <moe/routing/balance.hpp>

namespace {

using namespace moe;

struct load {
  index_t tokens = 4096, experts;
  bench::operands o{16};
  matrix_view<float> logits = o.mat(tokens, experts), d_logits = o.mat(tokens, experts);
  vector_view<index_t> counts = o.memory().vec<index_t>(experts);
  arena scratch = o.scratch(std::max(balance_losses_scratch_bytes<float>(bench::space(), tokens, experts), balance_losses_backward_scratch_bytes<float>(bench::space(), experts)));

  explicit load(benchmark::State const& state) : experts(state.range(0)) { std::fill_n(counts.data(), experts, 2 * tokens / experts); }
  bench::work cost(double matrices) const {
    auto const t = static_cast<double>(tokens), e = static_cast<double>(experts);
    return {.items = t, .bytes = 4 * t * e * matrices};
  }
};

void forward(benchmark::State& state) {
  load b(state);
  double losses[3];
  bench::run(state, b.cost(1), [&] {
    balance_losses<float>(bench::space(), b.logits, b.counts, 2, {}, view<3>(losses, 3), b.scratch);
    benchmark::DoNotOptimize(losses);
  });
}
void backward(benchmark::State& state) {
  load b(state);
  bench::run(state, b.cost(3), [&] { balance_losses_backward(bench::space(), b.logits, b.counts, 2, {}, 1.0f, b.d_logits, b.scratch); });
}
BENCHMARK(forward)->ArgName("E")->Arg(8)->Arg(64)->UseRealTime();
BENCHMARK(backward)->ArgName("E")->Arg(8)->Arg(64)->UseRealTime();

}  // namespace
