#include <bench/cuda/bench.hpp>
#include <bench/cuda/experts.hpp>

#include <moe/gemm/gemm.cuh>

namespace {

using bench::bf16;

/// c = a b^T: a linear layer with its weight [out, in].
template <class T>
void forward(bench::run& r) {
  auto const m = r["m"], n = r["n"], k = r["k"];
  auto const a = r.mat<T>(m, k), b = r.mat<T>(n, k), c = r.empty<T>(m, n);
  auto scratch = r.scratch(moe::gemm_scratch_bytes<T>(r.space, m, n, k));
  auto const f = [&](moe::cuda const& s) { moe::gemm<moe::gemm_config{.transpose_b = true}>(s, a, b, c, scratch); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(m))
    for (auto const j : bench::some_rows(n)) e.add(r.host(c.row(i) + j, 1)[0], bench::dot(r.host_row(a, i), r.host_row(b, j)));
  r.check(e);
  r.time({.bytes = static_cast<double>(m * k + n * k + m * n) * sizeof(T), .flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k)}, f);
}

/// c = a^T b: its weight gradient, m x n outputs, sums over k rows.
template <class T>
void weight_gradient(bench::run& r) {
  auto const m = r["m"], n = r["n"], k = r["k"];
  auto const a = r.mat<T>(k, m), b = r.mat<T>(k, n);
  auto const c = r.empty<float>(m, n);
  auto scratch = r.scratch(moe::gemm_scratch_bytes<float>(r.space, m, n, k));
  auto const f = [&](moe::cuda const& s) { moe::gemm<moe::gemm_config{.transpose_a = true}>(s, a, b, c, scratch); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(m))
    for (auto const j : bench::some_rows(n)) e.add(r.host(c.row(i) + j, 1)[0], bench::dot(r.host_columns(a, i, i + 1), r.host_columns(b, j, j + 1)));
  r.check(e);
  r.time({.bytes = static_cast<double>(m * k + n * k) * sizeof(T) + 4.0 * static_cast<double>(m * n),
          .flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k)},
         f);
}

bench::group const cases([](bench::group& g) {
  for (auto const& shape : bench::dense_shapes) g.add<bf16>("gemm", shape, forward<bf16>), g.add<float>("gemm", shape, forward<float>);
  g.add<bf16>("gemm_weight_gradient", {{"m", 4096, 33}, {"n", 2048, 40}, {"k", 32768, 24}}, weight_gradient<bf16>);
});

}  // namespace
