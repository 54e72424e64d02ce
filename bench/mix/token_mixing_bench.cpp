#include <bench/support.hpp>
#include <moe/mix/token_mixing.hpp>

namespace {

using namespace moe;

constexpr index_t tokens = 4096, d = 512;

/// Groups of g tokens, E experts; the tokens of a group lie a sequence apart.
template <class T>
struct mixed_tokens {
  using A = accumulator<T>;
  index_t size, experts;
  token_groups groups = groups_of({size, tokens / size}, size);
  bench::operands o{256};
  matrix_view<T> x = o.mat<T>(tokens, d), y = o.mat<T>(tokens, d), mixed = o.mat<T>(experts * groups.count(), d);
  matrix_view<A> logits = o.mat<A>(tokens, experts), weight = o.mat<A>(tokens, experts), d_weight = o.mat<A>(tokens, experts);

  explicit mixed_tokens(benchmark::State const& state) : size(state.range(0)), experts(state.range(1)) {}
  /// What every token times every expert of it takes, and rows and mixed tokens once each.
  bench::work product() const {
    double const pairs = static_cast<double>(tokens * experts), rows = static_cast<double>((x.size() + mixed.size()) * index_t{sizeof(T)});
    return {.items = static_cast<double>(tokens), .flops = 2 * pairs * d, .bytes = rows + sizeof(A) * pairs};
  }
  bench::work elements(double each) const {
    double const pairs = static_cast<double>(tokens * experts);
    return {.items = static_cast<double>(tokens), .flops = 0, .bytes = each * sizeof(A) * pairs};
  }
};

void softmax(benchmark::State& state) {
  mixed_tokens<float> m(state);
  bench::run(state, m.elements(2), [&] { group_softmax(bench::space(), m.logits, m.groups, 1, m.weight); });
}
void softmax_gradient(benchmark::State& state) {
  mixed_tokens<float> m(state);
  bench::run(state, m.elements(3), [&] { group_softmax_backward(bench::space(), m.weight, m.d_weight, m.groups, 1, m.logits); });
}
template <class T>
void mix(benchmark::State& state) {
  mixed_tokens<T> m(state);
  bench::run(state, m.product(), [&] { mix_tokens<T>(bench::space(), m.x, m.weight, m.groups, m.mixed); });
}
template <class T>
void redistribute(benchmark::State& state) {
  mixed_tokens<T> m(state);
  bench::run(state, m.product(), [&] { redistribute_tokens<T>(bench::space(), m.mixed, m.weight, m.groups, m.y); });
}
template <class T>
void weight_gradient(benchmark::State& state) {
  mixed_tokens<T> m(state);
  bench::run(state, m.product(), [&] { mixing_weight_gradient(bench::space(), m.x, m.mixed, m.groups, m.d_weight); });
}
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"g", "E"})->Args({8, 8})->Args({8, 32})->Args({32, 32})->Args({32, 256})->Args({64, 64})->UseRealTime();
}
BENCHMARK(softmax)->Apply(shapes);
BENCHMARK(softmax_gradient)->Apply(shapes);
BENCHMARK(mix<float>)->Apply(shapes);
BENCHMARK(mix<bf16>)->Apply(shapes);
BENCHMARK(redistribute<float>)->Apply(shapes);
BENCHMARK(redistribute<bf16>)->Apply(shapes);
BENCHMARK(weight_gradient<float>)->Apply(shapes);
BENCHMARK(weight_gradient<bf16>)->Apply(shapes);

}  // namespace
