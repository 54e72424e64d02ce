#include <bench/cuda/bench.hpp>

#include <moe/ssm/causal_conv1d.cuh>

namespace {

using moe::index_t;

template <class T>
struct convolution {
  static constexpr moe::causal_conv1d_config config{};
  static constexpr index_t width = config.width;
  bench::run& r;
  index_t batch = r["batch"], length = r["length"], channels = r["channels"], tokens = batch * length;
  moe::matrix_view<T> x = r.mat<T>(tokens, channels), y = r.empty<T>(tokens, channels), weight = r.mat<T>(channels, width);
  moe::vector_view<T> bias = r.vec<T>(channels);
  moe::sequence_rows sequences = moe::equal_sequences(batch, length);

  void forward(moe::cuda const& s) const { moe::causal_conv1d<config, T>(s, x, weight, bias, sequences, {}, y, {}); }
  /// Of row t of a sequence whose first row is `first`: s, in double, of every channel.
  std::vector<double> sums(index_t first, index_t t) const {
    auto const w = r.host(weight.data(), weight.size());
    std::vector<double> s = r.host(bias.data(), channels);
    for (index_t k = 0; k < width; ++k) {
      if (t - (width - 1) + k < 0) continue;
      auto const in = r.host_row(x, first + t - (width - 1) + k);
      for (std::size_t c = 0; c < s.size(); ++c) s[c] += w[c * static_cast<std::size_t>(width) + static_cast<std::size_t>(k)] * in[c];
    }
    return s;
  }
};

template <class T>
void forward(bench::run& r) {
  convolution<T> const p{r};
  auto const f = [&](moe::cuda const& s) { p.forward(s); };
  r.first(f);
  bench::error e;
  for (auto const t : bench::some_rows(p.length)) {
    auto const s = p.sums(p.tokens - p.length, t), got = r.host_row(p.y, p.tokens - p.length + t);
    for (std::size_t c = 0; c < s.size(); ++c) e.add(got[c], s[c] / (1 + std::exp(-s[c])));
  }
  r.check(e);
  r.time({.bytes = 2.0 * static_cast<double>(p.x.size()) * sizeof(T)}, f);
}

template <class T>
void backward(bench::run& r) {
  using A = moe::accumulator<T>;
  convolution<T> const p{r};
  auto const d_y = r.mat<T>(p.tokens, p.channels), d_x = r.empty<T>(p.tokens, p.channels);
  auto const d_weight = r.mat<A>(p.channels, p.width);
  auto const d_bias = r.vec<A>(p.channels);
  auto scratch = r.scratch(moe::causal_conv1d_backward_scratch_bytes<p.config, T>(r.space, p.tokens, p.channels, p.batch));
  auto const f = [&](moe::cuda const& s) {
    moe::causal_conv1d_backward<p.config, T>(s, p.x, p.weight, p.bias, p.sequences, {}, d_y, {}, d_x, d_weight, d_bias, {}, scratch);
  };
  r.first(f);
  bench::error e;
  auto const w = r.host(p.weight.data(), p.weight.size());
  for (auto const t : bench::some_rows(p.length)) {
    std::vector<double> expected(static_cast<std::size_t>(p.channels));
    for (index_t k = 0; k < p.width; ++k) {
      index_t const row = t + p.width - 1 - k;
      if (row >= p.length) continue;
      auto const s = p.sums(0, row), d = r.host_row(d_y, row);
      for (std::size_t c = 0; c < s.size(); ++c) {
        double const gate = 1 / (1 + std::exp(-s[c]));
        expected[c] += w[c * static_cast<std::size_t>(p.width) + static_cast<std::size_t>(k)] * d[c] * gate * (1 + s[c] * (1 - gate));
      }
    }
    auto const got = r.host_row(d_x, t);
    for (std::size_t c = 0; c < got.size(); ++c) e.add(got[c], expected[c]);
  }
  r.check(e);
  r.time({.bytes = 3.0 * static_cast<double>(p.x.size()) * sizeof(T)}, f);
}

bench::group const cases([](bench::group& g) {
  std::vector<bench::extent> const shape{{"batch", 8, 2}, {"length", 4096, 70}, {"channels", 4096, 40}};
  g.add<bench::bf16>("causal_conv1d", shape, forward<bench::bf16>);
  g.add<bench::bf16>("causal_conv1d_backward", shape, backward<bench::bf16>);
  g.add<float>("causal_conv1d", {{"batch", 8, 2}, {"length", 2048, 70}, {"channels", 4096, 40}}, forward<float>);
});

}  // namespace
