#include <bench/cuda/bench.hpp>

#include <moe/attention/rope.cuh>

namespace {

template <class T>
void rope(bench::run& r) {
  constexpr int d_head = 128;
  constexpr moe::rope_config config{.d_head = d_head};
  auto const tokens = r["tokens"], seq = r["seq"], columns = r["heads"] * d_head;
  auto const x = r.mat<T>(tokens, columns);
  moe::rope_table<float> const table{r.empty<float>(seq, d_head)};
  moe::fill_rope_table<config>(r.space, table);
  auto const f = [&](moe::cuda const& s) { moe::rope<config, T>(s, x, table, moe::consecutive{0, seq}); };
  std::vector<std::vector<double>> before;
  for (auto const t : bench::some_rows(tokens)) before.push_back(r.host_row(x, t));
  r.first(f);
  bench::error e;
  for (std::size_t j = 0; auto const t : bench::some_rows(tokens)) {
    auto const got = r.host_row(x, t);
    for (std::size_t i = 0; i < d_head / 2; ++i) {  // the first head
      double const angle = static_cast<double>(t % seq) * std::pow(config.base, -2.0 * static_cast<double>(i) / d_head);
      double const a = before[j][i], b = before[j][i + d_head / 2];
      e.add(got[i], a * std::cos(angle) - b * std::sin(angle));
      e.add(got[i + d_head / 2], b * std::cos(angle) + a * std::sin(angle));
    }
    ++j;
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(x.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<bench::bf16>("rope", {{"tokens", 32768, 6}, {"seq", 4096, 3}, {"heads", 32, 2}}, rope<bench::bf16>);
  g.add<float>("rope", {{"tokens", 32768, 6}, {"seq", 4096, 3}, {"heads", 16, 2}}, rope<float>);
});

}  // namespace
