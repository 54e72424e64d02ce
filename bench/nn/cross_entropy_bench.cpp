#include <bench/support.hpp>
#include <moe/nn/cross_entropy.hpp>

namespace {

using namespace moe;

constexpr index_t vocab = 8192, d = 256, tokens = 2048;
constexpr cross_entropy_config mean{.mean = true};
constexpr double product = 2.0 * vocab * d * tokens, operands_bytes = 4.0 * (vocab + tokens) * d;

struct text {
  bench::operands o{256};
  vector_view<int> target = o.ids(tokens, vocab);
  matrix_view<float> w = o.mat(vocab, d), d_w = o.mat(vocab, d), x = o.mat(tokens, d), d_x = o.mat(tokens, d);
  tensor<double, 2> loss = o.vec<double>(2);
  arena scratch = o.scratch(cross_entropy_scratch_bytes<float>(bench::space(), tokens, d, vocab));
};

void loss(benchmark::State& state) {
  text t;
  bench::run(state, {.items = tokens, .flops = product, .bytes = operands_bytes},
             [&] { cross_entropy_loss(bench::space(), t.x, t.w, t.target, t.loss, t.scratch); });
}
void loss_and_gradient(benchmark::State& state) {
  text t;
  bench::run(state, {.items = tokens, .flops = 3 * product, .bytes = 3 * operands_bytes},
             [&] { cross_entropy<mean>(bench::space(), t.x, t.w, t.target, 1.0f, t.loss, t.d_x, t.d_w, t.scratch); });
}
BENCHMARK(loss)->UseRealTime();
BENCHMARK(loss_and_gradient)->UseRealTime();

}  // namespace
