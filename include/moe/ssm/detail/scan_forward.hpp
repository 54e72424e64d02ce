#pragma once
#include <moe/core/parallel.hpp>
#include <moe/ssm/detail/scan_math.hpp>
#include <moe/ssm/selective_scan_operands.hpp>

namespace moe::inline MOE_ISA::detail {

template <class T>
struct scan_forward_problem {
  using A = accumulator<T>;
  selective_scan_inputs<T> in;
  sequence_rows sequences;
  scan_states<A const> initial_state;
  matrix_view<T> out;
  scan_states<A> final_state;
  selective_scan_checkpoints<T> checkpoints;
};

/// dt of channel d in row t.
template <selective_scan_config C, class T>
accumulator<T> scan_dt(selective_scan_inputs<T> const& in, index_t t, index_t d) {
  using A = accumulator<T>;
  A const pre = A(in.delta(t, d)) + (in.delta_bias.data() != nullptr ? in.delta_bias.data()[d] : A(0));
  return C.softplus ? softplus_scalar(pre) : pre;
}

/// One row of one channel: h becomes the next state, y without the gate is returned.
template <selective_scan_config C, class T>
accumulator<T> scan_step(selective_scan_inputs<T> const& in, index_t t, index_t d, accumulator<T>* h) {
  using A = accumulator<T>;
  A const dt = scan_dt<C>(in, t, d), u = A(in.u(t, d)), du = product(dt, u);
  index_t const first = d / (in.channels() / C.groups) * C.d_state;
  A y = 0;
  for (index_t n = 0; n < C.d_state; ++n) {
    h[n] = madd(decay_scalar(dt, scan_rate(in.a(d, n))), h[n], product(du, A(in.b(t, first + n))));
    y = madd(A(in.c(t, first + n)), h[n], y);
  }
  return in.skip.data() != nullptr ? madd(in.skip.data()[d], u, y) : y;
}

template <selective_scan_config C, class T>
std::size_t scan_forward_scratch_bytes(cpu const& /*space*/, index_t /*tokens*/, index_t /*channels*/, index_t /*sequences*/) {
  return 0;
}

template <selective_scan_config C, class T>
void scan_forward(cpu const& space, scan_forward_problem<T> const& p, arena& /*scratch*/) {
  using A = accumulator<T>;
  index_t const channels = p.in.channels();
  parallel_for(space, p.sequences.count * channels, 1e6, [&](index_t i) {
    index_t const s = i / channels, d = i % channels, first = p.sequences.first(s), last = p.sequences.first(s + 1);
    A h[C.d_state];
    for (index_t n = 0; n < C.d_state; ++n) h[n] = p.initial_state.data() != nullptr ? p.initial_state(s, d, n) : A(0);
    for (index_t t = first; t < last; ++t) {
      if ((t - first) % scan_chunk == 0 && p.checkpoints.states.data() != nullptr)
        for (index_t n = 0; n < C.d_state; ++n)
          p.checkpoints.states(p.checkpoints.slot(p.sequences, s, (t - first) / scan_chunk) * C.d_state + n, d) = h[n];
      A y = scan_step<C>(p.in, t, d, h);
      if (p.in.z.data() != nullptr) {
        A const z = A(p.in.z(t, d));
        y *= z / (A(1) + exp_scalar(-z));
      }
      p.out(t, d) = T(y);
    }
    if (p.final_state.data() != nullptr)
      for (index_t n = 0; n < C.d_state; ++n) p.final_state(s, d, n) = h[n];
  });
}

}  // namespace moe::inline MOE_ISA::detail
