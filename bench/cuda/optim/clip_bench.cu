#include <bench/cuda/bench.hpp>

#include <moe/optim/clip.cuh>

namespace {

void global_norm(bench::run& r) {
  auto const n = r["n"];
  auto const g = r.vec<float>(n);
  auto const norm = moe::view<1>(r.empty<double>(1, 1).data(), 1);
  auto scratch = r.scratch(moe::global_norm_scratch_bytes(r.space, n));
  auto const f = [&](moe::cuda const& s) { moe::global_norm<float>(s, g, norm, scratch); };
  r.first(f);
  bench::error e;
  double sum = 0;
  for (double const x : r.host(g.data(), n)) sum += x * x;
  e.add(r.host(norm.data(), 1)[0], std::sqrt(sum));
  r.check(e);
  r.time({.bytes = 4.0 * static_cast<double>(n)}, f);
}

bench::group const cases([](bench::group& g) { g.add<float>("global_norm", {{"n", 100000000, 40000}}, global_norm); });

}  // namespace
