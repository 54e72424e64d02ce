#include <bench/cuda/bench.hpp>

#include <algorithm>
#include <numeric>

#include <moe/routing/topk.cuh>

namespace {

template <int K>
void topk(bench::run& r) {
  auto const tokens = r["tokens"], experts = r["experts"];
  auto const logits = r.mat<float>(tokens, experts);
  auto const weight = moe::view<bench::dyn, K>(r.empty<float>(tokens, K).data(), tokens, K);
  auto const expert = moe::view<bench::dyn, K>(r.empty<int>(tokens, K).data(), tokens, K);
  auto const f = [&](moe::cuda const& s) { moe::topk<moe::topk_config{.k = K}>(s, logits, weight, expert); };
  r.first(f);
  bench::error e;
  for (auto const t : bench::some_rows(tokens)) {
    auto const x = r.host_row(logits, t), w = r.host_row(weight, t), chosen = r.host_row(expert, t);
    std::vector<std::size_t> order(x.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
    double sum = 0;
    for (std::size_t j = 0; j < K; ++j) sum += std::exp(x[order[j]] - x[order[0]]);
    for (std::size_t j = 0; j < K; ++j) {
      e.add(w[j], std::exp(x[order[j]] - x[order[0]]) / sum);
      if (chosen[j] != static_cast<double>(order[j])) e.add(INFINITY, 0);
    }
  }
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(tokens) * static_cast<double>(experts + 2 * K)}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<float>("topk", {{"tokens", 32768, 9}, {"experts", 128, 16}, {"k", 8, 8}}, topk<8>);
  g.add<float>("topk", {{"tokens", 32768, 9}, {"experts", 512, 16}, {"k", 8, 8}}, topk<8>);
  g.add<float>("topk", {{"tokens", 40960, 9}, {"experts", 32, 16}, {"k", 2, 2}}, topk<2>);
});

}  // namespace
