#pragma once
#include <bit>
#include <concepts>
#include <cstdint>
#include <string_view>

#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

using index_t = std::int64_t;

/// bfloat16 storage: the upper half of a float. Arithmetic happens in float; the conversion back rounds to nearest, ties to even.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  MOE_HD explicit bf16(float x) {
    auto u = __builtin_bit_cast(std::uint32_t, x);  // std::bit_cast is a host function to nvcc
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);  // a NaN stays one, quiet
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  MOE_HD explicit bf16(double x) : bf16(to_odd(x)) {}
  MOE_HD operator float() const { return __builtin_bit_cast(float, std::uint32_t{bits} << 16); }

 private:
  /// The neighbour of x with an odd last bit unless x is a float: rounding that to nearest is rounding x itself, once.
  MOE_HD static float to_odd(double x) {
    float const f = static_cast<float>(x);
    auto const u = __builtin_bit_cast(std::uint32_t, f);
    double const d = f;
    if (d == x || d != d || (u & 1u) != 0) return f;
    return __builtin_bit_cast(float, (d > x) == (d > 0 || (d == 0 && x > 0)) ? u - 1 : u + 1);
  }
};

/// The types an operator stores.
template <class T>
concept storage = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bf16>;

namespace detail {
template <class T>
struct accumulator_of {
  using type = T;
};
template <>
struct accumulator_of<bf16> {
  using type = float;
};
template <class T>
struct accumulator_of<T const> : accumulator_of<T> {};
}  // namespace detail

/// The type sums are formed in: float for bf16, else the type itself.
template <class T>
using accumulator = typename detail::accumulator_of<T>::type;

/// The name a safetensors file gives the type.
template <storage T>
constexpr std::string_view dtype_name() {
  if constexpr (std::same_as<T, float>) return "F32";
  else if constexpr (std::same_as<T, double>) return "F64";
  else return "BF16";
}

}  // namespace moe::inline MOE_ISA
