#pragma once
#include <algorithm>

#include <moe/ssm/detail/scan_forward.hpp>

namespace moe::inline MOE_ISA::detail {

template <class T>
struct scan_backward_problem {
  using A = accumulator<T>;
  selective_scan_inputs<T> in;
  sequence_rows sequences;
  scan_states<A const> initial_state;
  selective_scan_checkpoints<T> checkpoints;
  matrix_view<T const> d_out;
  scan_states<A const> d_final_state;
  selective_scan_gradients<T> g;
  scan_states<A> d_initial_state;
};

template <selective_scan_config C, class T>
std::size_t scan_backward_scratch_bytes(cpu const& /*space*/, index_t /*tokens*/, index_t channels, index_t /*sequences*/) {
  arena measure;
  measure.mat<accumulator<T>>(channels, C.d_state);
  measure.mat<accumulator<T>>(2 * scan_chunk, C.groups * C.d_state);
  return measure.peak();
}

/// The rows [begin, end) of a chunk, channel d; l: the adjoint carried into row end - 1, on return out of `begin`; d_b, d_c [rows, groups * d_state] sums.
template <selective_scan_config C, class T>
void scan_chunk_backward(scan_backward_problem<T> const& p, index_t s, index_t chunk, index_t begin, index_t end, index_t d, accumulator<T>* l,
                         accumulator<T>* d_b, accumulator<T>* d_c) {
  using A = accumulator<T>;
  constexpr index_t N = C.d_state, columns = C.groups * N;
  auto const& in = p.in;
  index_t const g = d / (in.channels() / C.groups) * N;
  A h[scan_chunk + 1][N], y[scan_chunk];
  for (index_t n = 0; n < N; ++n)
    h[0][n] = chunk > 0                           ? p.checkpoints.states(p.checkpoints.slot(p.sequences, s, chunk) * N + n, d)
              : p.initial_state.data() != nullptr ? p.initial_state(s, d, n)
                                                  : A(0);
  for (index_t t = begin, i = 0; t < end; ++t, ++i) {
    std::copy_n(h[i], N, h[i + 1]);
    y[i] = scan_step<C>(in, t, d, h[i + 1]);
  }
  for (index_t t = end - 1, i = t - begin; t >= begin; --t, --i) {
    A const pre = A(in.delta(t, d)) + (in.delta_bias.data() != nullptr ? in.delta_bias.data()[d] : A(0));
    A const dt = scan_dt<C>(in, t, d), u = A(in.u(t, d)), du = product(dt, u), d_out = A(p.d_out(t, d));
    A d_y = d_out;
    if (in.z.data() != nullptr) {
      A const z = A(in.z(t, d)), sigma = A(1) / (A(1) + exp_scalar(-z));
      d_y = d_out * (z * sigma);
      p.g.d_z(t, d) = T(d_out * y[i] * (sigma * madd(z, A(1) - sigma, A(1))));
    }
    A through_b = 0, through_a = 0;
    for (index_t n = 0; n < N; ++n) {
      A const b = A(in.b(t, g + n)), decay = decay_scalar(dt, scan_rate(in.a(d, n)));
      l[n] = madd(d_y, A(in.c(t, g + n)), l[n]);
      through_b = madd(l[n], b, through_b);
      d_b[i * columns + g + n] += l[n] * du;
      d_c[i * columns + g + n] += d_y * h[i + 1][n];
      l[n] = decay * l[n];
      A const w = l[n] * h[i][n];
      through_a = madd(w, in.a(d, n), through_a);
      p.g.d_a(d, n) = madd(dt, w, p.g.d_a(d, n));
    }
    A const skip = in.skip.data() != nullptr ? in.skip.data()[d] : A(0);
    A const d_delta = madd(through_b, u, through_a) * (C.softplus ? softplus_slope_scalar(pre) : A(1));
    p.g.d_u(t, d) = T(madd(dt, through_b, skip * d_y));
    p.g.d_delta(t, d) = T(d_delta);
    if (in.skip.data() != nullptr) p.g.d_skip.data()[d] = madd(d_y, u, p.g.d_skip.data()[d]);
    if (in.delta_bias.data() != nullptr) p.g.d_delta_bias.data()[d] += d_delta;
  }
}

template <selective_scan_config C, class T>
void scan_backward(cpu const& /*space*/, scan_backward_problem<T> const& p, arena& scratch) {
  using A = accumulator<T>;
  constexpr index_t N = C.d_state, columns = C.groups * N;
  index_t const channels = p.in.channels();
  arena::scope const scope(scratch);
  auto const l = scratch.mat<A>(channels, N), sums = scratch.mat<A>(2 * scan_chunk, columns);
  for (index_t s = 0; s < p.sequences.count; ++s) {
    index_t const first = p.sequences.first(s), last = p.sequences.first(s + 1);
    for (index_t d = 0; d < channels; ++d)
      for (index_t n = 0; n < N; ++n) l(d, n) = p.d_final_state.data() != nullptr ? p.d_final_state(s, d, n) : A(0);
    for (index_t chunk = chunks(last - first, scan_chunk) - 1; chunk >= 0; --chunk) {
      index_t const begin = first + chunk * scan_chunk, end = std::min(last, begin + scan_chunk);
      std::fill_n(sums.data(), sums.size(), A(0));
      for (index_t d = 0; d < channels; ++d) scan_chunk_backward<C>(p, s, chunk, begin, end, d, l.row(d), sums.row(0), sums.row(scan_chunk));
      for (index_t t = begin; t < end; ++t)
        for (index_t n = 0; n < columns; ++n) p.g.d_b(t, n) = T(sums(t - begin, n)), p.g.d_c(t, n) = T(sums(scan_chunk + t - begin, n));
    }
    for (index_t d = 0; d < channels && p.d_initial_state.data() != nullptr; ++d)
      for (index_t n = 0; n < N; ++n) p.d_initial_state(s, d, n) = l(d, n);
  }
}

}  // namespace moe::inline MOE_ISA::detail
