#pragma once
#include <moe/gemm/detail/micro_kernel.hpp>
#include <moe/gemm/packed_weights.hpp>

namespace moe::inline MOE_ISA::detail {

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
///   lines, depth  of the square that exist      room  elements of a row of `to` from here on; with `spill`, a row that another one follows may be
///                 written beyond them
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
      for (index_t i = 0; i < square; ++i) from[i] = i0 + i < count ? line(i0 + i) : nullptr;
      for (index_t k0 = 0; k0 < depth; k0 += square)
        transpose_square<A, T>(to + k0 * width + i0, width, from, k0, count - i0, depth - k0, width - i0, width <= square);
    }
  } else {
    for (index_t k = 0; k < depth; ++k)
      for (index_t i = 0; i < width; ++i) to[k * width + i] = i < count ? static_cast<A>(line(i)[k]) : A(0);
  }
}

/// How operands of type T become lanes of a step. `lines`: the lines run along k; `columns`: each line is one step (or half of one).
template <class Step>
struct packer {
  using A = typename Step::lane;
  /// to[k, i] = line(i)[k], i < width (zero from count on), k < depth.
  template <class T, class Line>
  static void along(A* to, index_t width, index_t count, index_t depth, Line const& line) {
    transpose_lines<A, T>(to, width, count, depth, line);
  }
  /// to[k, i] = line(k)[i].
  template <class T, class Line>
  static void across(A* to, index_t width, index_t count, index_t depth, Line const& line) {
    using V = simd<A>;
    for (index_t k = 0; k < depth; ++k, to += width) {
      T const* const from = line(k);
      if constexpr (loads_as<A, T>) {
        for (index_t i = 0; i < width; i += V::width) store_row(V::load(from + i, count - i), to + i, width - i, k + 1 < depth);
      } else {
        for (index_t i = 0; i < width; ++i) to[i] = i < count ? static_cast<A>(from[i]) : A(0);
      }
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
  template <class T, class Line>
  static void across(float* to, index_t width, index_t count, index_t depth, Line const& line) {
    for (index_t k = 0; k < depth; k += 2, to += width) {
      bf16 const *const even = line(k), *const odd = k + 1 < depth ? line(k + 1) : nullptr;
      for (index_t i = 0; i < width; i += V::width)
        store_row(pair_of(V::load(even + i, count - i), odd != nullptr ? V::load(odd + i, count - i) : V::zero()), to + i, width - i, k + 2 < depth);
    }
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

/// Rows [first, first + count) and columns [k0, k0 + depth) of `a`, as [steps, count].
template <class Step, class T>
inline void pack_rows(typename Step::lane* to, operand<T> const& a, index_t first, index_t count, index_t k0, index_t depth) {
  if (a.transposed) packer<Step>::template across<T>(to, count, count, depth, [&](index_t k) { return a.line(k0 + k) + first; });
  else packer<Step>::template along<T>(to, count, count, depth, [&](index_t i) { return a.line(first + i) + k0; });
}

/// Columns [first, first + count) of rows [k0, k0 + depth) of `b`, as [steps, panel_columns], zero beyond `count`.
template <class Step, class T>
inline void pack_columns(typename Step::lane* to, operand<T> const& b, index_t first, index_t count, index_t k0, index_t depth) {
  if (b.transposed) packer<Step>::template along<T>(to, panel_columns, count, depth, [&](index_t j) { return b.line(first + j) + k0; });
  else packer<Step>::template across<T>(to, panel_columns, count, depth, [&](index_t k) { return b.line(k0 + k) + first; });
}

}  // namespace moe::inline MOE_ISA::detail
