#pragma once
#include <moe/ssm/detail/scan_rows.hpp>

// The two passes of the backward over one chunk of one block of channels: the states again, all of them kept; then the adjoint, from the last row to
// the first.

namespace moe::inline MOE_ISA::detail {

inline constexpr int scan_adjoint_slice = vector_bytes == 64 ? 8 : 4;  ///< states whose adjoint and d_a stay in registers

/// What the first pass leaves for the second: h [rows + 1][slice][lanes], h[0] before the first row; decay [rows][slice][lanes].
template <class A>
struct scan_trace {
  static constexpr index_t row = scan_adjoint_slice * simd<A>::width;
  A *h, *decay;
};

/// As scan_states_forward, from the states `first`; y only where it is needed.
template <int States, bool NeedsY, class A>
MOE_NOINLINE void scan_states_again(index_t rows, A const* dt, A const* du, A const* rate, scan_matrix<A> b, scan_matrix<A> c, A const* first,
                                    scan_trace<A> trace, A* y, scan_ahead const& ahead) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  V state[States];
  MOE_UNROLL(16)
  for (int n = 0; n < States; ++n) {
    state[n] = V::load(first + n * W);
    state[n].store(trace.h + n * W);
  }
  for (index_t t = 0; t < rows; ++t) {
    ahead.fetch(t);
    V const step = V::load(dt + t * W), input = V::load(du + t * W);
    A const *const to = b.row(t), *const from = c.row(t);
    A *const h = trace.h + (t + 1) * trace.row, *const decays = trace.decay + t * trace.row;
    V sum = NeedsY ? V::load(y + t * W) : V::zero();
    MOE_UNROLL(16)
    for (int n = 0; n < States; ++n) {
      V const d = decay(step, V::load(rate + n * W));
      state[n] = madd(d, state[n], input * V::all(to[n]));
      d.store(decays + n * W);
      state[n].store(h + n * W);
      if constexpr (NeedsY) sum = madd(V::all(from[n]), state[n], sum);
    }
    if constexpr (NeedsY) sum.store(y + t * W);
  }
}

/// Sums over the lanes of W vectors, which arrive one by one: in the end lane i of v[0] is the sum of vector i by the tree of halves.
template <int Bit, class A>
MOE_INLINE void settle(simd<A>* v, int i) {
  if ((i & Bit) == 0) return;
  simd<A>&low = v[i - Bit], &high = v[i];
  exchange<Bit>(low.v, high.v, std::make_integer_sequence<int, simd<A>::width>{});
  low = low + high;
  if constexpr (Bit > 1) settle<Bit / 2>(v, i - Bit);
}
template <class A>
MOE_INLINE void add_lanes(simd<A>* v, int i, simd<A> x) {
  constexpr int W = simd<A>::width;
  v[i] = x;
  settle<W / 2>(v + i / W * W, i % W);
}

/// Rows of a chunk [rows][lanes]: dt, dt u and d_y; on return also sum_n l b and sum_n l a q.
template <class A>
struct scan_rows_backward {
  A const *dt, *du, *d_y;
  A *through_b, *through_a;
};

/// The adjoint of `States` states, in: carried into the last row, out: of the state before the first. Adds to d_a. sums, rows `stride` apart: d_b of
/// a slice, then d_c, summed over the lanes.
template <int States, class A>
MOE_NOINLINE void scan_states_backward(index_t rows, scan_rows_backward<A> r, A const* a, scan_matrix<A> b, scan_matrix<A> c, scan_trace<A> trace,
                                       A* adjoint, A* d_a, A* sums, index_t stride) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  constexpr int S = scan_adjoint_slice;
  V carry[States], total[States];
  MOE_UNROLL(8)
  for (int n = 0; n < States; ++n) carry[n] = V::load(adjoint + n * W), total[n] = V::zero();
  for (index_t t = rows - 1; t >= 0; --t) {
    V const dt = V::load(r.dt + t * W), du = V::load(r.du + t * W), d_y = V::load(r.d_y + t * W);
    A const *const from = b.row(t), *const to = c.row(t), *const decays = trace.decay + t * trace.row, *const h = trace.h + t * trace.row;
    V through_b = V::load(r.through_b + t * W), through_a = V::load(r.through_a + t * W), summed[2 * S];
    MOE_UNROLL(8)
    for (int n = 0; n < S; ++n) {
      V by_b = V::zero(), by_c = by_b;
      if (n < States) {
        V const l = madd(d_y, V::all(to[n]), carry[n]);
        through_b = madd(l, V::all(from[n]), through_b);
        carry[n] = V::load(decays + n * W) * l;
        V const w = carry[n] * V::load(h + n * W);  // l q
        total[n] = madd(dt, w, total[n]);
        through_a = madd(w, V::load(a + n * W), through_a);
        by_b = l * du, by_c = d_y * V::load(h + trace.row + n * W);
      }
      add_lanes(summed, n, by_b);
      add_lanes(summed, S + n, by_c);
    }
    through_b.store(r.through_b + t * W);
    through_a.store(r.through_a + t * W);
    MOE_UNROLL(8)
    for (int i = 0; i < 2 * S; i += static_cast<int>(W)) summed[i].store(sums + t * stride + i);
  }
  MOE_UNROLL(8)
  for (int n = 0; n < States; ++n) {
    carry[n].store(adjoint + n * W);
    (V::load(d_a + n * W) + total[n]).store(d_a + n * W);
  }
}

}  // namespace moe::inline MOE_ISA::detail
