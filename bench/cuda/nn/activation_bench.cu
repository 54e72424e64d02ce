#include <bench/cuda/bench.hpp>

#include <moe/nn/activation.cuh>

namespace {

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

/// gate and up are the halves of the columns of one matrix, as the experts' up-projection leaves them.
template <class T>
void swiglu(bench::run& r) {
  auto const rows = r["rows"], columns = r["columns"];
  auto const both = r.mat<T>(rows, 2 * columns), h = r.empty<T>(rows, columns);
  auto const gate = moe::columns_of(both, 0, columns), up = moe::columns_of(both, columns, 2 * columns);
  auto const f = [&](moe::cuda const& s) { moe::swiglu<T>(s, gate, up, h); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(rows)) {
    auto const g = r.host_row(gate, i), u = r.host_row(up, i), got = r.host_row(h, i);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], g[c] * logistic(g[c]) * u[c]);
  }
  r.check(e);
  r.time({.bytes = 3.0 * static_cast<double>(h.size()) * sizeof(T)}, f);
}

template <class T>
void swiglu_backward(bench::run& r) {
  auto const rows = r["rows"], columns = r["columns"];
  auto const both = r.mat<T>(rows, 2 * columns), d_h = r.mat<T>(rows, columns), d_both = r.empty<T>(rows, 2 * columns);
  auto const gate = moe::columns_of(both, 0, columns), up = moe::columns_of(both, columns, 2 * columns);
  auto const d_gate = moe::columns_of(d_both, 0, columns), d_up = moe::columns_of(d_both, columns, 2 * columns);
  auto const f = [&](moe::cuda const& s) { moe::swiglu_backward<T>(s, gate, up, d_h, d_gate, d_up); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(rows)) {
    auto const g = r.host_row(gate, i), u = r.host_row(up, i), d = r.host_row(d_h, i), got_gate = r.host_row(d_gate, i), got_up = r.host_row(d_up, i);
    for (std::size_t c = 0; c < g.size(); ++c) {
      double const s = logistic(g[c]);
      e.add(got_gate[c], d[c] * u[c] * s * (1 + g[c] * (1 - s)));
      e.add(got_up[c], d[c] * g[c] * s);
    }
  }
  r.check(e);
  r.time({.bytes = 5.0 * static_cast<double>(d_h.size()) * sizeof(T)}, f);
}

template <class T>
void gelu(bench::run& r) {
  auto const rows = r["rows"], columns = r["columns"];
  auto const x = r.mat<T>(rows, columns), y = r.empty<T>(rows, columns);
  auto const f = [&](moe::cuda const& s) { moe::gelu<T>(s, x, y); };
  r.first(f);
  bench::error e;
  for (auto const i : bench::some_rows(rows)) {
    auto const from = r.host_row(x, i), got = r.host_row(y, i);
    for (std::size_t c = 0; c < got.size(); ++c)
      e.add(got[c], from[c] * (1 + std::tanh(0.7978845608028654 * (from[c] + 0.044715 * std::pow(from[c], 3)))) / 2);
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(y.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"rows", 262144, 9}, {"columns", 768, 40}};
  g.add<bench::bf16>("swiglu", shape, swiglu<bench::bf16>);
  g.add<bench::bf16>("swiglu_backward", shape, swiglu_backward<bench::bf16>);
  g.add<bench::bf16>("gelu", shape, gelu<bench::bf16>);
  g.add<float>("swiglu", shape, swiglu<float>);
});

}  // namespace
