#pragma once
#include <cstdint>

#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>

// How kernels read and write rows: 16 bytes at once where the address allows it, element by element where it does not and at the end of a row. Which
// way was taken shows in no result.
namespace moe::inline MOE_ISA::detail {

/// Elements of T in 16 bytes: what one thread takes at once.
template <class T>
inline constexpr int pack_size = ptx::vector16<T>::size;

/// Threads for a row of that many elements.
template <class T>
constexpr index_t packs(index_t columns) {
  return (columns + pack_size<T> - 1) / pack_size<T>;
}

/// The first n of the 16 bytes' elements at p, bit by bit; zeros behind them. Nothing beyond is read.
template <class T>
__device__ ptx::vector16<T> load_vector(T const* p, index_t n) {
  if (n >= pack_size<T> && reinterpret_cast<std::uintptr_t>(p) % 16 == 0) return ptx::load_16(p);
  ptx::vector16<T> r{};
#pragma unroll
  for (int i = 0; i < pack_size<T>; ++i)
    if (i < n) r.v[i] = p[i];
  return r;
}
template <class T>
__device__ void store_vector(T* p, ptx::vector16<T> const& v, index_t n) {
  if (n >= pack_size<T> && reinterpret_cast<std::uintptr_t>(p) % 16 == 0) return ptx::store_16(p, v);
#pragma unroll
  for (int i = 0; i < pack_size<T>; ++i)
    if (i < n) p[i] = v.v[i];
}

/// N numbers in registers, in the type that they are computed in.
template <class A, int N>
struct pack {
  A v[N];
};

/// The first n of N elements at p, zeros behind them.
template <int N, class T>
__device__ pack<accumulator<T>, N> load_pack(T const* p, index_t n) {
  constexpr int size = pack_size<T>;
  static_assert(N % size == 0);
  pack<accumulator<T>, N> r;
#pragma unroll
  for (int first = 0; first < N; first += size) {
    auto const part = load_vector(p + first, n - first);
#pragma unroll
    for (int i = 0; i < size; ++i) r.v[first + i] = static_cast<accumulator<T>>(part.v[i]);
  }
  return r;
}
/// Writes the first n of N elements, each rounded to T.
template <int N, class T>
__device__ void store_pack(T* p, pack<accumulator<T>, N> const& x, index_t n) {
  constexpr int size = pack_size<T>;
  static_assert(N % size == 0);
#pragma unroll
  for (int first = 0; first < N; first += size) {
    ptx::vector16<T> part;
#pragma unroll
    for (int i = 0; i < size; ++i) part.v[i] = T(x.v[first + i]);
    store_vector(p + first, part, n - first);
  }
}

}  // namespace moe::inline MOE_ISA::detail
