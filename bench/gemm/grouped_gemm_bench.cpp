#include <bench/support.hpp>
#include <moe/gemm/grouped_gemm.hpp>

namespace {

using namespace moe;

constexpr index_t d = 512, k = 2;

/// 2T rows of width d for E experts [d, d]; which expert a row belongs to is drawn at random.
struct experts {
  index_t rows, count;
  bench::operands o{384};
  vector_view<index_t> offsets = o.memory().vec<index_t>(count + 1);
  matrix_view<float> x = o.mat(rows, d), y = o.mat(rows, d), matrices = o.mat(count * d, d);
  tensor<float, dyn, dyn, dyn> w{matrices.data(), count, d, d};

  explicit experts(benchmark::State const& state) : rows(k * state.range(0)), count(state.range(1)) {
    std::fill_n(offsets.data(), count + 1, index_t{0});
    auto const choice = o.ids(rows, count);
    for (index_t r = 0; r < rows; ++r) ++offsets(choice(r) + 1);
    for (index_t e = 0; e < count; ++e) offsets(e + 1) += offsets(e);
  }
  bench::work cost() const {
    auto const r = static_cast<double>(rows), e = static_cast<double>(count);
    return {.items = r / k, .flops = 2 * r * d * d, .bytes = 4 * (2 * r * d + e * d * d)};
  }
};

void forward(benchmark::State& state) {
  experts b(state);
  arena scratch = b.o.scratch(grouped_gemm_scratch_bytes<float>(bench::space(), b.count, d, d));
  bench::run(state, b.cost(), [&] { grouped_gemm(bench::space(), b.x, b.offsets, b.w, b.y, scratch); });
}
void input_gradient(benchmark::State& state) {
  experts b(state);
  arena scratch = b.o.scratch(grouped_gemm_scratch_bytes<float>(bench::space(), b.count, d, d));
  bench::run(state, b.cost(), [&] { grouped_gemm<grouped_gemm_config{.transpose_w = false}>(bench::space(), b.y, b.offsets, b.w, b.x, scratch); });
}
void weight_gradient(benchmark::State& state) {
  experts b(state);
  arena scratch = b.o.scratch(grouped_gemm_weight_gradient_scratch_bytes<float>(bench::space(), b.count, b.rows, d));
  bench::run(state, b.cost(), [&] { grouped_gemm_weight_gradient(bench::space(), b.y, b.x, b.offsets, b.w, scratch); });
}
void shapes(benchmark::internal::Benchmark* b) { b->ArgNames({"T", "E"})->ArgsProduct({{512, 4096}, {8, 64}})->UseRealTime(); }
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(input_gradient)->Apply(shapes);
BENCHMARK(weight_gradient)->Apply(shapes);

}  // namespace
