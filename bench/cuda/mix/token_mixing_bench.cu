#include <bench/cuda/bench.hpp>

#include <moe/mix/token_mixing.cuh>

namespace {

using bench::bf16;
using bench::index_t;
using bench::matrix_view;

/// Tokens in groups of `group`, whose members lie a sequence apart.
template <class T>
struct operands {
  using A = moe::accumulator<T>;
  moe::token_groups groups;
  matrix_view<T> x, mixed;
  matrix_view<A> weight;

  explicit operands(bench::run& r)
      : groups(moe::groups_of({r["group"], r["tokens"] / r["group"]}, r["group"])), x(r.mat<T>(r["tokens"], r["d"])),
        mixed(r.mat<T>(r["experts"] * groups.count(), r["d"])), weight(r.mat<A>(r["tokens"], r["experts"])) {}
  /// Rows and mixed tokens once each, and the weights.
  bench::work product() const {
    double const flops = 2.0 * static_cast<double>(weight.size()) * static_cast<double>(x.template extent<1>());
    return {.bytes = static_cast<double>(x.size() + mixed.size()) * sizeof(T) + static_cast<double>(weight.size()) * sizeof(A), .flops = flops};
  }
};

/// want[c] = sum over a group of weight times row, for a mixed token (mixing) or a token.
template <class T>
std::vector<double> reference(bench::run& r, operands<T> const& o, bool mixing, index_t group, index_t which) {
  std::vector<double> want(static_cast<std::size_t>(r["d"]));
  for (index_t i = 0; i < (mixing ? r["group"] : r["experts"]); ++i) {
    auto const token = o.groups.row(group, mixing ? i : which), expert = mixing ? which : i;
    double const w = r.host_row(o.weight, token)[static_cast<std::size_t>(expert)];
    auto const row = mixing ? r.host_row(o.x, token) : r.host_row(o.mixed, expert * o.groups.count() + group);
    for (std::size_t c = 0; c < row.size(); ++c) want[c] += w * row[c];
  }
  return want;
}

template <class T>
void mix_tokens(bench::run& r) {
  operands<T> const o(r);
  auto const mixed = r.empty<T>(o.mixed.rows(), r["d"]);
  auto const f = [&](moe::cuda const& s) { moe::mix_tokens<T>(s, o.x, o.weight, o.groups, mixed); };
  r.first(f);
  bench::error e;
  for (auto const row : bench::some_rows(mixed.rows())) {
    auto const got = r.host_row(mixed, row), want = reference(r, o, true, row % o.groups.count(), row / o.groups.count());
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time(o.product(), f);
}

template <class T>
void redistribute_tokens(bench::run& r) {
  operands<T> const o(r);
  auto const y = r.empty<T>(r["tokens"], r["d"]);
  auto const f = [&](moe::cuda const& s) { moe::redistribute_tokens<T>(s, o.mixed, o.weight, o.groups, y); };
  r.first(f);
  bench::error e;
  for (auto const group : bench::some_rows(o.groups.count())) {
    auto const got = r.host_row(y, o.groups.row(group, r["group"] - 1)), want = reference(r, o, false, group, r["group"] - 1);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time(o.product(), f);
}

template <class T>
void mixing_weight_gradient(bench::run& r) {
  operands<T> const o(r);
  auto const d_weight = r.empty<moe::accumulator<T>>(r["tokens"], r["experts"]);
  auto const f = [&](moe::cuda const& s) { moe::mixing_weight_gradient(s, o.x, o.mixed, o.groups, d_weight); };
  r.first(f);
  bench::error e;
  for (auto const group : bench::some_rows(o.groups.count())) {
    auto const got = r.host_row(d_weight, o.groups.row(group, 0)), x = r.host_row(o.x, o.groups.row(group, 0));
    for (std::size_t i = 0; i < got.size(); ++i)
      e.add(got[i], bench::dot(x, r.host_row(o.mixed, static_cast<index_t>(i) * o.groups.count() + group)));
  }
  r.check(e);
  r.time(o.product(), f);
}

void group_softmax(bench::run& r) {
  auto const groups = moe::groups_of({r["group"], r["tokens"] / r["group"]}, r["group"]);
  auto const logits = r.mat<float>(r["tokens"], r["experts"]), weight = r.empty<float>(r["tokens"], r["experts"]);
  auto const f = [&](moe::cuda const& s) { moe::group_softmax(s, logits, groups, 1, weight); };
  r.first(f);
  bench::error e;
  for (auto const group : bench::some_rows(groups.count())) {
    double sum = 0;
    for (index_t i = 0; i < r["group"]; ++i) sum += std::exp(r.host_row(logits, groups.row(group, i))[0]);
    for (index_t i = 0; i < r["group"]; ++i)
      e.add(r.host_row(weight, groups.row(group, i))[0], std::exp(r.host_row(logits, groups.row(group, i))[0]) / sum);
  }
  r.check(e);
  r.time({.bytes = 8.0 * static_cast<double>(logits.size())}, f);
}

bench::group const cases([](bench::group& g) {
  auto const shape = [](index_t group, index_t experts) {
    return std::vector<bench::extent>{{"tokens", 65536, 8}, {"d", 1024, 40}, {"group", group, 4}, {"experts", experts, 3}};
  };
  g.add<float>("group_softmax", {{"tokens", 65536, 8}, {"group", 32, 4}, {"experts", 32, 3}}, group_softmax);
  for (auto const& [group, experts] : {std::pair<index_t, index_t>{32, 32}, {8, 8}, {32, 256}}) {
    g.add<bf16>("mix_tokens", shape(group, experts), mix_tokens<bf16>);
    g.add<bf16>("redistribute_tokens", shape(group, experts), redistribute_tokens<bf16>);
    g.add<bf16>("mixing_weight_gradient", shape(group, experts), mixing_weight_gradient<bf16>);
  }
  g.add<float>("mix_tokens", shape(32, 32), mix_tokens<float>);
  g.add<float>("redistribute_tokens", shape(32, 32), redistribute_tokens<float>);
  g.add<float>("mixing_weight_gradient", shape(32, 32), mixing_weight_gradient<float>);
});

}  // namespace
