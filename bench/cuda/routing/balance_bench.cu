#include <bench/cuda/bench.hpp>

#include <algorithm>

#include <moe/routing/balance.cuh>

namespace {

using bench::index_t;

/// Softmax of a row and its logsumexp, in double.
struct softmax {
  std::vector<double> p;
  double lse;
  explicit softmax(double const* x, std::size_t n) : p(x, x + n) {
    double const top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& v : p) sum += v = std::exp(v - top);
    for (double& v : p) v /= sum;
    lse = top + std::log(sum);
  }
};

struct router_state {
  index_t tokens, experts, k;
  bench::matrix_view<float> logits;
  std::vector<index_t> counts;
  bench::vector_view<index_t> device_counts;
  explicit router_state(bench::run& r)
      : tokens(r["tokens"]), experts(r["experts"]), k(r["k"]), logits(r.mat<float>(tokens, experts)), counts(static_cast<std::size_t>(experts)) {
    for (int const e : r.ids(tokens * k, experts)) ++counts[static_cast<std::size_t>(e)];
    device_counts = r.device(counts);
  }
};

void losses(bench::run& r) {
  router_state const s(r);
  moe::balance_config const config;
  auto const result = moe::view<3>(r.empty<double>(1, 3).data(), 3);
  auto scratch = r.scratch(moe::balance_losses_scratch_bytes<float>(r.space, s.tokens, s.experts));
  auto const f = [&](moe::cuda const& space) {
    moe::balance_losses<float>(space, s.logits, s.device_counts, static_cast<int>(s.k), config, result, scratch);
  };
  r.first(f);
  auto const x = r.host(s.logits.data(), s.logits.size());
  double balance = 0, z = 0, entropy = 0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(s.tokens); ++t) {
    softmax const row(x.data() + t * s.counts.size(), s.counts.size());
    for (std::size_t e = 0; e < s.counts.size(); ++e) balance += static_cast<double>(s.counts[e]) * row.p[e];
    z += row.lse * row.lse;
    for (double const p : row.p) entropy -= p > 0 ? p * std::log(p) : 0;
  }
  double const n = static_cast<double>(s.tokens);
  auto const got = r.host(result.data(), 3);
  bench::error e;
  e.add(got[0], config.balance * static_cast<double>(s.experts) / (static_cast<double>(s.k) * n * n) * balance);
  e.add(got[1], config.z / n * z);
  e.add(got[2], entropy / n);
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(s.logits.size())}, f);
}

void backward(bench::run& r) {
  router_state const s(r);
  moe::balance_config const config;
  auto const d_logits = r.mat<float>(s.tokens, s.experts);
  auto scratch = r.scratch(moe::balance_losses_backward_scratch_bytes<float>(r.space, s.experts));
  auto const f = [&](moe::cuda const& space) {
    moe::balance_losses_backward<float>(space, s.logits, s.device_counts, static_cast<int>(s.k), config, 1000.0f, d_logits, scratch);
  };
  std::vector<std::vector<double>> before;
  for (auto const t : bench::some_rows(s.tokens)) before.push_back(r.host_row(d_logits, t));
  r.first(f);
  bench::error e;
  double const n = static_cast<double>(s.tokens);
  double const a = config.balance * static_cast<double>(s.experts) / (static_cast<double>(s.k) * n * n), b = 2 * config.z / n;
  for (std::size_t j = 0; auto const t : bench::some_rows(s.tokens)) {
    auto const x = r.host_row(s.logits, t), got = r.host_row(d_logits, t);
    softmax const row(x.data(), x.size());
    double mean = 0;
    for (std::size_t i = 0; i < x.size(); ++i) mean += row.p[i] * static_cast<double>(s.counts[i]);
    for (std::size_t i = 0; i < x.size(); ++i)
      e.add(got[i], before[j][i] + 1000 * row.p[i] * (a * (static_cast<double>(s.counts[i]) - mean) + b * row.lse));
    ++j;
  }
  r.check(e);
  r.time({.bytes = 12.0 * static_cast<double>(s.logits.size())}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"tokens", 32768, 9}, {"experts", 128, 8}, {"k", 8, 2}};
  g.add<float>("balance_losses", shape, losses);
  g.add<float>("balance_losses_backward", shape, backward);
});

}  // namespace
