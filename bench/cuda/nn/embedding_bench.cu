#include <bench/cuda/bench.hpp>

#include <moe/nn/embedding.cuh>

namespace {

template <class T>
void forward(bench::run& r) {
  auto const tokens = r["tokens"], vocab = r["vocab"], d = r["d"];
  auto const ids = r.ids(tokens, vocab);
  auto const token = r.device(ids);
  auto const table = r.mat<T>(vocab, d), y = r.empty<T>(tokens, d);
  auto const f = [&](moe::cuda const& s) { moe::embedding<T>(s, token, table, y); };
  r.first(f);
  bench::error e;
  for (auto const t : bench::some_rows(tokens)) {
    auto const got = r.host_row(y, t), want = r.host_row(table, ids[static_cast<std::size_t>(t)]);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(y.size()) * sizeof(T)}, f);
}

template <class T>
void backward(bench::run& r) {
  auto const tokens = r["tokens"], vocab = r["vocab"], d = r["d"];
  auto const ids = r.ids(tokens, vocab);
  auto const token = r.device(ids);
  auto const d_y = r.mat<T>(tokens, d);
  auto const d_table = r.mat<moe::accumulator<T>>(vocab, d);
  auto scratch = r.scratch(moe::embedding_backward_scratch_bytes(r.space, tokens, vocab));
  auto const f = [&](moe::cuda const& s) { moe::embedding_backward<T>(s, token, d_y, d_table, scratch); };
  std::vector<std::vector<double>> want;
  for (auto const v : bench::some_rows(vocab)) want.push_back(r.host_row(d_table, v));
  r.first(f);
  bench::error e;
  for (std::size_t j = 0; auto const v : bench::some_rows(vocab)) {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] != v) continue;
      auto const row = r.host_row(d_y, static_cast<bench::index_t>(t));
      for (std::size_t c = 0; c < row.size(); ++c) want[j][c] += row[c];
    }
    auto const got = r.host_row(d_table, v);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[j][c]);
    ++j;
  }
  r.check(e);
  double const touched = static_cast<double>(tokens < vocab ? tokens : vocab) * static_cast<double>(d);  // rows of the table, at most
  r.time({.bytes = static_cast<double>(d_y.size()) * sizeof(T) + 2 * touched * sizeof(moe::accumulator<T>)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"tokens", 32768, 30}, {"vocab", 32768, 11}, {"d", 2048, 40}};
  g.add<bench::bf16>("embedding", shape, forward<bench::bf16>);
  g.add<bench::bf16>("embedding_backward", shape, backward<bench::bf16>);
});

}  // namespace
