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

}  // namespace moe::inline MOE_ISA::detail
