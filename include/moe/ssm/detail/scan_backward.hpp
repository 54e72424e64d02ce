#pragma once
#include <moe/ssm/detail/scan_adjoint.hpp>

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

/// Memory of all threads: of a wave of sequences, whose chunks are worked on side by side, some chunks of each in a round.
template <selective_scan_config C, class T>
struct scan_backward_shared {
  using A = accumulator<T>;
  static constexpr index_t W = simd<A>::width, N = C.d_state;
  /// d_b and d_c of one row and block.
  static constexpr index_t sums_width = (N + scan_adjoint_slice - 1) / scan_adjoint_slice * 2 * scan_adjoint_slice;
  static constexpr index_t sums_bytes = index_t{2} << 20;  ///< about so much for sums: a round should be long against its begin and end
  index_t blocks, wave, depth, rows;                       ///< depth: chunks of a round; rows: of a sequence in a round
  A *a, *rate;                                             ///< [blocks][N][lanes]
  A *adjoint, *d_a;                                        ///< [wave][blocks][N][lanes]
  A *d_skip, *d_delta_bias;                                ///< [wave][blocks][lanes]
  A* sums;                                                 ///< [wave][blocks][rows][sums_width]
  scan_backward_shared(arena& memory, cpu const& space, index_t tokens, index_t channels, index_t sequences)
      : blocks(blocks_of<C, T>(channels).count()) {
    index_t const some = std::max<index_t>(blocks, 1), chunk_bytes = elements(scan_chunk, some, sums_width, sizeof(A));
    wave = std::min(sequences, std::max(chunks(8 * thread_count(space), some), sums_bytes / chunk_bytes));
    depth = std::clamp<index_t>(sums_bytes / chunk_bytes / std::max<index_t>(wave, 1), 1, 16);
    depth = std::min(depth, std::max<index_t>(chunks(tokens, scan_chunk), 1));
    rows = depth == 1 ? std::min(tokens, scan_chunk) : depth * scan_chunk;
    a = memory.take<A>(elements(blocks, N * W)), rate = memory.take<A>(elements(blocks, N * W));
    adjoint = memory.take<A>(elements(wave, blocks, N * W)), d_a = memory.take<A>(elements(wave, blocks, N * W));
    d_skip = memory.take<A>(elements(wave, blocks, W)), d_delta_bias = memory.take<A>(elements(wave, blocks, W));
    sums = memory.take<A>(elements(wave, rows, blocks, sums_width));
  }
  index_t at(index_t place, index_t block) const { return (place * blocks + block) * W; }  ///< in d_skip; times N in d_a
  A* sums_of(index_t place, index_t block, index_t row) const { return sums + ((place * blocks + block) * rows + row) * sums_width; }
};

/// Memory of one thread.
template <selective_scan_config C, class T>
struct scan_backward_scratch {
  using A = accumulator<T>;
  static constexpr index_t W = simd<A>::width, N = C.d_state, copied = std::is_same_v<T, A> ? 0 : scan_chunk * N;
  A *dt, *du, *u, *slope, *d_y, *y, *through_b, *through_a, *gate;  ///< [scan_chunk][lanes]
  A* first;                                                         ///< [N][lanes] the states before the chunk
  A *h, *decay;                                                     ///< [scan_chunk + 1][scan_adjoint_slice][lanes]
  A *b, *c;                                                         ///< [scan_chunk][N], where T is not A
  explicit scan_backward_scratch(arena& memory) {
    for (A** p : {&dt, &du, &u, &slope, &d_y, &y, &through_b, &through_a, &gate}) *p = memory.take<A>(scan_chunk * W);
    first = memory.take<A>(N * W);
    for (A** p : {&h, &decay}) *p = memory.take<A>((scan_chunk + 1) * scan_adjoint_slice * W);
    for (A** p : {&b, &c}) *p = memory.take<A>(copied);
  }
};

template <selective_scan_config C, class T>
std::size_t scan_backward_thread_bytes() {
  arena measure;
  scan_backward_scratch<C, T>{measure};
  return measure.peak();
}
template <selective_scan_config C, class T>
std::size_t scan_backward_scratch_bytes(cpu const& space, index_t tokens, index_t channels, index_t sequences) {
  arena measure;
  scan_backward_shared<C, T>(measure, space, tokens, channels, sequences);
  measure.take<std::byte>(static_cast<index_t>(scan_backward_thread_bytes<C, T>()) * thread_count(space));
  return measure.peak();
}

/// One chunk of one block of channels.
template <selective_scan_config C, class T>
struct scan_backward_item {
  using A = accumulator<T>;
  using V = simd<A>;
  static constexpr index_t W = V::width, N = C.d_state, S = scan_adjoint_slice;
  scan_backward_problem<T> const& p;
  scan_backward_shared<C, T> const& all;
  scan_backward_scratch<C, T> m;
  index_t s, place;                  ///< the sequence, its place in the wave
  index_t number, begin, rows, row;  ///< the chunk, its first row, its rows; its first row in `sums`
  scan_matrix<A> b, c;

  void run(scan_block const& block, index_t i, scan_ahead const& ahead) const {
    load_first_states(block);
    for_lanes<A>(block, [&](auto channels) { before(block, channels); });
    bool const gated = p.in.z.data() != nullptr;
    index_t const offset = all.at(place, i) * N;
    for_slices<C.d_state, scan_adjoint_slice>([&](int n, auto states) {
      scan_states<states()>(gated, i * N * W + n * W, offset + n * W, all.sums_of(place, i, row) + n * 2, n, n == 0 ? ahead : scan_ahead());
    });
    for_lanes<A>(block, [&](auto channels) { after(block, all.at(place, i), channels); });
  }

 private:
  template <int States>
  void scan_states(bool gated, index_t rate, index_t state, A* sums, int n, scan_ahead const& ahead) const {
    scan_trace<A> const trace{m.h, m.decay};
    auto const b_n = b.from(n), c_n = c.from(n);
    if (gated) scan_states_again<States, true>(rows, m.dt, m.du, all.rate + rate, b_n, c_n, m.first + n * W, trace, m.y, ahead);
    else scan_states_again<States, false>(rows, m.dt, m.du, all.rate + rate, b_n, c_n, m.first + n * W, trace, m.y, ahead);
    scan_rows_backward<A> const r{m.dt, m.du, m.d_y, m.through_b, m.through_a};
    scan_states_backward<States>(rows, r, all.a + rate, b_n, c_n, trace, all.adjoint + state, all.d_a + state, sums, all.sums_width);
  }
  void load_first_states(scan_block const& block) const {
    if (number == 0) return load_states(p.initial_state, s, block, N, m.first);
    A const* const from = checkpoint_of(p.checkpoints, p.sequences, s, number, N, block);
    for (index_t n = 0; n < N; ++n) V::load(from + n * p.checkpoints.states.row_stride(), block.lanes).store(m.first + n * W);
  }
  MOE_INLINE void before(scan_block const& block, auto channels) const {
    V const bias = lanes_of(p.in.delta_bias, block);
    for (index_t t = 0; t < rows; ++t) {
      V dt = V::load(p.in.delta.row(begin + t) + block.first, channels) + bias, slope = V::all(A(1));
      if constexpr (C.softplus) dt = softplus(dt, &slope);
      V const u = V::load(p.in.u.row(begin + t) + block.first, channels);
      V d_y = V::load(p.d_out.row(begin + t) + block.first, channels);
      if (p.in.z.data() != nullptr) {
        V const z = V::load(p.in.z.row(begin + t) + block.first, channels), gate = sigmoid(z);
        (d_y * (gate * madd(z, V::all(A(1)) - gate, V::all(A(1))))).store(m.gate + t * W);
        d_y = d_y * (z * gate);
      }
      dt.store(m.dt + t * W);
      slope.store(m.slope + t * W);
      u.store(m.u + t * W);
      (dt * u).store(m.du + t * W);
      d_y.store(m.d_y + t * W);
      V const none = V::zero();
      none.store(m.y + t * W), none.store(m.through_b + t * W), none.store(m.through_a + t * W);
    }
  }
  MOE_INLINE void after(scan_block const& block, index_t at, auto channels) const {
    V const skip = lanes_of(p.in.skip, block);
    bool const skips = p.in.skip.data() != nullptr, gated = p.in.z.data() != nullptr;
    V d_skip = V::zero(), d_bias = d_skip;
    for (index_t t = rows - 1; t >= 0; --t) {
      V const u = V::load(m.u + t * W), d_y = V::load(m.d_y + t * W), through_b = V::load(m.through_b + t * W);
      V const d_delta = rounded_product(madd(through_b, u, V::load(m.through_a + t * W)), V::load(m.slope + t * W));
      V d_u = V::load(m.dt + t * W) * through_b, y = V::load(m.y + t * W);
      if (skips) d_u = madd(skip, d_y, d_u), y = madd(skip, u, y);
      if (gated) (V::load(m.gate + t * W) * y).store(p.g.d_z.row(begin + t) + block.first, channels);
      d_u.store(p.g.d_u.row(begin + t) + block.first, channels);
      d_delta.store(p.g.d_delta.row(begin + t) + block.first, channels);
      d_skip = madd(d_y, u, d_skip);
      d_bias = d_bias + d_delta;
    }
    (V::load(all.d_skip + at) + d_skip).store(all.d_skip + at);
    (V::load(all.d_delta_bias + at) + d_bias).store(all.d_delta_bias + at);
  }
};

}  // namespace moe::inline MOE_ISA::detail
