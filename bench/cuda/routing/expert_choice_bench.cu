#include <bench/cuda/bench.hpp>

#include <algorithm>

#include <moe/routing/expert_choice.cuh>

namespace {

/// Every token stands for election with all others, or with those of `pool` sequences at its position; two experts a token on average.
template <bench::index_t E>
void expert_choice(bench::run& r) {
  auto const tokens = r["tokens"], pool = std::min(r["pool"], tokens);
  auto const logits = r.mat<float>(tokens, E);
  auto const weight = moe::view<bench::dyn, E>(r.empty<float>(tokens, E).data(), tokens, E);
  auto const expert = moe::view<bench::dyn, E>(r.empty<int>(tokens, E).data(), tokens, E);
  auto const pools = pool == tokens ? moe::one_group(tokens) : moe::groups_of({pool, tokens / pool}, pool);
  auto const capacity = std::max<bench::index_t>(1, 2 * pool / E);
  auto scratch = r.scratch(moe::expert_choice_scratch_bytes<float, E>(r.space, pools));
  auto const f = [&](moe::cuda const& s) { moe::expert_choice<float, E>(s, logits, pools, capacity, weight, expert, scratch); };
  r.first(f);
  bench::error e;
  auto const x = r.host(logits.data(), logits.size());
  auto const w = r.host(weight.data(), weight.size());
  auto const id = r.host(expert.data(), expert.size());
  std::vector<double> p(x.size());
  for (std::size_t t = 0; t < x.size(); t += E) {
    double sum = 0;
    for (std::size_t i = t; i < t + E; ++i) sum += p[i] = std::exp(static_cast<double>(x[i]));
    for (std::size_t i = t; i < t + E; ++i) {
      p[i] /= sum;
      e.add(w[i], id[i] >= 0 ? p[i] : 0);
    }
  }
  for (bench::index_t g = 0; g < pools.count(); ++g)
    for (bench::index_t c = 0; c < E; ++c) {
      double least = INFINITY, best_left = 0;
      bench::index_t taken = 0;
      for (bench::index_t m = 0; m < pools.size; ++m) {
        auto const i = static_cast<std::size_t>(pools.row(g, m) * E + c);
        if (id[i] == static_cast<int>(c)) least = std::min(least, p[i]), ++taken;
        else best_left = std::max(best_left, p[i]);
      }
      if (taken != capacity || best_left > least * (1 + 1e-5)) e.add(INFINITY, 0);  // others may differ by rounding
    }
  r.check(e);
  r.time({.bytes = 12.0 * static_cast<double>(tokens) * E}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<float>("expert_choice", {{"tokens", 32768, 96}, {"experts", 128, 128}, {"pool", 32768, 96}}, expert_choice<128>);
  g.add<float>("expert_choice", {{"tokens", 32768, 96}, {"experts", 128, 128}, {"pool", 32, 32}}, expert_choice<128>);
});

}  // namespace
