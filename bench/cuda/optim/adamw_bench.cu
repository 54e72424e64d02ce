#include <bench/cuda/bench.hpp>

#include <moe/optim/adamw.cuh>

namespace {

void adamw(bench::run& r) {
  auto const n = r["n"], checked = n < 1000 ? n : 1000;
  auto const w = r.vec<float>(n), m = r.vec<float>(n), v = r.vec<float>(n), g = r.vec<float>(n);
  moe::fill(r.space, moe::mat(m.data(), 1, n), 0.0f);
  moe::fill(r.space, moe::mat(v.data(), 1, n), 0.0f);
  moe::adamw_config const config;
  auto const f = [&](moe::cuda const& s) { moe::adamw<float>(s, w, m, v, g, 1e-3, 0.1, 0.5, 1, config); };
  auto const before = r.host(w.data(), checked), gradient = r.host(g.data(), checked);
  r.first(f);
  bench::error e;
  auto const got = r.host(w.data(), checked);
  for (std::size_t i = 0; i < got.size(); ++i) {  // the first step: the corrected moments are s and s^2
    double const s = 0.5 * gradient[i];
    e.add(got[i], before[i] * (1 - 1e-3 * 0.1) - 1e-3 * s / (std::abs(s) + config.eps));
  }
  r.check(e);
  r.time({.bytes = 28.0 * static_cast<double>(n)}, f);
}

bench::group const cases([](bench::group& g) { g.add<float>("adamw", {{"n", 100000000, 1000}}, adamw); });

}  // namespace
