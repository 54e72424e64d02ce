#include <bench/cuda/bench.hpp>
#include <bench/cuda/experts.hpp>

#include <moe/gemm/grouped_gemm.cuh>

namespace {

using bench::bf16;
using bench::index_t;

/// y = x w^T over sorted rows, or over rows gathered by token.
template <class T, bool Gather, moe::matrix_unit Unit = moe::matrix_unit::automatic>
void forward(bench::run& r) {
  bench::expert_shape const shape(r);
  auto const x = r.mat<T>(Gather ? shape.tokens : shape.rows, shape.in), w = r.mat<T>(shape.experts * shape.out, shape.in);
  auto const y = r.empty<T>(shape.rows, shape.out);
  auto const offsets = r.device(shape.offsets);
  auto const gather = Gather ? r.device(shape.token) : bench::vector_view<int>();
  auto scratch = r.scratch(moe::grouped_gemm_scratch_bytes<T>(r.space, shape.experts, shape.out, shape.in));
  auto const weights = moe::view<bench::dyn, bench::dyn, bench::dyn>(w.data(), shape.experts, shape.out, shape.in);
  auto const f = [&](moe::cuda const& s) { moe::grouped_gemm<moe::grouped_gemm_config{.unit = Unit}>(s, x, offsets, weights, y, scratch, gather); };
  r.first(f);
  bench::check_grouped(r, shape, x, w, y, Gather ? shape.token : std::vector<int>());
  auto work = shape.forward_work(sizeof(T));
  if (Gather) work.bytes -= static_cast<double>((shape.rows - shape.tokens) * shape.in) * sizeof(T);
  r.time(work, f);
}

/// d_w = d_y^T x per expert, in float.
template <class T>
void weight_gradient(bench::run& r) {
  bench::expert_shape const shape(r);
  auto const d_y = r.mat<T>(shape.rows, shape.out), x = r.mat<T>(shape.rows, shape.in);
  auto const d_w = r.empty<float>(shape.experts * shape.out, shape.in);
  auto const offsets = r.device(shape.offsets);
  auto scratch = r.scratch(moe::grouped_gemm_weight_gradient_scratch_bytes<float>(r.space, shape.experts, shape.rows, shape.in));
  auto const gradients = moe::view<bench::dyn, bench::dyn, bench::dyn>(d_w.data(), shape.experts, shape.out, shape.in);
  auto const f = [&](moe::cuda const& s) { moe::grouped_gemm_weight_gradient(s, d_y, x, offsets, gradients, scratch); };
  r.first(f);
  bench::error e;
  for (auto const expert : bench::some_rows(shape.experts)) {
    auto const first = shape.offsets[static_cast<std::size_t>(expert)], last = shape.offsets[static_cast<std::size_t>(expert) + 1];
    if (first == last) continue;
    for (auto const o : bench::some_rows(shape.out))
      for (auto const i : bench::some_rows(shape.in))
        e.add(r.host(d_w.row(expert * shape.out + o) + i, 1)[0],
              bench::dot(r.host_columns(moe::rows_of(d_y, first, last), o, o + 1), r.host_columns(moe::rows_of(x, first, last), i, i + 1)));
  }
  r.check(e);
  r.time(
      {.bytes = static_cast<double>(shape.rows * (shape.in + shape.out)) * sizeof(T) + 4.0 * static_cast<double>(d_w.size()), .flops = shape.flops()},
      f);
}

bench::group const cases([](bench::group& g) {
  for (auto const& shape : bench::expert_shapes) {
    g.add<bf16>("grouped_gemm", shape, forward<bf16, false>);
    g.add<bf16>("grouped_gemm_wgmma", shape, forward<bf16, false, moe::matrix_unit::wgmma>);
    g.add<bf16>("grouped_gemm_gather", shape, forward<bf16, true>);
    g.add<bf16>("grouped_gemm_weight_gradient", shape, weight_gradient<bf16>);
  }
  g.add<float>("grouped_gemm", bench::expert_shapes[0], forward<float, false>);
});

}  // namespace
