#pragma once
#include <algorithm>

#include <moe/core/parallel.hpp>
#include <moe/ssm/detail/scan_math.hpp>
#include <moe/ssm/selective_scan_operands.hpp>

// The scan on the CPU goes through a sequence in chunks of scan_chunk rows, for a block of channels as wide as a machine vector: channels stand in
// lanes, each with the same recurrence whatever its neighbours. Within a chunk the operands lie side by side: [rows][lanes], [states][lanes].

namespace moe::inline MOE_ISA::detail {

inline constexpr index_t scan_item_blocks = 4;                  ///< blocks of a work item at most: so many neighbours of a row are used at once
inline constexpr int scan_slice = vector_bytes == 64 ? 16 : 8;  ///< states that stay in registers

/// The channels [first, first + lanes) of group `group`. Every group has blocks of its own, the last one of fewer lanes.
struct scan_block {
  index_t first, lanes, group;
};
struct scan_blocks {
  index_t channels, groups, width;
  index_t each() const { return channels / groups; }
  index_t per_group() const { return chunks(each(), width); }
  index_t count() const { return groups * per_group(); }
  scan_block operator[](index_t i) const {
    index_t const group = i / per_group(), offset = i % per_group() * width;
    return {group * each() + offset, std::min(width, each() - offset), group};
  }
};
template <selective_scan_config C, class T>
scan_blocks blocks_of(index_t channels) {
  return {channels, C.groups, simd<accumulator<T>>::width};
}

/// Calls f(lanes), a constant where the block is full, so that its loads need no mask.
template <class A, class F>
MOE_INLINE void for_lanes(scan_block const& block, F const& f) {
  if (block.lanes == simd<A>::width) f(std::integral_constant<index_t, simd<A>::width>());
  else f(block.lanes);
}

/// Rows as accumulator<T>: where they are, or a copy in `memory`.
template <class A>
struct scan_matrix {
  A const* data;
  index_t stride;
  A const* row(index_t i) const { return data + i * stride; }
  scan_matrix from(index_t column) const { return {data + column, stride}; }
};
template <class T, class A>
scan_matrix<A> widened(matrix_view<T const> const& m, index_t first_row, index_t rows, index_t first_column, index_t columns, A* memory) {
  if constexpr (std::is_same_v<T, A>) return {m.row(first_row) + first_column, m.row_stride()};
  else {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < columns; ++j) memory[i * columns + j] = A(m.row(first_row + i)[first_column + j]);
    return {memory, columns};
  }
}

/// to[n][lane] = from(channel, n), 0 in lanes without a channel: of the states of a sequence, or of rates.
template <class A>
void lanes_from_rows(A const* from, index_t row_stride, index_t channels, index_t states, A* to) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  for (index_t n = 0; n < states; n += W) {
    index_t const count = std::min(W, states - n);
    V row[W];
    for (index_t i = 0; i < W; ++i) row[i] = i < channels ? V::load(from + i * row_stride + n, count) : V::zero();
    transpose(row);
    for (index_t i = 0; i < count; ++i) row[i].store(to + (n + i) * W);
  }
}
template <class A>
void rows_from_lanes(A const* from, index_t channels, index_t states, A* to, index_t row_stride) {
  using V = simd<A>;
  constexpr index_t W = V::width;
  for (index_t n = 0; n < states; n += W) {
    index_t const count = std::min(W, states - n);
    V row[W];
    for (index_t i = 0; i < W; ++i) row[i] = i < count ? V::load(from + (n + i) * W) : V::zero();
    transpose(row);
    for (index_t i = 0; i < channels; ++i) row[i].store(to + i * row_stride + n, count);
  }
}

/// The states of sequence s before its first or after its last row, a block of channels. No data: zeros, and nothing written.
template <class A>
void load_states(scan_states<A const> const& states, index_t s, scan_block const& block, index_t d_state, A* to) {
  if (states.data() == nullptr) std::fill_n(to, d_state * simd<A>::width, A(0));
  else lanes_from_rows(&states(s, block.first, 0), states.row_stride(), block.lanes, d_state, to);
}
template <class A>
void store_states(A const* from, scan_states<A> const& states, index_t s, scan_block const& block, index_t d_state) {
  if (states.data() != nullptr) rows_from_lanes(from, block.lanes, d_state, &states(s, block.first, 0), states.row_stride());
}

/// The rates of a block, [d_state][lanes].
template <class A>
void load_rates(matrix_view<A const> const& a, scan_block const& block, index_t d_state, A* to) {
  lanes_from_rows(a.row(block.first), a.row_stride(), block.lanes, d_state, to);
  for (index_t i = 0; i < d_state * simd<A>::width; ++i) to[i] = scan_rate(to[i]);
}

/// dt of delta + delta_bias.
template <bool Softplus, class A>
MOE_INLINE simd<A> time_step_of(simd<A> x) {
  if constexpr (Softplus) return softplus(x);
  else return x;
}

/// Calls f(first, count), a constant, for slices of [0, States).
template <int States, int Slice, class F>
MOE_INLINE void for_slices(F const& f) {
  for (int n = 0; n + Slice <= States; n += Slice) f(n, std::integral_constant<int, Slice>());
  if constexpr (States % Slice != 0) f(States / Slice * Slice, std::integral_constant<int, States % Slice>());
}

/// Rows, one vector each, that a recurrence fetches into the cache while it computes: rows lie whole pages apart, where no hardware looks ahead.
class scan_ahead {
 public:
  template <class T>
  void add(matrix_view<T> const& m, index_t first, index_t rows, index_t column) {
    if (rows > 0) rows_[count_++] = {reinterpret_cast<char const*>(m.row(first) + column), m.row_stride() * static_cast<index_t>(sizeof(T)), rows};
  }
  MOE_INLINE void fetch(index_t t) const {
    for (int i = 0; i < count_; ++i)
      if (t < rows_[i].rows) __builtin_prefetch(rows_[i].first + t * rows_[i].stride, 0, 2);
  }

 private:
  struct {
    char const* first;
    index_t stride, rows;
  } rows_[8];
  int count_ = 0;
};

/// One vector of each row of a checkpoint.
template <class T>
accumulator<T>* checkpoint_of(selective_scan_checkpoints<T> const& c, sequence_rows const& sequences, index_t s, index_t chunk, index_t d_state,
                              scan_block const& block) {
  return c.states.row(c.slot(sequences, s, chunk) * d_state) + block.first;
}

/// delta_bias or skip of a block; zeros where there is none.
template <class A>
simd<A> lanes_of(vector_view<A const> const& v, scan_block const& block) {
  return v.data() == nullptr ? simd<A>::zero() : simd<A>::load(v.data() + block.first, block.lanes);
}

}  // namespace moe::inline MOE_ISA::detail
