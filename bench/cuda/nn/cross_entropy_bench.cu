#include <bench/cuda/bench.hpp>

#include <algorithm>

#include <moe/nn/cross_entropy.cuh>

namespace {

/// Loss and all gradients; one row of d_x is compared with its reference.
template <class T>
void cross_entropy(bench::run& r) {
  auto const tokens = r["tokens"], d = r["d"], vocab = r["vocab"];
  auto const ids = r.ids(tokens, vocab);
  auto const target = r.device(ids);
  auto const x = r.mat<T>(tokens, d), w = r.mat<T>(vocab, d), d_x = r.empty<T>(tokens, d);
  auto const d_w = r.mat<moe::accumulator<T>>(vocab, d);
  auto const loss = moe::view<2>(r.empty<double>(1, 2).data(), 2);
  auto scratch = r.scratch(moe::cross_entropy_scratch_bytes<T>(r.space, tokens, d, vocab));
  auto const f = [&](moe::cuda const& s) { moe::cross_entropy<moe::cross_entropy_config{}, T>(s, x, w, target, 1.0f, loss, d_x, d_w, scratch); };
  r.first(f);
  auto const table = r.host(w.data(), w.size()), row = r.host_row(x, tokens / 2), got = r.host_row(d_x, tokens / 2);
  std::vector<double> p(static_cast<std::size_t>(vocab)), want(row.size());
  for (std::size_t v = 0; v < p.size(); ++v)
    for (std::size_t c = 0; c < row.size(); ++c) p[v] += row[c] * table[v * row.size() + c];
  double const top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& q : p) sum += q = std::exp(q - top);
  for (std::size_t v = 0; v < p.size(); ++v) {
    double const g = p[v] / sum - (static_cast<int>(v) == ids[static_cast<std::size_t>(tokens / 2)] ? 1 : 0);
    for (std::size_t c = 0; c < row.size(); ++c) want[c] += g * table[v * row.size() + c];
  }
  bench::error e;
  for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  r.check(e);
  r.time({.bytes = static_cast<double>(2 * x.size() + w.size()) * sizeof(T) + 2.0 * static_cast<double>(w.size()) * sizeof(moe::accumulator<T>),
          .flops = 6.0 * static_cast<double>(tokens) * static_cast<double>(vocab * d)},
         f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"tokens", 8192, 9}, {"d", 2048, 24}, {"vocab", 32768, 40}};
  g.add<bench::bf16>("cross_entropy", shape, cross_entropy<bench::bf16>);
  g.add<float>("cross_entropy", shape, cross_entropy<float>);
});

}  // namespace
