#include <bench/support.hpp>
#include <moe/routing/expert_choice.hpp>

namespace {

using namespace moe;

/// 4096 tokens with two experts on average: one pool of them all, or pools of `size`.
template <index_t E>
struct election {
  static constexpr index_t tokens = 4096;
  bench::operands o{16};
  matrix_view<float> logits = o.mat(tokens, E), d_weight = o.mat(tokens, E), d_logits = o.mat(tokens, E);
  tensor<float, dyn, E> weight = o.mat<E>(tokens);
  tensor<int, dyn, E> expert = o.memory().mat<int, E>(tokens);
  token_groups pools;
  index_t capacity;
  arena scratch;

  explicit election(index_t size)
      : pools(size == tokens ? one_group(tokens) : groups_of({size, tokens / size}, size)), capacity(std::max<index_t>(1, 2 * size / E)),
        scratch(o.scratch(expert_choice_scratch_bytes<float, E>(bench::space(), pools))) {
    run();
  }
  void run() { expert_choice<float, E>(bench::space(), logits, pools, capacity, weight, expert, scratch); }
  bench::work cost(double matrices) const { return {.items = tokens, .bytes = 4.0 * tokens * E * matrices}; }
};

template <index_t E>
void forward(benchmark::State& state) {
  election<E> c(state.range(0));
  bench::run(state, c.cost(3), [&] { c.run(); });
}
template <index_t E>
void backward(benchmark::State& state) {
  election<E> c(state.range(0));
  bench::run(state, c.cost(4), [&] { expert_choice_backward<float, E>(bench::space(), c.logits, c.expert, c.d_weight, c.d_logits); });
}
BENCHMARK(forward<8>)->ArgName("pool")->Arg(32)->Arg(4096)->UseRealTime();
BENCHMARK(forward<64>)->ArgName("pool")->Arg(8)->Arg(32)->Arg(64)->Arg(256)->Arg(4096)->UseRealTime();
BENCHMARK(backward<64>)->ArgName("pool")->Arg(4096)->UseRealTime();

}  // namespace
