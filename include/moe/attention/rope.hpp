#pragma once
#include <cmath>
#include <concepts>

#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA {

/// d_head: elements per head, even; base: pair i turns by base^(-2 i / d_head) per position.
struct rope_config {
  int d_head;
  double base = 10000;
};

/// Cosines and sines of all angles, in memory of the caller: row p holds cos(p theta_i) for i < d_head / 2, then sin(p theta_i).
template <class A>
struct rope_table {
  matrix_view<A> rows;  // [positions, d_head]

  static rope_table take(arena& from, index_t positions, int d_head) { return {from.mat<A>(positions, d_head)}; }
  index_t positions() const { return rows.template extent<0>(); }
};

/// Positions of sequences of `length` rows, one after the other, each from `first` on: row r stands at first + r % length.
struct consecutive {
  index_t first, length;
  MOE_HD index_t operator()(index_t row) const {
    if (row < length) return first + row;
    if (row < (index_t{1} << 32))
      return first + index_t{static_cast<std::uint32_t>(row) % static_cast<std::uint32_t>(length)};  // 64 bits divide slowly on a GPU
    return first + row % length;
  }
};

namespace detail {
template <rope_config C, class A>
void check_rope_table(char const* op, rope_table<A> const& table) {
  static_assert(C.d_head >= 2 && C.d_head % 2 == 0, "moe::rope: d_head must be even, so that its elements form pairs");
  index_t const columns = table.rows.template extent<1>();
  expects(columns == C.d_head || table.positions() == 0, errc::shape_mismatch, op, ": table has ", columns, " columns, needs d_head = ", C.d_head);
}

/// (a, b) turned by the angles of a row of the table, or back by them, for the Half pairs of one head.
template <int Half, bool Back, class A, class T>
MOE_INLINE void rotate_head(T* x, A const* angles) {
  using V = simd<A>;
  for (int i = 0; i < Half; i += V::width) {
    int const n = Half - i;
    V const a = V::load(x + i, n), b = V::load(x + Half + i, n), c = V::load(angles + i, n), t = V::load(angles + Half + i, n);
    V const s = Back ? -t : t;
    V const low = madd(a, c, b * -s), high = madd(b, c, a * s);  // the second product is rounded before it is added
    low.store(x + i, n);
    high.store(x + Half + i, n);
  }
}

/// What both spaces can check.
template <rope_config C, class A>
void check_rope(char const* op, rope_table<A> const& table, index_t columns) {
  check_rope_table<C>(op, table);
  expects(columns % C.d_head == 0, errc::shape_mismatch, op, ": x has ", columns, " columns, needs a multiple of d_head = ", C.d_head);
}
inline void check_positions(char const* op, in<index_t, dyn> position, index_t tokens, index_t /*positions*/) {
  expects(position.extent<0>() == tokens, errc::shape_mismatch, op, ": position has ", position.extent<0>(), " elements, x has ", tokens, " rows");
}
inline void check_positions(char const* op, consecutive const& position, index_t tokens, index_t positions) {
  if (tokens == 0) return;
  index_t const first = position.first, length = position.length, used = length < tokens ? length : tokens;
  expects(length >= 1, errc::bad_argument, op, ": length is ", length, ", needs to be at least 1");
  expects(first >= 0 && used <= positions && first <= positions - used, errc::bad_argument, op, ": ", used, " positions from ", first,
          " on, need to be in [0, ", positions, "), the positions of the table");
}

template <rope_config C, bool Back, class T, class Position>
void rotate_rows(char const* op, cpu const& space, tensor<T, dyn, dyn> x, rope_table<accumulator<T>> const& table, Position const& position) {
  index_t const tokens = x.template extent<0>(), columns = x.template extent<1>();
  check_rope<C>(op, table, columns);
  check_positions(op, position, tokens, table.positions());
  if constexpr (!std::same_as<Position, consecutive>)
    for (index_t t = 0; t < tokens; ++t)
      expects(position(t) >= 0 && position(t) < table.positions(), errc::bad_argument, op, ": position[", t, "] is ", position(t),
              ", needs to be in [0, ", table.positions(), "), the positions of the table");
  parallel_for(space, tokens, 4.0 * static_cast<double>(columns), [&](index_t t) {
    for (index_t head = 0; head < columns; head += C.d_head) rotate_head<C.d_head / 2, Back>(x.row(t) + head, table.rows.row(position(t)));
  });
}
}  // namespace detail

/// Fills a table for rope:  cos(p theta_i) and sin(p theta_i),  theta_i = base^(-2 i / d_head),  computed in double, rounded to A once.
///
///   table.rows  [positions, d_head]  out
///
/// Throws  shape_mismatch if the table's rows are not d_head long. An odd d_head does not compile.
template <rope_config C, class A>
void fill_rope_table(cpu const& space, rope_table<A> const& table) {
  detail::check_rope_table<C>("fill_rope_table", table);
  constexpr int half = C.d_head / 2;
  parallel_for(space, table.positions(), 100.0 * C.d_head, [&](index_t p) {
    A* const row = table.rows.row(p);
    for (int i = 0; i < half; ++i) {
      double const angle = static_cast<double>(p) * std::pow(C.base, -2.0 * i / C.d_head);
      row[i] = static_cast<A>(std::cos(angle));
      row[half + i] = static_cast<A>(std::sin(angle));
    }
  });
}

/// Rotary position embedding in the "half" layout, in place: in every head, the pair (a, b) = (x[i], x[i + d_head / 2]) turns by the angle
/// position[t] theta_i:  a' = a cos - b sin,  b' = b cos + a sin.
///
///   x         [tokens, heads * d_head]  in/out  any number of heads; rows may be strided (q and k as columns of one matrix are one call)
///   table     of fill_rope_table<C>     in      in accumulators of T
///   position  [tokens]                  in      0 .. positions of the table - 1; or consecutive{first, length}, which needs no memory
///
/// Edges   0 tokens write nothing. NaN stays in its pair.
/// Throws  shape_mismatch if extents disagree; bad_argument if a position is not in the table, or length < 1. An odd d_head does not compile.
/// Order   element-wise, one madd and one rounded product each: the same bits whatever the batch, the stride and the threads.
/// Cost    reads and writes x once; 6 flops per pair.
/// Source  Su et al. 2021, arXiv:2104.09864; checkpoints in interleaved layout (pairs 2i, 2i + 1) need their rows permuted first.
template <rope_config C, class T>
void rope(cpu const& space, tensor<T, dyn, dyn> x, std::type_identity_t<rope_table<accumulator<T>>> const& table, in<index_t, dyn> position) {
  detail::rotate_rows<C, false, T>("rope", space, x, table, position);
}
template <rope_config C, class T>
void rope(cpu const& space, tensor<T, dyn, dyn> x, std::type_identity_t<rope_table<accumulator<T>>> const& table, consecutive const& position) {
  detail::rotate_rows<C, false, T>("rope", space, x, table, position);
}

/// Gradient of rope, in place: d_x turns back by the same angles.
///
///   d_x  [tokens, heads * d_head]  in/out; the rest and all contracts as rope
template <rope_config C, class T>
void rope_backward(cpu const& space, tensor<T, dyn, dyn> d_x, std::type_identity_t<rope_table<accumulator<T>>> const& table,
                   in<index_t, dyn> position) {
  detail::rotate_rows<C, true, T>("rope_backward", space, d_x, table, position);
}
template <rope_config C, class T>
void rope_backward(cpu const& space, tensor<T, dyn, dyn> d_x, std::type_identity_t<rope_table<accumulator<T>>> const& table,
                   consecutive const& position) {
  detail::rotate_rows<C, true, T>("rope_backward", space, d_x, table, position);
}

}  // namespace moe::inline MOE_ISA
