#include <bench/cuda/bench.hpp>

#include <numeric>

#include <moe/nn/layer_norm.cuh>

namespace {

/// (x - mean) / sqrt(variance + eps), and the reciprocal of that root.
struct normalised {
  std::vector<double> unit;
  double rstd;
  explicit normalised(std::vector<double> const& x) : unit(x) {
    double const n = static_cast<double>(x.size()), mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    for (double& u : unit) u -= mean;
    rstd = 1 / std::sqrt(bench::dot(unit, unit) / n + 1e-5);
    for (double& u : unit) u *= rstd;
  }
};

template <class T>
void forward(bench::run& r) {
  auto const tokens = r["tokens"], d = r["d"];
  auto const x = r.mat<T>(tokens, d), y = r.empty<T>(tokens, d);
  auto const weight = r.vec<T>(d), bias = r.vec<T>(d);
  auto const moments = r.empty<float>(2, tokens);
  auto const mean = moe::vec(moments.row(0), tokens), rstd = moe::vec(moments.row(1), tokens);
  auto const f = [&](moe::cuda const& s) { moe::layer_norm<T>(s, x, weight, bias, 1e-5f, y, mean, rstd); };
  r.first(f);
  bench::error e;
  auto const w = r.host(weight.data(), d), b = r.host(bias.data(), d);
  for (auto const t : bench::some_rows(tokens)) {
    normalised const n(r.host_row(x, t));
    auto const got = r.host_row(y, t);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], n.unit[c] * w[c] + b[c]);
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(x.size()) * sizeof(T)}, f);
}

template <class T>
void backward(bench::run& r) {
  auto const tokens = r["tokens"], d = r["d"];
  auto const x = r.mat<T>(tokens, d), d_y = r.mat<T>(tokens, d), d_x = r.empty<T>(tokens, d), y = r.empty<T>(tokens, d);
  auto const weight = r.vec<T>(d), bias = r.vec<T>(d);
  auto const d_weight = r.vec<moe::accumulator<T>>(d), d_bias = r.vec<moe::accumulator<T>>(d);
  auto const moments = r.empty<float>(2, tokens);
  auto const mean = moe::vec(moments.row(0), tokens), rstd = moe::vec(moments.row(1), tokens);
  moe::layer_norm<T>(r.space, x, weight, bias, 1e-5f, y, mean, rstd);
  auto scratch = r.scratch(moe::layer_norm_backward_scratch_bytes<T>(r.space, tokens, d));
  auto const f = [&](moe::cuda const& s) { moe::layer_norm_backward<T>(s, d_y, x, weight, mean, rstd, d_x, d_weight, d_bias, scratch); };
  r.first(f);
  bench::error e;
  auto const w = r.host(weight.data(), d);
  for (auto const t : bench::some_rows(tokens)) {
    normalised const n(r.host_row(x, t));
    auto const dy = r.host_row(d_y, t), got = r.host_row(d_x, t);
    double mean_g = 0, mean_gu = 0;
    for (std::size_t c = 0; c < got.size(); ++c) {
      mean_g += w[c] * dy[c] / static_cast<double>(d);
      mean_gu += w[c] * dy[c] * n.unit[c] / static_cast<double>(d);
    }
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], n.rstd * (w[c] * dy[c] - mean_g - n.unit[c] * mean_gu));
  }
  r.check(e);
  r.time({.bytes = 3.0 * static_cast<double>(x.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"tokens", 32768, 9}, {"d", 4096, 40}};
  g.add<bench::bf16>("layer_norm", shape, forward<bench::bf16>);
  g.add<bench::bf16>("layer_norm_backward", shape, backward<bench::bf16>);
});

}  // namespace
