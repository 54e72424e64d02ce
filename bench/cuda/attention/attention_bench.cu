#include <bench/cuda/bench.hpp>

#include <algorithm>

#include <moe/attention/attention.cuh>

namespace {

using bench::index_t;

/// Operands of one call. Head 0 of the last sequence is what the references look at.
template <moe::attention_shape C, class T>
struct operands {
  static constexpr int d = C.d_head, columns = C.heads * C.d_head, kv_columns = C.kv_heads * C.d_head;
  index_t tokens, seq, first;
  bench::matrix_view<T> q, k, v, o;
  bench::matrix_view<float> lse;
  moe::arena scratch;
  explicit operands(bench::run& r)
      : tokens(r["tokens"]), seq(r["seq"]), first(tokens - seq), q(r.mat<T>(tokens, columns)), k(r.mat<T>(tokens, kv_columns)),
        v(r.mat<T>(tokens, kv_columns)), o(r.empty<T>(tokens, columns)), lse(r.empty<float>(tokens, C.heads)),
        scratch(r.scratch(moe::attention_scratch_bytes<C, T>(r.space, tokens, seq))) {}
  void forward(moe::cuda const& s) { moe::attention<C, T>(s, q, k, v, seq, o, lse, scratch); }
  /// Row t of the sequence, head 0.
  std::vector<double> row(bench::run& r, bench::matrix_view<T> const& m, index_t t) const { return r.host(m.row(first + t), d); }
  std::vector<double> keys(bench::run& r, bench::matrix_view<T> const& m) const { return r.host_columns(moe::rows_of(m, first, tokens), 0, d); }
  double forward_flops() const { return 2.0 * static_cast<double>(tokens) * static_cast<double>(seq + 1) * columns; }
};

/// Weights of the keys 0 .. t for one query.
std::vector<double> weights(std::vector<double> const& q, std::vector<double> const& keys, index_t t) {
  std::vector<double> p(static_cast<std::size_t>(t) + 1);
  for (std::size_t u = 0; u < p.size(); ++u) {
    for (std::size_t i = 0; i < q.size(); ++i) p[u] += q[i] * keys[u * q.size() + i];
    p[u] /= std::sqrt(static_cast<double>(q.size()));
  }
  double const top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - top);
  for (double& x : p) x /= sum;
  return p;
}
std::vector<double> weighted_sum(std::vector<double> const& p, std::vector<double> const& rows, std::size_t d) {
  std::vector<double> s(d);
  for (std::size_t u = 0; u < p.size(); ++u)
    for (std::size_t i = 0; i < d; ++i) s[i] += p[u] * rows[u * d + i];
  return s;
}

template <moe::attention_shape C, class T>
void forward(bench::run& r) {
  operands<C, T> a(r);
  auto const f = [&](moe::cuda const& s) { a.forward(s); };
  r.first(f);
  bench::error e;
  auto const keys = a.keys(r, a.k), values = a.keys(r, a.v);
  for (auto const t : bench::some_rows(a.seq)) {
    auto const want = weighted_sum(weights(a.row(r, a.q, t), keys, t), values, C.d_head), got = a.row(r, a.o, t);
    for (std::size_t i = 0; i < got.size(); ++i) e.add(got[i], want[i]);
  }
  r.check(e);
  r.time({.bytes = static_cast<double>(2 * a.q.size() + 2 * a.k.size()) * sizeof(T), .flops = a.forward_flops()}, f);
}

template <moe::attention_shape C, class T>
void backward(bench::run& r) {
  operands<C, T> a(r);
  a.forward(r.space);
  auto const d_o = r.mat<T>(a.tokens, a.columns), d_q = r.empty<T>(a.tokens, a.columns), d_k = r.empty<T>(a.tokens, a.kv_columns),
             d_v = r.empty<T>(a.tokens, a.kv_columns);
  auto const f = [&](moe::cuda const& s) { moe::attention_backward<C, T>(s, a.q, a.k, a.v, a.o, a.lse, d_o, a.seq, d_q, d_k, d_v, a.scratch); };
  r.first(f);
  bench::error e;
  auto const keys = a.keys(r, a.k), values = a.keys(r, a.v);
  for (auto const t : bench::some_rows(a.seq)) {  // d_q = scale sum_u p_u (d_o . v_u - d_o . o) k_u
    auto p = weights(a.row(r, a.q, t), keys, t);
    auto const g = a.row(r, d_o, t), o = weighted_sum(p, values, C.d_head), got = a.row(r, d_q, t);
    for (std::size_t u = 0; u < p.size(); ++u) {
      double s = -bench::dot(g, o);
      for (std::size_t i = 0; i < g.size(); ++i) s += g[i] * values[u * g.size() + i];
      p[u] *= s / std::sqrt(static_cast<double>(C.d_head));
    }
    auto const want = weighted_sum(p, keys, C.d_head);
    for (std::size_t i = 0; i < got.size(); ++i) e.add(got[i], want[i]);
  }
  r.check(e);
  r.time({.bytes = static_cast<double>(4 * a.q.size() + 4 * a.k.size()) * sizeof(T), .flops = 2.5 * a.forward_flops()}, f);
}

constexpr moe::attention_shape all_heads{.heads = 16, .kv_heads = 16, .d_head = 128}, grouped{.heads = 32, .kv_heads = 8, .d_head = 64};

bench::group const cases([](bench::group& g) {
  using bench::bf16;
  std::vector<bench::extent> const full{{"tokens", 16384, 10}, {"seq", 4096, 5}, {"heads", 16, 16}, {"kv_heads", 16, 16}, {"d_head", 128, 128}};
  std::vector<bench::extent> const few{{"tokens", 16384, 10}, {"seq", 4096, 5}, {"heads", 32, 32}, {"kv_heads", 8, 8}, {"d_head", 64, 64}};
  g.add<bf16>("attention", full, forward<all_heads, bf16>);
  g.add<bf16>("attention", few, forward<grouped, bf16>);
  g.add<bf16>("attention_backward", full, backward<all_heads, bf16>);
  g.add<bf16>("attention_backward", few, backward<grouped, bf16>);
});

}  // namespace
