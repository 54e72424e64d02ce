#pragma once
#include <moe/gemm/detail/micro_kernel.hpp>
#include <moe/gemm/packed_weights.hpp>

namespace moe::inline MOE_ISA::detail {

constexpr index_t divide_up(index_t n, index_t by) { return n / by + (n % by != 0); }

/// n things in as few parts of at most `largest` as there can be, all of nearly the same size; each but the last a multiple of `unit`.
struct even_parts {
  index_t n, unit, count;
  even_parts(index_t things, index_t unit_, index_t largest) : n(things), unit(unit_), count(divide_up(things, largest)) {}
  index_t begin(index_t i) const { return std::min(n, divide_up(n, unit) * i / count * unit); }
  index_t size(index_t i) const { return begin(i + 1) - begin(i); }
};

/// Rows [i0, i1), columns [j0, j1) of a product: one work item.
struct tile {
  index_t i0, i1, j0, j1;
};

/// A matrix as it lies in memory: lines of contiguous elements, `stride` apart; with `index`, line l of the product is line index[l] of the memory.
/// The lines are the rows of the matrix, or its columns if `transposed`.
template <class T>
struct operand {
  using value_type = T;
  T const* data;
  index_t stride;
  bool transposed;
  int const* index = nullptr;

  T const* line(index_t l) const { return data + (index != nullptr ? index_t{index[l]} : l) * stride; }
};

/// What simd<A> can load.
template <class A, class T>
inline constexpr bool loads_as = std::same_as<T, A> || (std::same_as<T, bf16> && std::same_as<A, float>);

/// The first n lanes of a row. If another row follows, which is written later, lanes beyond it may go there: a whole store is faster.
template <class V, class A>
MOE_INLINE void store_row(V x, A* to, index_t n, bool another_follows) {
  if (another_follows) x.store(to);
  else x.store(to, n);
}

/// A square of simd<A>::width lines and as many of their elements, turned in registers: the part that exists, zeros elsewhere.
///   lines, depth  of the square that exist (a line beyond may be null, unless lines is the width)
///   room          elements of a row of `to` from here on; with `spill`, a row that another one follows may be written beyond them
template <class A, class T>
inline void transpose_square(A* to, index_t stride, T const* const* from, index_t k0, index_t lines, index_t depth, index_t room, bool spill) {
  using V = simd<A>;
  V square[V::width];
  if (lines >= V::width && depth >= V::width) {
    MOE_UNROLL(16)
    for (int i = 0; i < V::width; ++i) square[i] = V::load(from[i] + k0);
  } else {
    MOE_UNROLL(16)
    for (int i = 0; i < V::width; ++i) square[i] = i < lines ? V::load(from[i] + k0, depth) : V::zero();
  }
  transpose(square);
  bool const wide = room >= V::width;
  if (wide ? depth >= V::width : spill && depth > V::width) {
    MOE_UNROLL(16)
    for (int k = 0; k < V::width; ++k) square[k].store(to + k * stride);
  } else {
    MOE_UNROLL(16)
    for (int k = 0; k < V::width; ++k)
      if (k < depth) square[k].store(to + k * stride, room);
  }
}

/// to[k, i] = line(i)[k] for i < count, 0 for count <= i < width, k < depth: rows of `to` are `width` long.
template <class A, class T, class Line>
inline void transpose_lines(A* to, index_t width, index_t count, index_t depth, Line const& line) {
  if constexpr (loads_as<A, T>) {
    constexpr index_t square = simd<A>::width;
    for (index_t i0 = 0; i0 < width; i0 += square) {
      T const* from[square];
      index_t const lines = std::min(count - i0, square);
      bool const cut = lines > 0 && width - i0 <= lines;  // what stands beyond the lines is not stored, so it may be anything: the last line again
      for (index_t i = 0; i < square; ++i) from[i] = i < lines ? line(i0 + i) : cut ? from[lines - 1] : nullptr;
      for (index_t k0 = 0; k0 < depth; k0 += square)
        transpose_square<A, T>(to + k0 * width + i0, width, from, k0, cut ? square : lines, depth - k0, width - i0, width <= square);
    }
  } else {
    for (index_t k = 0; k < depth; ++k)
      for (index_t i = 0; i < width; ++i) to[k * width + i] = i < count ? static_cast<A>(line(i)[k]) : A(0);
  }
}

/// How operands of type T become lanes of a step.
template <class Step>
struct packer {
  using A = typename Step::lane;
  /// Lines run along k:  to[k, i] = line(i)[k], i < width (zero from count on), k < depth.
  template <class T, class Line>
  static void along(A* to, index_t width, index_t count, index_t depth, Line const& line) {
    transpose_lines<A, T>(to, width, count, depth, line);
  }
  /// Lines run across k, one for a step:  to[i] = line[i], i < width (zero from count on). `spill`: lanes behind the last may be written.
  template <class T>
  static MOE_INLINE void across(A* to, index_t width, index_t count, T const* line, T const* /*next*/, bool spill) {
    using V = simd<A>;
    if constexpr (loads_as<A, T>) {
      for (index_t i = 0; i < width; i += V::width) store_row(V::load(line + i, count - i), to + i, width - i, spill);
    } else {
      for (index_t i = 0; i < width; ++i) to[i] = i < count ? static_cast<A>(line[i]) : A(0);
    }
  }
};

#if defined(MOE_AVX512_BF16)
/// Lanes are moved as floats: their bits are what counts.
template <>
struct packer<pairs> {
  using V = simd<float>;
  template <class T, class Line>
  static void along(float* to, index_t width, index_t count, index_t depth, Line const& line) {
    auto const raw = [&](index_t i) { return reinterpret_cast<float const*>(line(i)); };
    transpose_lines<float, float>(to, width, count, depth / 2, raw);
    if (depth % 2 == 0) return;
    float* const last = to + depth / 2 * width;
    for (index_t i = 0; i < width; ++i) last[i] = __builtin_bit_cast(float, i < count ? std::uint32_t{line(i)[depth - 1].bits} : 0u);
  }
  /// Two lines for a step; `odd` is null where their number is odd.
  static MOE_INLINE void across(float* to, index_t width, index_t count, bf16 const* even, bf16 const* odd, bool spill) {
    for (index_t i = 0; i < width; i += V::width)
      store_row(pair_of(V::load(even + i, count - i), odd != nullptr ? V::load(odd + i, count - i) : V::zero()), to + i, width - i, spill);
  }

 private:
  typedef std::uint32_t bits __attribute__((vector_size(vector_bytes)));
  /// The upper halves of both: even's below odd's.
  static MOE_INLINE V pair_of(V even, V odd) {
    bits const low = std::bit_cast<bits>(even.v) >> 16, high = std::bit_cast<bits>(odd.v);
    return {std::bit_cast<V::native>(low | high)};
  }
};
#endif

/// Calls f(step, line, next line or null, another step follows) for the steps of lines [k0, k0 + depth) of x.
template <class Step, class T, class F>
MOE_INLINE void for_each_step(operand<T> const& x, index_t k0, index_t depth, F const& f) {
  for (index_t k = 0; k < depth; k += Step::depth)
    f(k / Step::depth, x.line(k0 + k), Step::depth > 1 && k + 1 < depth ? x.line(k0 + k + 1) : nullptr, k + Step::depth < depth);
}

/// How the rows of a tile lie when they are packed: each block [steps, its rows], a cache line apart more than they need (or blocks of a power of two
/// would share one set of L1); rows whose lines run across k stay beside each other, all of a step.
struct packed_rows_order {
  even_parts const& blocks;
  index_t steps;
  bool across;
  index_t place(index_t b) const { return across ? blocks.begin(b) : blocks.begin(b) * steps + b * 16; }
  index_t step(index_t b) const { return across ? blocks.n : blocks.size(b); }
};

/// Rows [first, first + blocks.n) and columns [k0, k0 + depth) of `a`.
template <class Step, class T>
inline packed_rows_order pack_rows(typename Step::lane* to, operand<T> const& a, index_t first, even_parts const& blocks, index_t k0, index_t depth) {
  packed_rows_order const order{blocks, divide_up(depth, Step::depth), a.transposed};
  if (a.transposed) {
    for_each_step<Step>(a, k0, depth, [&](index_t step, T const* line, T const* next, bool follows) {
      packer<Step>::across(to + step * blocks.n, blocks.n, blocks.n, line + first, next == nullptr ? next : next + first, follows);
    });
  } else {
    for (index_t b = 0; b < blocks.count; ++b)
      packer<Step>::template along<T>(to + order.place(b), blocks.size(b), blocks.size(b), depth,
                                      [&](index_t i) { return a.line(first + blocks.begin(b) + i) + k0; });
  }
  return order;
}

/// Columns [first, first + count) of rows [k0, k0 + depth) of `b`, as [steps, panel_columns], zero beyond `count`.
template <class Step, class T>
inline void pack_columns(typename Step::lane* to, operand<T> const& b, index_t first, index_t count, index_t k0, index_t depth) {
  if (b.transposed) return packer<Step>::template along<T>(to, panel_columns, count, depth, [&](index_t j) { return b.line(first + j) + k0; });
  for_each_step<Step>(b, k0, depth, [&](index_t step, T const* line, T const* next, bool) {
    packer<Step>::across(to + step * panel_columns, panel_columns, count, line + first, next == nullptr ? next : next + first, false);
  });
}

}  // namespace moe::inline MOE_ISA::detail
