#pragma once
// The operands of a scan, forward and backward, and the scan as its formula says, in double.
#include <moe/ssm/selective_scan.hpp>

#include <algorithm>
#include <array>

#include "test/support.hpp"

namespace test {

struct scan_parts {
  bool gate = true, skip = true, bias = true, states = true;
};

/// Reproducible operands with canaries, dirty outputs; offsets of the sequences in memory of the space.
template <moe::selective_scan_config C, class T>
struct scan_problem {
  using A = moe::accumulator<T>;
  static constexpr index_t N = C.d_state, columns = C.groups * N;
  index_t channels, tokens, sequences;
  scan_parts parts;
  array<index_t> offsets;
  array<T> u, delta, b, c, z, d_out, out, d_u, d_delta, d_b, d_c, d_z;
  array<A> a, skip, bias, first, last, d_first, d_last, d_a, d_skip, d_bias, checkpoints;

  /// `extra` elements of each row belong to somebody else, and every address is odd by as much.
  scan_problem(std::vector<index_t> const& lengths, index_t channels_, scan_parts parts_ = {}, index_t extra = 0)
      : channels(channels_), tokens(sum_of(lengths)), sequences(static_cast<index_t>(lengths.size())), parts(parts_), offsets(sequences + 1),
        u(rows(channels, extra)), delta(u), b(rows(columns, extra)), c(b), z(u), d_out(u), out(u), d_u(u), d_delta(u), d_b(b), d_c(b), d_z(u),
        a(channels, N, N + extra, extra), skip(channels), bias(channels), first(sequences * channels, N, N + extra, extra), last(first),
        d_first(first), d_last(first), d_a(a), d_skip(channels), d_bias(channels),
        checkpoints(moe::selective_scan_checkpoints<T>::slots(tokens, sequences) * N, channels, channels + extra, extra) {
    offsets(0) = 0;
    for (index_t s = 0; s < sequences; ++s) offsets(s + 1) = offsets(s) + lengths[static_cast<std::size_t>(s)];
    fill(1);
  }
  static index_t sum_of(std::vector<index_t> const& lengths) {
    index_t n = 0;
    for (index_t l : lengths) n += l;
    return n;
  }
  array<T> rows(index_t width, index_t extra) const { return array<T>(tokens, width, width + extra, extra); }
  void fill(std::uint64_t seed) {
    for (array<T>* x : {&u, &delta, &b, &c, &z, &d_out}) x->normal(seed++);
    for (array<A>* x : {&skip, &bias, &first, &d_last, &d_a, &d_skip, &d_bias}) x->normal(seed++);
    moe::random_stream const random{seed, moe::random_purpose::test, 0};
    for (index_t d = 0; d < channels; ++d)
      for (index_t n = 0; n < N; ++n) a(d, n) = A(-0.05 - 1.5 * random.uniform(static_cast<std::uint64_t>(d * N + n)));
  }

  moe::sequence_rows where() const { return moe::packed_sequences(offsets.vec()); }
  moe::selective_scan_inputs<T> inputs() const {
    moe::selective_scan_inputs<T> in{u.mat(), delta.mat(), a.mat(), b.mat(), c.mat(), {}, {}, {}};
    if (parts.skip) in.skip = skip.vec();
    if (parts.bias) in.delta_bias = bias.vec();
    if (parts.gate) in.z = z.mat();
    return in;
  }
  moe::selective_scan_gradients<T> gradients() {
    moe::selective_scan_gradients<T> g{d_u.mat(), d_delta.mat(), d_a.mat(), d_b.mat(), d_c.mat(), {}, {}, {}};
    if (parts.skip) g.d_skip = d_skip.vec();
    if (parts.bias) g.d_delta_bias = d_bias.vec();
    if (parts.gate) g.d_z = d_z.mat();
    return g;
  }
  moe::scan_states<A> states(array<A>& x) const {
    if (!parts.states) return {};
    auto const m = x.mat();
    return moe::view<dyn, dyn, dyn>(m.data(), sequences, channels, N).with_row_stride(m.row_stride());
  }
  moe::selective_scan_checkpoints<T> kept() { return {checkpoints.mat()}; }

  void forward(auto const& on_space) {
    scratch memory(moe::selective_scan_scratch_bytes<C, T>(on_space, tokens, channels, sequences));
    auto m = memory.get();
    moe::selective_scan<C>(on_space, inputs(), where(), states(first), out.mat(), states(last), kept(), m);
  }
  void backward(auto const& on_space) {
    scratch memory(moe::selective_scan_backward_scratch_bytes<C, T>(on_space, tokens, channels, sequences));
    auto m = memory.get();
    moe::selective_scan_backward<C>(on_space, inputs(), where(), states(first), kept(), d_out.mat(), states(d_last), gradients(), states(d_first), m);
  }
  void run(auto const& on_space) { forward(on_space), backward(on_space); }

  /// Everything that the operators write, in one order: forward, gradients of each row, gradients that sum over sequences.
  std::vector<double> forward_outputs() const { return numbers({&out}, {&last}); }
  std::vector<double> row_gradients() const { return numbers({&d_u, &d_delta, &d_b, &d_c, &d_z}, {&d_first}); }
  std::vector<double> sums() const { return numbers({}, {&d_a, &d_skip, &d_bias}); }
  std::vector<double> outputs() const {
    std::vector<double> all = forward_outputs();
    for (auto const& more : {row_gradients(), sums()}) all.insert(all.end(), more.begin(), more.end());
    return all;
  }

 private:
  static std::vector<double> numbers(std::vector<array<T> const*> stored, std::vector<array<A> const*> summed) {
    std::vector<double> v;
    for (auto const* x : stored)
      for (T e : x->values()) v.push_back(double(e));
    for (auto const* x : summed)
      for (A e : x->values()) v.push_back(double(e));
    return v;
  }
};

inline double softplus_of(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

/// out and the last states by the formula, one after the other, all in double.
template <moe::selective_scan_config C, class T>
std::vector<double> scan_by_formula(scan_problem<C, T> const& p) {
  constexpr index_t N = C.d_state;
  std::vector<double> out(static_cast<std::size_t>(p.tokens * p.channels)), last;
  for (index_t s = 0; s < p.sequences; ++s)
    for (index_t d = 0; d < p.channels; ++d) {
      index_t const group = d / (p.channels / C.groups) * N;
      std::array<double, N> h{};
      for (index_t n = 0; n < N && p.parts.states; ++n) h[static_cast<std::size_t>(n)] = double(p.first(s * p.channels + d, n));
      for (index_t t = p.offsets(s); t < p.offsets(s + 1); ++t) {
        double const pre = double(p.delta(t, d)) + (p.parts.bias ? double(p.bias(d)) : 0.0), dt = C.softplus ? softplus_of(pre) : pre;
        double y = p.parts.skip ? double(p.skip(d)) * double(p.u(t, d)) : 0;
        for (index_t n = 0; n < N; ++n) {
          double& state = h[static_cast<std::size_t>(n)];
          state = std::exp(dt * double(p.a(d, n))) * state + dt * double(p.u(t, d)) * double(p.b(t, group + n));
          y += double(p.c(t, group + n)) * state;
        }
        if (p.parts.gate) y *= double(p.z(t, d)) / (1 + std::exp(-double(p.z(t, d))));
        out[static_cast<std::size_t>(t * p.channels + d)] = y;
      }
      last.insert(last.end(), h.begin(), h.end());
    }
  out.insert(out.end(), last.begin(), last.end());
  return out;
}

/// max |x - y| over max |y|; NaN if there is one.
inline double relative_distance(std::vector<double> const& x, std::vector<double> const& y) {
  REQUIRE(x.size() == y.size());
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(y[i]));
    double const d = std::abs(x[i] - y[i]);
    if (!(d <= worst)) worst = d;
  }
  return worst == 0 ? 0 : worst / largest;
}

}  // namespace test
