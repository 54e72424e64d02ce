#include <bench/support.hpp>
#include <moe/attention/attention.hpp>

namespace {

using namespace moe;

constexpr attention_shape shape{.heads = 8, .kv_heads = 8, .d_head = 32};
constexpr index_t sequences = 8, width = shape.heads * shape.d_head;

/// Sequences of L tokens; q, k and v are columns of one matrix, as a layer has them.
struct sequences_of {
  index_t length, tokens = sequences * length;
  bench::operands o{256};
  matrix_view<float> qkv = o.mat(tokens, 3 * width), d_qkv = o.mat(tokens, 3 * width), out = o.mat(tokens, width), d_out = o.mat(tokens, width),
                     lse = o.mat(tokens, shape.heads);
  arena scratch = o.scratch(attention_scratch_bytes<shape, float>(bench::space(), tokens, length));

  explicit sequences_of(benchmark::State const& state) : length(state.range(0)) {}
  static matrix_view<float> part(matrix_view<float> m, index_t i) { return columns_of(m, i * width, (i + 1) * width); }
  void forward() { attention<shape>(bench::space(), part(qkv, 0), part(qkv, 1), part(qkv, 2), length, out, lse, scratch); }
  void backward() {
    attention_backward<shape>(bench::space(), part(qkv, 0), part(qkv, 1), part(qkv, 2), out, lse, d_out, length, part(d_qkv, 0), part(d_qkv, 1),
                              part(d_qkv, 2), scratch);
  }
  /// `products` of [L, L] below the diagonal and d_head; the exponentials are not counted.
  bench::work cost(double products, double matrices) const {
    auto const l = static_cast<double>(length), t = static_cast<double>(tokens);
    return {.items = t, .flops = products * t * (l + 1) * width, .bytes = 4 * t * width * matrices};
  }
};

void forward(benchmark::State& state) {
  sequences_of s(state);
  bench::run(state, s.cost(2, 4), [&] { s.forward(); });
}
void backward(benchmark::State& state) {
  sequences_of s(state);
  s.forward();
  bench::run(state, s.cost(5, 8), [&] { s.backward(); });
}
BENCHMARK(forward)->ArgName("L")->Arg(256)->Arg(1024)->UseRealTime();
BENCHMARK(backward)->ArgName("L")->Arg(256)->Arg(1024)->UseRealTime();

}  // namespace
