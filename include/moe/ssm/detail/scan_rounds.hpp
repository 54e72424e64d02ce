#pragma once
#include <moe/ssm/detail/scan_backward.hpp>

namespace moe::inline MOE_ISA::detail {

/// The rounds of a wave: in each, every sequence goes back by `depth` chunks; then their d_b and d_c are summed over the blocks.
template <selective_scan_config C, class T>
struct scan_backward_wave {
  using A = accumulator<T>;
  using V = simd<A>;
  static constexpr index_t W = V::width, N = C.d_state, summed_rows = 16;
  cpu const& space;
  scan_backward_problem<T> const& p;
  scan_backward_shared<C, T> const& all;
  std::byte* memory;
  scan_blocks blocks;
  index_t first_sequence, sequences;

  void run() const {
    index_t rounds = 1;
    for (index_t i = 0; i < sequences; ++i) rounds = std::max(rounds, chunks(p.sequences.rows(first_sequence + i), scan_chunk * all.depth));
    for (index_t r = 0; r < rounds; ++r) {
      round(r);
      index_t const pieces = chunks(all.rows, summed_rows);
      parallel_for(space, sequences * pieces, static_cast<double>(summed_rows * blocks.count() * all.sums_width) / 4,
                   [&](index_t i) { add_blocks(r, i / pieces, i % pieces * summed_rows); });
    }
    parallel_for(space, blocks.count(), static_cast<double>(sequences * N * W) * 4, [&](index_t i) { add_sequences(i); });
  }

 private:
  /// The i-th chunk of a sequence from its end; negative behind its first.
  index_t chunk_of(index_t place, index_t i) const { return chunks(p.sequences.rows(first_sequence + place), scan_chunk) - 1 - i; }

  void round(index_t r) const {
    std::size_t const each = scan_backward_thread_bytes<C, T>();
    index_t const wide = std::clamp<index_t>(sequences * blocks.count() / (16 * thread_count(space)), 1, scan_item_blocks);
    index_t const items = chunks(blocks.count(), wide);
    double const work = static_cast<double>(all.rows * wide) * (C.d_state + 4) * 100;
    parallel_for(space, sequences * items, work, [&](index_t i) {
      arena mine(memory + static_cast<std::size_t>(thread_index()) * each, each);
      index_t const first = i % items * wide;
      blocks_backward(scan_backward_scratch<C, T>(mine), r, i / items, first, std::min(first + wide, blocks.count()));
    });
  }
  void blocks_backward(scan_backward_scratch<C, T> const& m, index_t r, index_t place, index_t first, index_t last) const {
    index_t const s = first_sequence + place, last_number = std::max<index_t>(chunk_of(place, r * all.depth + all.depth - 1), 0);
    if (r == 0)
      for (index_t i = first; i < last; ++i) begin_sequence(s, place, i);
    index_t const top = chunk_of(place, r * all.depth);
    if (top < 0 && r > 0) return;
    for (index_t number = top; number >= last_number; --number)
      for (index_t i = first; i < last; ++i) {
        index_t const begin = p.sequences.first(s) + number * scan_chunk, rows = rows_of(s, number), column = blocks[i].group * N;
        auto const b = widened(p.in.b, begin, rows, column, N, m.b), c = widened(p.in.c, begin, rows, column, N, m.c);
        scan_ahead ahead = results_of(begin, rows, blocks[i]);
        if (i + 1 < last) add_operands(ahead, s, number, blocks[i + 1]);
        else if (number > last_number) add_operands(ahead, s, number - 1, blocks[first]);
        else if (last < blocks.count()) add_operands(ahead, s, top, blocks[last]);  // of the item that is probably next
        scan_backward_item<C, T>{p, all, m, s, place, number, begin, rows, (top - number) * scan_chunk, b, c}.run(blocks[i], i, ahead);
      }
    if (last_number == 0)
      for (index_t i = first; i < last; ++i) store_states(all.adjoint + all.at(place, i) * N, p.d_initial_state, s, blocks[i], N);
  }
  void begin_sequence(index_t s, index_t place, index_t i) const {
    index_t const at = all.at(place, i);
    load_states(p.d_final_state, s, blocks[i], N, all.adjoint + at * N);
    std::fill_n(all.d_a + at * N, N * W, A(0));
    std::fill_n(all.d_skip + at, W, A(0));
    std::fill_n(all.d_delta_bias + at, W, A(0));
  }
  index_t rows_of(index_t s, index_t number) const { return std::min(p.sequences.rows(s) - number * scan_chunk, scan_chunk); }
  scan_ahead results_of(index_t begin, index_t rows, scan_block const& block) const {
    scan_ahead ahead;
    ahead.add(p.g.d_u, begin, rows, block.first);
    ahead.add(p.g.d_delta, begin, rows, block.first);
    if (p.in.z.data() != nullptr) ahead.add(p.g.d_z, begin, rows, block.first);
    return ahead;
  }
  void add_operands(scan_ahead& ahead, index_t s, index_t number, scan_block const& block) const {
    index_t const begin = p.sequences.first(s) + number * scan_chunk, rows = rows_of(s, number);
    ahead.add(p.in.u, begin, rows, block.first);
    ahead.add(p.in.delta, begin, rows, block.first);
    ahead.add(p.d_out, begin, rows, block.first);
    if (p.in.z.data() != nullptr) ahead.add(p.in.z, begin, rows, block.first);
    if (number > 0) ahead.add(p.checkpoints.states, p.checkpoints.slot(p.sequences, s, number) * N, N, block.first);
  }
  /// d_b and d_c of some rows of a chunk: the sums of the blocks of each group.
  void add_blocks(index_t r, index_t place, index_t row) const {
    index_t const s = first_sequence + place, number = chunk_of(place, r * all.depth + row / scan_chunk);
    index_t const t = p.sequences.first(s) + number * scan_chunk + row % scan_chunk, rows = std::min(summed_rows, p.sequences.first(s + 1) - t);
    if (number < 0) return;
    constexpr index_t S = scan_adjoint_slice;
    for (index_t g = 0; g < C.groups; ++g)
      for (index_t n = 0; n < N; n += S) {
        A sums[summed_rows][2 * S] = {};
        for (index_t i = g * blocks.per_group(); i < (g + 1) * blocks.per_group(); ++i)
          for (index_t k = 0; k < rows; ++k)
            for (index_t j = 0; j < 2 * S; j += W) (V::load(sums[k] + j) + V::load(all.sums_of(place, i, row + k) + 2 * n + j)).store(sums[k] + j);
        for (index_t k = 0; k < rows; ++k)
          for (index_t j = 0; j < std::min(S, N - n); ++j)
            p.g.d_b(t + k, g * N + n + j) = T(sums[k][j]), p.g.d_c(t + k, g * N + n + j) = T(sums[k][S + j]);
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
