#pragma once
#include <moe/ssm/detail/scan_rows.hpp>

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

/// What one thread needs for a work item.
template <selective_scan_config C, class T>
struct scan_forward_scratch {
  using A = accumulator<T>;
  static constexpr index_t W = simd<A>::width, N = C.d_state, copied = std::is_same_v<T, A> ? 0 : scan_chunk * N;
  A *rate, *h;                ///< [blocks of an item][N][lanes]
  A *dt, *du, *u, *gate, *y;  ///< [scan_chunk][lanes]
  A *b, *c;                   ///< [scan_chunk][N], where T is not A
  explicit scan_forward_scratch(arena& memory) {
    for (A** p : {&rate, &h}) *p = memory.take<A>(scan_item_blocks * N * W);
    for (A** p : {&dt, &du, &u, &gate, &y}) *p = memory.take<A>(scan_chunk * W);
    for (A** p : {&b, &c}) *p = memory.take<A>(copied);
  }
};

template <selective_scan_config C, class T>
std::size_t scan_forward_scratch_bytes(cpu const& space) {
  arena measure;
  for (int i = 0; i < thread_count(space); ++i) scan_forward_scratch<C, T>{measure};
  return measure.peak();
}

/// The sum over n so far, for the next slice of states.
template <class A>
struct scan_keep {
  A* y;
  MOE_INLINE void operator()(index_t t, simd<A> sum) const { sum.store(y + t * simd<A>::width); }
};
/// The whole sum: skip and gate, then out. One row at a time, between the steps of the recurrence: stores that are pages apart would wait for each
/// other.
template <class T, class Lanes>
struct scan_finish {
  using A = accumulator<T>;
  A const *u, *gate;  ///< [rows][lanes], or null: none
  simd<A> skip;
  T* out;
  index_t stride;
  Lanes lanes;
  MOE_INLINE void operator()(index_t t, simd<A> y) const {
    if (u != nullptr) y = madd(skip, simd<A>::load(u + t * simd<A>::width), y);
    if (gate != nullptr) y = y * simd<A>::load(gate + t * simd<A>::width);
    y.store(out + t * stride, lanes);
  }
};

/// `rows` steps of `States` states: h moves on, `take` gets y with their part of the sum over n.
template <int States, class A, class Take>
MOE_NOINLINE void scan_states_forward(index_t rows, A const* dt, A const* du, A const* rate, scan_matrix<A> b, scan_matrix<A> c,
                                      scan_ahead const& ahead, A* h, A const* y, Take const& take) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  V state[States];
  MOE_UNROLL(16)
  for (int n = 0; n < States; ++n) state[n] = V::load(h + n * W);
  for (index_t t = 0; t < rows; ++t) {
    ahead.fetch(t);
    V const step = V::load(dt + t * W), input = V::load(du + t * W);
    A const *const to = b.row(t), *const from = c.row(t);
    V sum = V::load(y + t * W);
    MOE_UNROLL(16)
    for (int n = 0; n < States; ++n) {
      state[n] = madd(decay(step, V::load(rate + n * W)), state[n], input * V::all(to[n]));
      sum = madd(V::all(from[n]), state[n], sum);
    }
    take(t, sum);
  }
  MOE_UNROLL(16)
  for (int n = 0; n < States; ++n) state[n].store(h + n * W);
}

/// Some blocks of channels of one sequence, from its first row to its last.
template <selective_scan_config C, class T>
struct scan_forward_item {
  using A = accumulator<T>;
  using V = simd<A>;
  static constexpr index_t W = V::width, N = C.d_state;
  scan_forward_problem<T> const& p;
  scan_forward_scratch<C, T> m;
  scan_blocks const& blocks;
  index_t s;

  void run(index_t first_block, index_t last_block) const {
    index_t const first = p.sequences.first(s), last = p.sequences.first(s + 1);
    for (index_t i = first_block; i < last_block; ++i) {
      load_rates(p.in.a, blocks[i], N, m.rate + (i - first_block) * N * W);
      load_states(p.initial_state, s, blocks[i], N, m.h + (i - first_block) * N * W);
    }
    for (index_t begin = first, number = 0; begin < last; begin += scan_chunk, ++number)
      for (index_t i = first_block; i < last_block; ++i) {
        bool const across = i + 1 < last_block;
        index_t const rows = std::min(last - begin, scan_chunk), next = across ? begin : begin + rows;
        scan_ahead const ahead = rows_ahead(begin, rows, blocks[i], next, std::min(last - next, scan_chunk), blocks[across ? i + 1 : first_block]);
        chunk(begin, rows, number, blocks[i], ahead, (i - first_block) * N * W);
      }
    for (index_t i = first_block; i < last_block; ++i) store_states(m.h + (i - first_block) * N * W, p.final_state, s, blocks[i], N);
  }

 private:
  /// What the recurrence fetches meanwhile: the operands of the next chunk, and the memory of this one's results.
  scan_ahead rows_ahead(index_t begin, index_t rows, scan_block const& block, index_t next, index_t next_rows, scan_block const& next_block) const {
    scan_ahead ahead;
    ahead.add(p.in.u, next, next_rows, next_block.first);
    ahead.add(p.in.delta, next, next_rows, next_block.first);
    if (p.in.z.data() != nullptr) ahead.add(p.in.z, next, next_rows, next_block.first);
    ahead.add(p.out, begin, rows, block.first);
    return ahead;
  }
  void chunk(index_t begin, index_t rows, index_t number, scan_block const& block, scan_ahead const& ahead, index_t offset) const {
    A *const h = m.h + offset, *const rate = m.rate + offset;
    if (number > 0 && p.checkpoints.states.data() != nullptr) {
      A* const to = checkpoint_of(p.checkpoints, p.sequences, s, number, N, block);
      for (index_t n = 0; n < N; ++n) V::load(h + n * W).store(to + n * p.checkpoints.states.row_stride(), block.lanes);
    }
    for_lanes<A>(block, [&](auto channels) {
      before(begin, rows, block, channels);
      recurrence(begin, rows, block, channels, ahead, rate, h);
    });
  }
  MOE_INLINE void before(index_t begin, index_t rows, scan_block const& block, auto channels) const {
    V const bias = lanes_of(p.in.delta_bias, block);
    for (index_t t = 0; t < rows; ++t) {
      V const dt = time_step_of<C.softplus>(V::load(p.in.delta.row(begin + t) + block.first, channels) + bias);
      V const u = V::load(p.in.u.row(begin + t) + block.first, channels);
      dt.store(m.dt + t * W);
      (dt * u).store(m.du + t * W);
      u.store(m.u + t * W);
      if (p.in.z.data() != nullptr) {
        V const z = V::load(p.in.z.row(begin + t) + block.first, channels);
        (z * sigmoid(z)).store(m.gate + t * W);
      }
      V::zero().store(m.y + t * W);
    }
  }
  template <class Lanes>
  MOE_INLINE void recurrence(index_t begin, index_t rows, scan_block const& block, Lanes channels, scan_ahead const& ahead, A const* rate,
                             A* h) const {
    auto const b = widened(p.in.b, begin, rows, block.group * N, N, m.b), c = widened(p.in.c, begin, rows, block.group * N, N, m.c);
    scan_finish<T, Lanes> const finish{p.in.skip.data() != nullptr ? m.u : nullptr,
                                       p.in.z.data() != nullptr ? m.gate : nullptr,
                                       lanes_of(p.in.skip, block),
                                       p.out.row(begin) + block.first,
                                       p.out.row_stride(),
                                       channels};
    for_slices<C.d_state, scan_slice>([&](auto n, auto states) {
      auto const run = [&](scan_ahead const& fetch, auto const& take) {
        scan_states_forward<states()>(rows, m.dt, m.du, rate + n * W, b.from(n), c.from(n), fetch, h + n * W, m.y, take);
      };
      if (n + states() < N) run(n == 0 ? ahead : scan_ahead(), scan_keep<A>{m.y});
      else run(n == 0 ? ahead : scan_ahead(), finish);
    });
  }
};

template <selective_scan_config C, class T>
void scan_forward(cpu const& space, scan_forward_problem<T> const& p, arena& scratch) {
  scan_blocks const blocks = blocks_of<C, T>(p.in.channels());
  if (p.sequences.count * blocks.count() == 0) return;
  arena::scope const scope(scratch);
  std::size_t const each = scan_forward_scratch_bytes<C, T>(cpu{.threads = 1});
  std::byte* const memory = scratch.take<std::byte>(static_cast<index_t>(each) * thread_count(space));
  index_t const wide = std::clamp<index_t>(p.sequences.count * blocks.count() / (8 * thread_count(space)), 1, scan_item_blocks);
  index_t const items = chunks(blocks.count(), wide);
  double const rows = static_cast<double>(p.in.tokens() / p.sequences.count + 1);
  parallel_for(space, p.sequences.count * items, rows * static_cast<double>(wide) * (C.d_state + 4) * 50, [&](index_t i) {
    arena mine(memory + static_cast<std::size_t>(thread_index()) * each, each);
    index_t const first = i % items * wide;
    scan_forward_item<C, T>{p, scan_forward_scratch<C, T>(mine), blocks, i / items}.run(first, std::min(first + wide, blocks.count()));
  });
}

}  // namespace moe::inline MOE_ISA::detail
