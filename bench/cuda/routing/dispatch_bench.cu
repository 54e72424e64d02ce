#include <bench/cuda/bench.hpp>

#include <numeric>

#include <moe/routing/dispatch.cuh>

namespace {

using bench::bf16;
using bench::dyn;
using bench::index_t;

/// k different experts per token: the first at random, the others at a random odd distance, modulo experts (a power of two).
std::vector<int> choices(bench::run& r) {
  auto const tokens = r["tokens"], k = r["k"], experts = r["experts"];
  auto const first = r.ids(tokens, experts), distance = r.ids(tokens, experts / 2);
  std::vector<int> expert;
  for (std::size_t t = 0; t < first.size(); ++t)
    for (int j = 0; j < k; ++j) expert.push_back((first[t] + j * (2 * distance[t] + 1)) % static_cast<int>(experts));
  return expert;
}

/// A plan on the device, and what make_dispatch needs for it.
struct dispatched {
  bench::matrix_view<int const> expert;
  moe::arena plan_memory, scratch;
  moe::dispatch_plan plan;

  explicit dispatched(bench::run& r, std::vector<int> const& ids)
      : expert(moe::mat(static_cast<int const*>(r.device(ids).data()), r["tokens"], r["k"])), plan_memory(r.scratch(plan_bytes(r))),
        scratch(r.scratch(moe::make_dispatch_scratch_bytes(r.space, r["tokens"], r["experts"]))),
        plan(moe::dispatch_plan::take(plan_memory, r["tokens"], r["k"], r["experts"])) {
    make(r.space);
  }
  explicit dispatched(bench::run& r) : dispatched(r, choices(r)) {}
  void make(moe::cuda const& space) { moe::make_dispatch(space, expert, 0, plan, scratch); }

 private:
  static std::size_t plan_bytes(bench::run& r) {
    moe::arena measure;
    moe::dispatch_plan::take(measure, r["tokens"], r["k"], r["experts"]);
    return measure.peak();
  }
};

void make_dispatch(bench::run& r) {
  auto const ids = choices(r);
  dispatched d(r, ids);
  auto const f = [&](moe::cuda const& s) { d.make(s); };
  r.first(f);
  std::vector<double> order(ids.size());
  std::iota(order.begin(), order.end(), 0.0);
  std::stable_sort(order.begin(), order.end(),
                   [&](double a, double b) { return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)]; });
  auto const slot = r.host(d.plan.slot.data(), d.plan.slots());
  bench::error e;
  for (std::size_t i = 0; i < slot.size(); ++i) e.add(slot[i], order[i]);
  r.check(e);
  r.time({.bytes = 4.0 * 4 * static_cast<double>(ids.size()) + 16.0 * static_cast<double>(r["experts"])}, f);
}

template <class T>
void dispatch(bench::run& r) {
  dispatched const d(r);
  auto const x = r.mat<T>(r["tokens"], r["d"]), xs = r.empty<T>(d.plan.slots(), r["d"]);
  auto const f = [&](moe::cuda const& s) { moe::dispatch<T>(s, x, d.plan, xs); };
  r.first(f);
  bench::error e;
  auto const token = r.host(d.plan.token.data(), d.plan.slots());
  for (auto const i : bench::some_rows(xs.rows())) {
    auto const got = r.host_row(xs, i), want = r.host_row(x, static_cast<index_t>(token[static_cast<std::size_t>(i)]));
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time({.bytes = static_cast<double>((x.size() + xs.size())) * sizeof(T)}, f);
}

template <class T>
void combine(bench::run& r) {
  dispatched const d(r);
  auto const tokens = r["tokens"], k = r["k"], columns = r["d"];
  auto const ys = r.mat<T>(tokens * k, columns), weight = r.mat<T>(tokens, k), y = r.empty<T>(tokens, columns);
  auto const f = [&](moe::cuda const& s) { moe::combine<T>(s, ys, weight, d.plan, y); };
  r.first(f);
  bench::error e;
  auto const position = r.host(d.plan.position.data(), d.plan.slots());
  for (auto const t : bench::some_rows(tokens)) {
    auto const got = r.host_row(y, t), w = r.host_row(weight, t);
    std::vector<double> want(got.size());
    for (index_t j = 0; j < k; ++j) {
      auto const row = r.host_row(ys, static_cast<index_t>(position[static_cast<std::size_t>(t * k + j)]));
      for (std::size_t c = 0; c < row.size(); ++c) want[c] += w[static_cast<std::size_t>(j)] * row[c];
    }
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time({.bytes = static_cast<double>(ys.size() + y.size()) * sizeof(T)}, f);
}

template <class T>
void combine_backward(bench::run& r) {
  dispatched const d(r);
  auto const tokens = r["tokens"], k = r["k"], columns = r["d"];
  auto const d_y = r.mat<T>(tokens, columns), ys = r.mat<T>(tokens * k, columns), weight = r.mat<T>(tokens, k);
  auto const d_ys = r.empty<T>(tokens * k, columns), d_weight = r.empty<T>(tokens, k);
  auto const f = [&](moe::cuda const& s) { moe::combine_backward<T>(s, d_y, ys, weight, d.plan, d_ys, d_weight); };
  r.first(f);
  bench::error e;
  auto const position = r.host(d.plan.position.data(), d.plan.slots());
  for (auto const t : bench::some_rows(tokens)) {
    auto const g = r.host_row(d_y, t), w = r.host_row(weight, t), got = r.host_row(d_weight, t);
    for (index_t j = 0; j < k; ++j) {
      auto const row = static_cast<index_t>(position[static_cast<std::size_t>(t * k + j)]);
      auto const got_row = r.host_row(d_ys, row);
      e.add(got[static_cast<std::size_t>(j)], bench::dot(g, r.host_row(ys, row)));
      for (std::size_t c = 0; c < g.size(); ++c) e.add(got_row[c], w[static_cast<std::size_t>(j)] * g[c]);
    }
  }
  r.check(e);
  r.time({.bytes = static_cast<double>(d_y.size() + ys.size() + d_ys.size()) * sizeof(T)}, f);
}

template <class T>
void dispatch_backward(bench::run& r) {
  dispatched const d(r);
  auto const tokens = r["tokens"], k = r["k"], columns = r["d"];
  auto const d_xs = r.mat<T>(tokens * k, columns), d_x = r.empty<T>(tokens, columns);
  auto const f = [&](moe::cuda const& s) { moe::dispatch_backward<T>(s, d_xs, d.plan, k, d_x); };
  r.first(f);
  bench::error e;
  auto const position = r.host(d.plan.position.data(), d.plan.slots());
  for (auto const t : bench::some_rows(tokens)) {
    auto const got = r.host_row(d_x, t);
    std::vector<double> want(got.size());
    for (index_t j = 0; j < k; ++j) {
      auto const row = r.host_row(d_xs, static_cast<index_t>(position[static_cast<std::size_t>(t * k + j)]));
      for (std::size_t c = 0; c < row.size(); ++c) want[c] += row[c];
    }
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], want[c]);
  }
  r.check(e);
  r.time({.bytes = static_cast<double>(d_xs.size() + d_x.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const small{{"tokens", 32768, 9}, {"experts", 128, 8}, {"k", 8, 2}};
  auto const with = [&](index_t d) {
    auto shape = small;
    shape.push_back({"d", d, 40});
    return shape;
  };
  g.add<int>("make_dispatch", small, make_dispatch);
  g.add<bf16>("dispatch", with(2048), dispatch<bf16>);
  g.add<bf16>("dispatch_backward", with(2048), dispatch_backward<bf16>);
  for (index_t const d : {2048, 4096}) g.add<bf16>("combine", with(d), combine<bf16>);
  g.add<bf16>("combine_backward", with(2048), combine_backward<bf16>);
  g.add<float>("combine", with(2048), combine<float>);
});

}  // namespace
