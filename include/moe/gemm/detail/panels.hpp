#pragma once
#include <moe/core/buffer.hpp>
#include <moe/gemm/detail/pack.hpp>

namespace moe::inline MOE_ISA::detail {

/// The right factor of a product, seen panel by panel: [k, panel_columns] of lanes. `ready` finds a panel that memory holds in this order already, or
/// null; `pack` makes one, which is worth sharing between tiles where elements have to be turned. `path` is where it will be read from.
template <class Step, class T>
struct plain_factor {
  operand<T> b;
  bool worth_sharing(index_t k) const { return b.transposed || k > 256; }
  fetch_path path(index_t column, index_t k0) const {
    if (b.transposed) return {reinterpret_cast<char const*>(b.line(column) + k0), 2 * alignment, 0};
    index_t const step = b.stride * static_cast<index_t>(sizeof(T)) * Step::depth;
    return {reinterpret_cast<char const*>(b.data + k0 * b.stride + column), step, 0};
  }
  typename Step::lane const* ready(index_t /*column*/, index_t /*k*/) const { return nullptr; }
  void pack(typename Step::lane* to, index_t column, index_t count, index_t k0, index_t depth) const {
    pack_columns<Step>(to, b, column, count, k0, depth);
  }
};

/// Whether panels of type T are what the step's lanes are.
template <class Step, class T>
inline constexpr bool panels_are_lanes = std::is_same_v<typename Step::lane, T>;
#if defined(MOE_AVX512_BF16)
template <>
inline constexpr bool panels_are_lanes<pairs, bf16> = true;
#endif

/// A packed weight [out, in] as [k = in, columns = out]: what its layout was made for.
template <class Step, class T>
struct panel_factor {
  T const* data;
  index_t panel_size;
  bool worth_sharing(index_t) const { return !panels_are_lanes<Step, T>; }
  fetch_path path(index_t column, index_t k0) const {
    return {reinterpret_cast<char const*>(data + column / panel_columns * panel_size + k0 * panel_columns), 2 * alignment, 0};
  }
  typename Step::lane const* ready(index_t column, index_t k) const {
    if constexpr (panels_are_lanes<Step, T>)
      return reinterpret_cast<typename Step::lane const*>(data + column / panel_columns * panel_size + k * panel_columns);
    else return nullptr;
  }
  /// bf16 pairs for a chain: the even and the odd elements become floats.
  void pack(typename Step::lane* to, index_t column, index_t /*count*/, index_t k0, index_t depth) const {
    if constexpr (!panels_are_lanes<Step, T>) {
      using V = simd<float>;
      typedef std::uint32_t bits __attribute__((vector_size(vector_bytes)));
      float const* const from = reinterpret_cast<float const*>(data + column / panel_columns * panel_size + k0 * panel_columns);
      for (index_t k = 0; k < depth; k += 2)
        for (index_t j = 0; j < panel_columns; j += V::width) {
          bits const x = __builtin_bit_cast(bits, V::load(from + k / 2 * panel_columns + j).v);
          V{__builtin_bit_cast(V::native, x << 16)}.store(to + k * panel_columns + j);
          if (k + 1 < depth) V{__builtin_bit_cast(V::native, x & 0xffff0000u)}.store(to + (k + 1) * panel_columns + j);
        }
    }
  }
};

/// A packed weight [out, in] as [k = out, columns = in]: for the input gradient. Panels are turned on the way into the cache.
template <class Step, class T>
struct turned_factor {
  T const* data;
  index_t panel_size;
  bool worth_sharing(index_t) const { return true; }
  /// Squares of 32 by 32, far from each other: no machine guesses where the next one is.
  fetch_path path(index_t column, index_t k0) const {
    constexpr index_t square = chunk_steps<Step> * 2 * static_cast<index_t>(alignment);
    return {reinterpret_cast<char const*>(data + k0 / panel_columns * panel_size + column * panel_columns), 2 * alignment,
            panel_size * static_cast<index_t>(sizeof(T)) - square};
  }
  typename Step::lane const* ready(index_t /*column*/, index_t /*k*/) const { return nullptr; }
  /// k0 is a multiple of panel_columns.
  void pack(typename Step::lane* to, index_t column, index_t count, index_t k0, index_t depth) const {
    for (index_t k = 0; k < depth; k += panel_columns) {
      index_t const outputs = std::min(panel_columns, depth - k);
      turn(to + k / Step::depth * panel_columns, data + (k0 + k) / panel_columns * panel_size + column * panel_columns, count, outputs);
    }
  }

 private:
  /// from: rows of one panel from the first input on; to[o, i] for o < outputs, i < panel_columns.
  static void turn(typename Step::lane* to, T const* from, index_t count, index_t outputs) {
    if constexpr (Step::depth == 2) {
      turn_pairs(to, reinterpret_cast<float const*>(from), (count + 1) / 2, outputs);
    } else if constexpr (std::is_same_v<T, typename Step::lane>) {
      transpose_lines<T, T>(to, panel_columns, count, outputs, [&](index_t i) { return from + i * panel_columns; });
    } else {
      for (index_t o = 0; o < outputs; ++o)
        for (index_t i = 0; i < panel_columns; ++i)
          to[o * panel_columns + i] = i < count ? static_cast<float>(from[i / 2 * 2 * panel_columns + 2 * o + i % 2]) : 0.0f;
    }
  }
  /// Lanes hold two inputs of an output, and are to hold two outputs of an input.
  static void turn_pairs(float* to, float const* from, index_t lines, index_t outputs) {
    using V = simd<float>;
    constexpr index_t width = V::width;
    for (index_t o0 = 0; o0 < outputs; o0 += width) {
      V square[V::width];
      MOE_UNROLL(16)
      for (int i = 0; i < V::width; ++i) square[i] = i < lines ? V::load(from + i * panel_columns + o0) : V::zero();
      transpose(square);
      MOE_UNROLL(8)
      for (int o = 0; o < V::width; o += 2)
        if (o0 + o < outputs) {
          float* const row = to + (o0 + o) / 2 * panel_columns;
          interleave<0>(square[o], square[o + 1]).store(row);
          interleave<V::width>(square[o], square[o + 1]).store(row + V::width);
        }
    }
  }
  typedef std::uint16_t all_halves __attribute__((vector_size(vector_bytes)));
  /// Halves First, First + 1, ... of both, one beside the other.
  template <int First>
  static MOE_INLINE simd<float> interleave(simd<float> even, simd<float> odd) {
    return interleave<First>(even, odd, std::make_integer_sequence<int, 2 * simd<float>::width>());
  }
  template <int First, int... I>
  static MOE_INLINE simd<float> interleave(simd<float> even, simd<float> odd, std::integer_sequence<int, I...>) {
    constexpr int width = 2 * simd<float>::width;
    all_halves const a = __builtin_bit_cast(all_halves, even.v), b = __builtin_bit_cast(all_halves, odd.v);
    return {__builtin_bit_cast(simd<float>::native, shuffled<(I % 2 * width + First + I / 2)...>(a, b))};
  }
};

/// A packed weight [out, in] as the factor of x w^T (Forward) or of y w.
template <class Step, class T, bool Forward>
using packed_factor = std::conditional_t<Forward, panel_factor<Step, T>, turned_factor<Step, T>>;

/// What panels have to be copied for: those of the other direction, or of another type than the lanes.
template <class Factor>
inline constexpr bool copies_panels = true;
template <class Step, class T>
inline constexpr bool copies_panels<panel_factor<Step, T>> = !panels_are_lanes<Step, T>;

}  // namespace moe::inline MOE_ISA::detail
