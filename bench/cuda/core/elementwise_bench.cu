#include <bench/cuda/bench.hpp>

namespace {

template <class T>
void fill(bench::run& r) {
  auto const to = r.mat<T>(r["rows"], r["columns"]);
  auto const f = [&](moe::cuda const& s) { moe::fill(s, to, T(0.5f)); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(to.rows()))
    for (double const x : r.host_row(to, i)) e.add(x, 0.5);
  r.check(e);
  r.time({.bytes = static_cast<double>(to.size()) * sizeof(T)}, f);
}

template <class T>
void copy(bench::run& r) {
  auto const from = r.mat<T>(r["rows"], r["columns"]), to = r.empty<T>(r["rows"], r["columns"]);
  auto const f = [&](moe::cuda const& s) { moe::copy<T>(s, from, to); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(to.rows())) {
    auto const got = r.host_row(to, i), want = r.host_row(from, i);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(to.size()) * sizeof(T)}, f);
}

template <class T>
void add(bench::run& r) {
  auto const x = r.mat<T>(r["rows"], r["columns"]), to = r.mat<T>(r["rows"], r["columns"]);
  auto const f = [&](moe::cuda const& s) { moe::add<T>(s, x, to); };
  std::vector<std::vector<double>> before;
  for (auto const i : bench::some_rows(to.rows())) before.push_back(r.host_row(to, i));
  r.first(f);
  bench::error e;
  for (std::size_t j = 0; auto const i : bench::some_rows(to.rows())) {
    auto const got = r.host_row(to, i), summand = r.host_row(x, i);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], before[j][c] + summand[c]);
    ++j;
  }
  r.check(e);
  r.time({.bytes = 3.0 * static_cast<double>(to.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  g.add<bench::bf16>("fill", {{"rows", 32768, 9}, {"columns", 4096, 40}}, fill<bench::bf16>);
  g.add<bench::bf16>("copy", {{"rows", 32768, 9}, {"columns", 4096, 40}}, copy<bench::bf16>);
  g.add<bench::bf16>("add", {{"rows", 32768, 9}, {"columns", 4096, 40}}, add<bench::bf16>);
  g.add<float>("add", {{"rows", 32768, 9}, {"columns", 2048, 40}}, add<float>);
});

}  // namespace
