#include <bench/support.hpp>
#include <moe/routing/biased_topk.hpp>

namespace {

using namespace moe;

constexpr biased_topk_config sigmoid_k2{.k = 2}, sigmoid_k8{.k = 8}, groups_k8{.k = 8, .groups = 8, .kept_groups = 4},
    softmax_k2{.k = 2, .score = score_function::softmax};

template <biased_topk_config C>
struct choice {
  index_t tokens = 4096, experts;
  bench::operands o{32};
  matrix_view<float> logits = o.mat(tokens, experts), d_logits = o.mat(tokens, experts);
  vector_view<float> bias = o.vec(experts);
  tensor<float, dyn, C.k> weight = o.mat<C.k>(tokens), d_weight = o.mat<C.k>(tokens);
  tensor<int, dyn, C.k> expert = o.memory().mat<int, C.k>(tokens);

  explicit choice(benchmark::State const& state) : experts(state.range(0)) { run(); }
  void run() { biased_topk<C, float>(bench::space(), logits, bias, weight, expert); }
  bench::work cost(double per_choice) const {
    auto const t = static_cast<double>(tokens), e = static_cast<double>(experts);
    return {.items = t, .bytes = 4 * t * (e + per_choice * C.k)};
  }
};

template <biased_topk_config C>
void forward(benchmark::State& state) {
  choice<C> c(state);
  bench::run(state, c.cost(2), [&] { c.run(); });
}
void backward(benchmark::State& state) {
  choice<sigmoid_k2> c(state);
  bench::run(state, c.cost(4), [&] {  // it reads the logits of the choices alone
    biased_topk_backward<sigmoid_k2, float>(bench::space(), c.logits, c.weight, c.expert, c.d_weight, c.d_logits);
  });
}
BENCHMARK(forward<sigmoid_k2>)->Name("sigmoid_k2")->ArgName("E")->Arg(8)->Arg(64)->Arg(256)->UseRealTime();
BENCHMARK(forward<sigmoid_k8>)->Name("sigmoid_k8")->ArgName("E")->Arg(64)->Arg(256)->UseRealTime();
BENCHMARK(forward<groups_k8>)->Name("groups_k8")->ArgName("E")->Arg(64)->Arg(256)->UseRealTime();
BENCHMARK(forward<softmax_k2>)->Name("softmax_k2")->ArgName("E")->Arg(64)->UseRealTime();
BENCHMARK(backward)->ArgName("E")->Arg(8)->Arg(64)->Arg(256)->UseRealTime();

}  // namespace
