#include <bench/cuda/bench.hpp>

#include <moe/routing/weigh_rows.cuh>

namespace {

template <class T>
void weigh_rows(bench::run& r) {
  auto const tokens = r["tokens"], k = r["k"], rows = tokens * k, width = r["width"];
  std::vector<int> slots(static_cast<std::size_t>(rows));  // a permutation: a step without a divisor in common with the number of slots
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int>(i * 7919 % slots.size());
  auto const slot = r.device(slots);
  auto const weight = r.mat<T>(tokens, k), h = r.mat<T>(rows, width), d_h = r.mat<T>(rows, width), d_weight = r.empty<T>(tokens, k);
  auto const f = [&](moe::cuda const& s) { moe::weigh_rows<T>(s, slot, weight, h, d_h, d_weight); };
  std::vector<std::vector<double>> before_h, before_d_h;
  for (auto const i : bench::some_rows(rows)) before_h.push_back(r.host_row(h, i)), before_d_h.push_back(r.host_row(d_h, i));
  r.first(f);
  bench::error e;
  for (std::size_t j = 0; auto const i : bench::some_rows(rows)) {
    auto const s = slots[static_cast<std::size_t>(i)];
    double const w = r.host(weight.data() + s, 1)[0];
    auto const got = r.host_row(h, i), got_d = r.host_row(d_h, i);
    e.add(r.host(d_weight.data() + s, 1)[0], bench::dot(before_h[j], before_d_h[j]));
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], w * before_h[j][c]), e.add(got_d[c], w * before_d_h[j][c]);
    ++j;
  }
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(h.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<bench::bf16>("weigh_rows", {{"tokens", 32768, 9}, {"k", 8, 2}, {"width", 768, 40}}, weigh_rows<bench::bf16>);
  g.add<bench::bf16>("weigh_rows", {{"tokens", 32768, 9}, {"k", 8, 2}, {"width", 512, 40}}, weigh_rows<bench::bf16>);
});

}  // namespace
