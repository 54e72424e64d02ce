#include <bench/support.hpp>
#include <moe/routing/topk.hpp>

namespace {

using namespace moe;

struct choice {
  index_t tokens = 4096, experts;
  bench::operands o{16};
  matrix_view<float> logits = o.mat(tokens, experts), d_logits = o.mat(tokens, experts);
  tensor<float, dyn, 2> weight = o.mat<2>(tokens), d_weight = o.mat<2>(tokens);
  tensor<int, dyn, 2> expert = o.memory().mat<int, 2>(tokens);

  explicit choice(benchmark::State const& state) : experts(state.range(0)) { topk<topk_config{}, float>(bench::space(), logits, weight, expert); }
  bench::work cost(double matrices, double per_choice) const {
    auto const t = static_cast<double>(tokens), e = static_cast<double>(experts);
    return {.items = t, .bytes = 4 * t * (matrices * e + per_choice * 2)};
  }
};

void forward(benchmark::State& state) {
  choice c(state);
  bench::run(state, c.cost(1, 2), [&] { topk<topk_config{}, float>(bench::space(), c.logits, c.weight, c.expert); });
}
void backward(benchmark::State& state) {
  choice c(state);
  bench::run(state, c.cost(1, 3), [&] {  // renormalised, it does not read the logits
    topk_backward<topk_config{}, float>(bench::space(), c.logits, c.weight, c.expert, c.d_weight, c.d_logits);
  });
}
BENCHMARK(forward)->ArgName("E")->Arg(8)->Arg(64)->Arg(256)->UseRealTime();
BENCHMARK(backward)->ArgName("E")->Arg(8)->Arg(64)->Arg(256)->UseRealTime();

}  // namespace
