#include <bench/cuda/bench.hpp>

#include <algorithm>

#include <moe/routing/biased_topk.cuh>

namespace {

template <int K, int Groups, int Kept>
void biased_topk(bench::run& r) {
  auto const tokens = r["tokens"], experts = r["experts"];
  auto const logits = r.mat<float>(tokens, experts);
  auto const bias = r.mat<float>(1, experts);
  auto const weight = moe::view<bench::dyn, K>(r.empty<float>(tokens, K).data(), tokens, K);
  auto const expert = moe::view<bench::dyn, K>(r.empty<int>(tokens, K).data(), tokens, K);
  auto const f = [&](moe::cuda const& s) {
    moe::biased_topk<moe::biased_topk_config{.k = K, .groups = Groups, .kept_groups = Kept}, float>(s, logits, moe::vec(bias.data(), experts), weight,
                                                                                                    expert);
  };
  r.first(f);
  bench::error e;
  auto const b = r.host_row(bias, 0);
  for (auto const t : bench::some_rows(tokens)) {
    auto const x = r.host_row(logits, t), w = r.host_row(weight, t), chosen = r.host_row(expert, t);
    auto const score = [&](double id) { return 1 / (1 + std::exp(-x[static_cast<std::size_t>(id)])); };
    double sum = 0, last = INFINITY;
    for (double const id : chosen) {
      double const candidate = score(id) + b[static_cast<std::size_t>(id)];
      if (candidate > last + 1e-6) e.add(INFINITY, 0);  // best first
      last = candidate, sum += score(id);
    }
    for (std::size_t j = 0; j < K; ++j) e.add(w[j], score(chosen[j]) / sum);
    for (std::size_t id = 0; Groups == 1 && id < x.size(); ++id)  // none that was left out is better
      if (std::find(chosen.begin(), chosen.end(), static_cast<double>(id)) == chosen.end() && score(static_cast<double>(id)) + b[id] > last + 1e-6)
        e.add(INFINITY, 0);
  }
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(tokens) * static_cast<double>(experts + 2 * K)}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<float>("biased_topk", {{"tokens", 32768, 9}, {"experts", 128, 16}, {"k", 8, 8}}, biased_topk<8, 1, 1>);
  g.add<float>("biased_topk_groups", {{"tokens", 32768, 9}, {"experts", 256, 16}, {"k", 8, 8}}, biased_topk<8, 8, 4>);
});

}  // namespace
