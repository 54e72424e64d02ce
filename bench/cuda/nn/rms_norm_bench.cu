#include <bench/cuda/bench.hpp>

#include <moe/nn/rms_norm.cuh>

namespace {

double rstd_of(std::vector<double> const& x, double eps) { return 1 / std::sqrt(bench::dot(x, x) / static_cast<double>(x.size()) + eps); }

template <class T>
void forward(bench::run& r) {
  auto const tokens = r["tokens"], d = r["d"];
  auto const x = r.mat<T>(tokens, d), y = r.empty<T>(tokens, d);
  auto const weight = r.vec<T>(d);
  auto const rstd = moe::vec(r.empty<float>(1, tokens).data(), tokens);
  auto const f = [&](moe::cuda const& s) { moe::rms_norm<T>(s, x, weight, 1e-5f, y, rstd); };
  r.first(f);
  bench::error e;
  auto const w = r.host(weight.data(), d);
  for (auto const t : bench::some_rows(tokens)) {
    auto const from = r.host_row(x, t), got = r.host_row(y, t);
    double const scale = rstd_of(from, 1e-5);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], from[c] * scale * w[c]);
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(x.size()) * sizeof(T)}, f);
}

template <class T>
void backward(bench::run& r) {
  auto const tokens = r["tokens"], d = r["d"];
  auto const x = r.mat<T>(tokens, d), d_y = r.mat<T>(tokens, d), d_x = r.empty<T>(tokens, d), y = r.empty<T>(tokens, d);
  auto const weight = r.vec<T>(d);
  auto const d_weight = r.vec<moe::accumulator<T>>(d);
  auto const rstd = moe::vec(r.empty<float>(1, tokens).data(), tokens);
  moe::rms_norm<T>(r.space, x, weight, 1e-5f, y, rstd);
  auto scratch = r.scratch(moe::rms_norm_backward_scratch_bytes<T>(r.space, tokens, d));
  auto const f = [&](moe::cuda const& s) { moe::rms_norm_backward<T>(s, d_y, x, weight, rstd, d_x, d_weight, scratch); };
  r.first(f);
  bench::error e;
  auto const w = r.host(weight.data(), d);
  for (auto const t : bench::some_rows(tokens)) {
    auto const from = r.host_row(x, t), g = r.host_row(d_y, t), got = r.host_row(d_x, t);
    double const scale = rstd_of(from, 1e-5);
    double mean = 0;
    for (std::size_t c = 0; c < got.size(); ++c) mean += w[c] * g[c] * from[c] * scale / static_cast<double>(d);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], scale * (w[c] * g[c] - from[c] * scale * mean));
  }
  r.check(e);
  r.time({.bytes = 3.0 * static_cast<double>(x.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  for (bench::index_t const d : {2048, 4096}) {
    std::vector<bench::extent> const shape{{"tokens", 32768, 9}, {"d", d, 40}};
    g.add<bench::bf16>("rms_norm", shape, forward<bench::bf16>);
    g.add<bench::bf16>("rms_norm_backward", shape, backward<bench::bf16>);
  }
  g.add<float>("rms_norm", {{"tokens", 32768, 9}, {"d", 2048, 40}}, forward<float>);
});

}  // namespace
