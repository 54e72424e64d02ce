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

/// Sequences whose chunks are worked on side by side: enough for the threads.
inline index_t scan_wave(cpu const& space, index_t sequences, index_t blocks) {
  return std::min(sequences, std::max<index_t>(4, chunks(8 * thread_count(space), std::max<index_t>(blocks, 1))));
}

/// Memory of all threads: a wave of sequences, each by blocks of channels.
template <selective_scan_config C, class T>
struct scan_backward_shared {
  using A = accumulator<T>;
  static constexpr index_t W = simd<A>::width, N = C.d_state;
  static constexpr index_t sums_width =
      (N + scan_adjoint_slice - 1) / scan_adjoint_slice * 2 * scan_adjoint_slice;  ///< of d_b and d_c of one row and block
  index_t blocks, wave, rows;
  A *a, *rate;               ///< [blocks][N][lanes]
  A *adjoint, *d_a;          ///< [wave][blocks][N][lanes]
  A *d_skip, *d_delta_bias;  ///< [wave][blocks][lanes]
  A* sums;                   ///< [wave][rows][blocks][sums_width]
  scan_backward_shared(arena& memory, cpu const& space, index_t tokens, index_t channels, index_t sequences)
      : blocks(blocks_of<C, T>(channels).count()), wave(scan_wave(space, sequences, blocks)), rows(std::min(tokens, scan_chunk)),
        a(memory.take<A>(blocks * N * W)), rate(memory.take<A>(blocks * N * W)), adjoint(memory.take<A>(elements(wave, blocks, N * W))),
        d_a(memory.take<A>(elements(wave, blocks, N * W))), d_skip(memory.take<A>(elements(wave, blocks, W))),
        d_delta_bias(memory.take<A>(elements(wave, blocks, W))), sums(memory.take<A>(elements(wave, rows, blocks, sums_width))) {}
  index_t at(index_t place, index_t block) const { return (place * blocks + block) * W; }  ///< in d_skip; times N in d_a
  A* sums_of(index_t place, index_t row, index_t block) const { return sums + ((place * rows + row) * blocks + block) * sums_width; }
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
  index_t s, place, number, begin, rows;  ///< the sequence, its place in the wave; the chunk, its first row, its rows
  scan_matrix<A> b, c;

  void run(scan_block const& block, index_t i, scan_ahead const& ahead) const {
    load_first_states(block);
    for_lanes<A>(block, [&](auto lanes) { before(block, lanes); });
    bool const gated = p.in.z.data() != nullptr;
    index_t const offset = all.at(place, i) * N;
    for_slices<C.d_state, scan_adjoint_slice>([&](int n, auto states) {
      scan_states<states()>(gated, i * N * W + n * W, offset + n * W, all.sums_of(place, 0, i) + n * 2, n, n == 0 ? ahead : scan_ahead());
    });
    for_lanes<A>(block, [&](auto lanes) { after(block, all.at(place, i), lanes); });
  }

 private:
  template <int States>
  void scan_states(bool gated, index_t rate, index_t state, A* sums, int n, scan_ahead const& ahead) const {
    scan_trace<A> const trace{m.h, m.decay};
    auto const b_n = b.from(n), c_n = c.from(n);
    if (gated) scan_states_again<States, true>(rows, m.dt, m.du, all.rate + rate, b_n, c_n, m.first + n * W, trace, m.y, ahead);
    else scan_states_again<States, false>(rows, m.dt, m.du, all.rate + rate, b_n, c_n, m.first + n * W, trace, m.y, ahead);
    scan_rows_backward<A> const r{m.dt, m.du, m.d_y, m.through_b, m.through_a};
    scan_states_backward<States>(rows, r, all.a + rate, b_n, c_n, trace, all.adjoint + state, all.d_a + state, sums, all.blocks * all.sums_width);
  }
  void load_first_states(scan_block const& block) const {
    if (number == 0) return load_states(p.initial_state, s, block, N, m.first);
    A const* const from = checkpoint_of(p.checkpoints, p.sequences, s, number, N, block);
    for (index_t n = 0; n < N; ++n) V::load(from + n * p.checkpoints.states.row_stride(), block.lanes).store(m.first + n * W);
  }
  MOE_INLINE void before(scan_block const& block, auto lanes) const {
    V const bias = lanes_of(p.in.delta_bias, block);
    for (index_t t = 0; t < rows; ++t) {
      V dt = V::load(p.in.delta.row(begin + t) + block.first, lanes) + bias, slope = V::all(A(1));
      if constexpr (C.softplus) dt = softplus(dt, &slope);
      V const u = V::load(p.in.u.row(begin + t) + block.first, lanes);
      V d_y = V::load(p.d_out.row(begin + t) + block.first, lanes);
      if (p.in.z.data() != nullptr) {
        V const z = V::load(p.in.z.row(begin + t) + block.first, lanes), gate = sigmoid(z);
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
  MOE_INLINE void after(scan_block const& block, index_t at, auto lanes) const {
    V const skip = lanes_of(p.in.skip, block);
    bool const skips = p.in.skip.data() != nullptr, gated = p.in.z.data() != nullptr;
    V d_skip = V::zero(), d_bias = d_skip;
    for (index_t t = rows - 1; t >= 0; --t) {
      V const u = V::load(m.u + t * W), d_y = V::load(m.d_y + t * W), through_b = V::load(m.through_b + t * W);
      V const d_delta = rounded_product(madd(through_b, u, V::load(m.through_a + t * W)), V::load(m.slope + t * W));
      V d_u = V::load(m.dt + t * W) * through_b, y = V::load(m.y + t * W);
      if (skips) d_u = madd(skip, d_y, d_u), y = madd(skip, u, y);
      if (gated) (V::load(m.gate + t * W) * y).store(p.g.d_z.row(begin + t) + block.first, lanes);
      d_u.store(p.g.d_u.row(begin + t) + block.first, lanes);
      d_delta.store(p.g.d_delta.row(begin + t) + block.first, lanes);
      d_skip = madd(d_y, u, d_skip);
      d_bias = d_bias + d_delta;
    }
    (V::load(all.d_skip + at) + d_skip).store(all.d_skip + at);
    (V::load(all.d_delta_bias + at) + d_bias).store(all.d_delta_bias + at);
  }
};

/// The rounds of a wave: in each, every sequence goes back by one chunk.
template <selective_scan_config C, class T>
struct scan_backward_wave {
  using A = accumulator<T>;
  using V = simd<A>;
  static constexpr index_t W = V::width, N = C.d_state;
  cpu const& space;
  scan_backward_problem<T> const& p;
  scan_backward_shared<C, T> const& all;
  std::byte* memory;
  scan_blocks blocks;
  index_t first_sequence, sequences;

  void run() const {
    index_t rounds = 1;
    for (index_t i = 0; i < sequences; ++i) rounds = std::max(rounds, chunks(p.sequences.rows(first_sequence + i), scan_chunk));
    for (index_t r = 0; r < rounds; ++r) {
      round(r);
      parallel_for(space, sequences * all.rows, static_cast<double>(blocks.count() * all.sums_width),
                   [&](index_t i) { add_blocks(r, i / all.rows, i % all.rows); });
    }
    parallel_for(space, blocks.count(), static_cast<double>(sequences * N * W) * 4, [&](index_t i) { add_sequences(i); });
  }

 private:
  /// The chunk of a sequence in round r; negative behind its first.
  index_t chunk_of(index_t place, index_t r) const { return chunks(p.sequences.rows(first_sequence + place), scan_chunk) - 1 - r; }

  void round(index_t r) const {
    std::size_t const each = scan_backward_thread_bytes<C, T>();
    index_t const wide = std::clamp<index_t>(sequences * blocks.count() / (8 * thread_count(space)), 1, scan_item_blocks);
    index_t const items = chunks(blocks.count(), wide);
    double const work = static_cast<double>(all.rows * wide) * (C.d_state + 4) * 100;
    parallel_for(space, sequences * items, work, [&](index_t i) {
      arena mine(memory + static_cast<std::size_t>(thread_index()) * each, each);
      index_t const first = i % items * wide;
      blocks_backward(scan_backward_scratch<C, T>(mine), r, i / items, first, std::min(first + wide, blocks.count()));
    });
  }
  void blocks_backward(scan_backward_scratch<C, T> const& m, index_t r, index_t place, index_t first, index_t last) const {
    index_t const s = first_sequence + place, number = chunk_of(place, r);
    if (r == 0)
      for (index_t i = first; i < last; ++i) begin_sequence(s, place, i);
    if (number >= 0) {
      index_t const begin = p.sequences.first(s) + number * scan_chunk, rows = std::min(p.sequences.first(s + 1) - begin, scan_chunk);
      for (index_t i = first; i < last; ++i) {
        index_t const column = blocks[i].group * N;
        auto const b = widened(p.in.b, begin, rows, column, N, m.b), c = widened(p.in.c, begin, rows, column, N, m.c);
        scan_backward_item<C, T>{p, all, m, s, place, number, begin, rows, b, c}.run(blocks[i], i, rows_ahead(s, number, begin, rows, i));
      }
    }
    if (number == 0 || (number < 0 && r == 0))
      for (index_t i = first; i < last; ++i) store_states(all.adjoint + all.at(place, i) * N, p.d_initial_state, s, blocks[i], N);
  }
  void begin_sequence(index_t s, index_t place, index_t i) const {
    index_t const at = all.at(place, i);
    load_states(p.d_final_state, s, blocks[i], N, all.adjoint + at * N);
    std::fill_n(all.d_a + at * N, N * W, A(0));
    std::fill_n(all.d_skip + at, W, A(0));
    std::fill_n(all.d_delta_bias + at, W, A(0));
  }
  /// The operands of the next block, which in the end is the first one of the chunk before; and the memory of this block's results.
  scan_ahead rows_ahead(index_t s, index_t number, index_t begin, index_t rows, index_t i) const {
    bool const across = i + 1 < blocks.count();
    index_t const next = across ? begin : begin - scan_chunk,
                  next_rows = across       ? rows
                              : number > 0 ? scan_chunk
                                           : 0,
                  next_number = across ? number : number - 1;
    scan_block const &block = blocks[i], &next_block = blocks[across ? i + 1 : 0];
    scan_ahead ahead;
    ahead.add(p.in.u, next, next_rows, next_block.first);
    ahead.add(p.in.delta, next, next_rows, next_block.first);
    ahead.add(p.d_out, next, next_rows, next_block.first);
    ahead.add(p.g.d_u, begin, rows, block.first);
    ahead.add(p.g.d_delta, begin, rows, block.first);
    if (p.in.z.data() != nullptr) ahead.add(p.in.z, next, next_rows, next_block.first), ahead.add(p.g.d_z, begin, rows, block.first);
    if (next_number > 0) ahead.add(p.checkpoints.states, p.checkpoints.slot(p.sequences, s, next_number) * N, N, next_block.first);
    return ahead;
  }
  /// d_b and d_c of one row: the sums of the blocks of each group.
  void add_blocks(index_t r, index_t place, index_t row) const {
    index_t const s = first_sequence + place, number = chunk_of(place, r), t = p.sequences.first(s) + number * scan_chunk + row;
    if (number < 0 || t >= p.sequences.first(s + 1)) return;
    constexpr index_t S = scan_adjoint_slice;
    for (index_t g = 0; g < C.groups; ++g)
      for (index_t n = 0; n < N; n += S) {
        A sums[2 * S];
        for (index_t j = 0; j < 2 * S; j += W) {
          V total = V::zero();
          for (index_t i = g * blocks.per_group(); i < (g + 1) * blocks.per_group(); ++i)
            total = total + V::load(all.sums_of(place, row, i) + 2 * n + j);
          total.store(sums + j);
        }
        for (index_t j = 0; j < std::min(S, N - n); ++j) p.g.d_b(t, g * N + n + j) = T(sums[j]), p.g.d_c(t, g * N + n + j) = T(sums[S + j]);
      }
  }
  /// What sums over sequences as well.
  void add_sequences(index_t i) const {
    scan_block const block = blocks[i];
    for (index_t place = 0; place < sequences; ++place) {
      index_t const at = all.at(place, i);
      for (index_t lane = 0; lane < block.lanes; ++lane) {
        for (index_t n = 0; n < N; ++n) p.g.d_a(block.first + lane, n) += all.d_a[at * N + n * W + lane];
        if (p.in.skip.data() != nullptr) p.g.d_skip.data()[block.first + lane] += all.d_skip[at + lane];
        if (p.in.delta_bias.data() != nullptr) p.g.d_delta_bias.data()[block.first + lane] += all.d_delta_bias[at + lane];
      }
    }
  }
};

template <selective_scan_config C, class T>
void scan_backward(cpu const& space, scan_backward_problem<T> const& p, arena& scratch) {
  using A = accumulator<T>;
  scan_blocks const blocks = blocks_of<C, T>(p.in.channels());
  arena::scope const scope(scratch);
  scan_backward_shared<C, T> const all(scratch, space, p.in.tokens(), p.in.channels(), p.sequences.count);
  std::byte* const memory = scratch.take<std::byte>(static_cast<index_t>(scan_backward_thread_bytes<C, T>()) * thread_count(space));
  parallel_for(space, blocks.count(), static_cast<double>(all.N * all.W) * 4, [&](index_t i) {
    A *const a = all.a + i * all.N * all.W, *const rate = all.rate + i * all.N * all.W;
    lanes_from_rows(p.in.a.row(blocks[i].first), p.in.a.row_stride(), blocks[i].lanes, all.N, a);
    for (index_t j = 0; j < all.N * all.W; ++j) rate[j] = scan_rate(a[j]);
  });
  for (index_t s = 0; s < p.sequences.count; s += all.wave)
    scan_backward_wave<C, T>{space, p, all, memory, blocks, s, std::min(all.wave, p.sequences.count - s)}.run();
}

}  // namespace moe::inline MOE_ISA::detail
