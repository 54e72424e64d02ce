#include <bench/support.hpp>
#include <moe/nn/embedding.hpp>

namespace {

using namespace moe;

constexpr index_t vocab = 8192, d = 512, tokens = 4096;

struct text {
  bench::operands o{64};
  vector_view<int> token = o.ids(tokens, vocab);
  matrix_view<float> table = o.mat(vocab, d), y = o.mat(tokens, d);
  arena scratch = o.scratch(embedding_backward_scratch_bytes(bench::space(), tokens, vocab));
};

void forward(benchmark::State& state) {
  text t;
  bench::run(state, {.items = tokens, .bytes = 4.0 * tokens * d * 2}, [&] { embedding(bench::space(), t.token, t.table, t.y); });
}
void backward(benchmark::State& state) {
  text t;
  bench::run(state, {.items = tokens, .flops = 1.0 * tokens * d, .bytes = 4.0 * tokens * d * 3},
             [&] { embedding_backward(bench::space(), t.token, t.y, t.table, t.scratch); });
}
BENCHMARK(forward)->UseRealTime();
BENCHMARK(backward)->UseRealTime();

}  // namespace
