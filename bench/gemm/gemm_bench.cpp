#include <bench/support.hpp>
#include <moe/gemm/gemm.hpp>

namespace {

using namespace moe;

/// c[m, n] = a[m, k] b[n, k]^T, the product of a layer's forward pass.
template <class T>
void product(benchmark::State& state) {
  index_t const m = state.range(0), n = state.range(1), k = state.range(2);
  bench::operands o(192);
  auto const a = o.mat<T>(m, k), b = o.mat<T>(n, k), c = o.mat<T>(m, n);
  arena scratch = o.scratch(gemm_scratch_bytes<T>(bench::space(), m, n, k));
  auto const size = [](index_t x, index_t y) { return static_cast<double>(x * y); };
  bench::run(state,
             {.items = static_cast<double>(m),
              .flops = 2 * size(m, n) * static_cast<double>(k),
              .bytes = sizeof(T) * (size(m, k) + size(n, k) + size(m, n))},
             [&] { gemm<gemm_config{.transpose_b = true}>(bench::space(), a, b, c, scratch); });
}
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"m", "n", "k"})->UseRealTime();
  b->Args({512, 512, 512})->Args({2048, 2048, 2048})->Args({4096, 512, 2048})->Args({4096, 2048, 512})->Args({8, 2048, 512})->Args({2048, 8192, 256});
}
BENCHMARK(product<float>)->Apply(shapes);
BENCHMARK(product<bf16>)->Apply(shapes);  // its limit is the float peak: products are formed in float

}  // namespace
