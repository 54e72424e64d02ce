#pragma once
// The built-in functions of device code. The blocking ones end in the place they are called from, for the reports.
#include <bit>
#include <concepts>
#include <cstring>
#include <type_traits>
#include <utility>

inline void __syncthreads(char const* file = __builtin_FILE(), int line = __builtin_LINE()) { simt::block_barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::warp_collective({"__syncwarp", mask, nullptr, nullptr}, {file, line});
}

namespace simt {
inline int lane() { return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32); }
template <class T>
T shuffle(char const* name, unsigned mask, T value, int source, place where) {
  static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>, "a shuffle moves a number of at most 8 bytes");
  struct part {
    T value, result;
    int source;
  } mine{value, value, source};
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    for (; m != 0; m &= m - 1) {
      auto* const p = static_cast<part*>(lanes[__builtin_ctz(m)]);
      p->result = static_cast<part const*>(lanes[p->source])->value;
    }
  };
  warp_collective({name, mask, &mine, finish, source}, where);
  return mine.result;
}
/// The mask of the lanes whose predicate holds.
inline std::uint32_t vote(char const* name, unsigned mask, bool predicate, place where) {
  struct part {
    bool predicate;
    std::uint32_t result;
  } mine{predicate, 0};
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    std::uint32_t votes = 0;
    for (std::uint32_t rest = m; rest != 0; rest &= rest - 1)
      if (int const l = __builtin_ctz(rest); static_cast<part const*>(lanes[l])->predicate) votes |= 1u << l;
    for (std::uint32_t rest = m; rest != 0; rest &= rest - 1) static_cast<part*>(lanes[__builtin_ctz(rest)])->result = votes;
  };
  warp_collective({name, mask, &mine, finish}, where);
  return mine.result;
}
/// The lane itself where the source leaves the segment of `width` lanes.
inline int source_in(int width, int source) { return source / width == lane() / width && source >= 0 ? source : lane(); }
}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_sync", mask, value, simt::lane() / width * width + source % width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_xor_sync", mask, value, simt::source_in(width, simt::lane() ^ lanes), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_up_sync", mask, value, simt::source_in(width, simt::lane() - lanes), {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lanes, int width = 32, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::shuffle("__shfl_down_sync", mask, value, simt::source_in(width, simt::lane() + lanes), {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::vote("__all_sync", mask, predicate != 0, {file, line}) == mask;
}
/// The mask of the lanes that hold the same value.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  struct part {
    T value;
    unsigned result;
  } mine{value, 0};
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    for (std::uint32_t i = m; i != 0; i &= i - 1)
      for (std::uint32_t j = m; j != 0; j &= j - 1)
        if (auto* const p = static_cast<part*>(lanes[__builtin_ctz(i)]); std::memcmp(&p->value, lanes[__builtin_ctz(j)], sizeof(T)) == 0)
          p->result |= j & (0u - j);
  };
  simt::warp_collective({"__match_any_sync", mask, &mine, finish}, {file, line});
  return mine.result;
}

namespace simt {
template <class T, class F>
T reduce(char const* name, unsigned mask, T value, F, place where) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>, "the hardware reduces integers of 32 bits");
  auto const finish = [](void* const* lanes, std::uint32_t m) {
    T sum = *static_cast<T const*>(lanes[__builtin_ctz(m)]);
    for (std::uint32_t rest = m & (m - 1); rest != 0; rest &= rest - 1) sum = F{}(sum, *static_cast<T const*>(lanes[__builtin_ctz(rest)]));
    for (std::uint32_t rest = m; rest != 0; rest &= rest - 1) *static_cast<T*>(lanes[__builtin_ctz(rest)]) = sum;
  };
  warp_collective({name, mask, &value, finish}, where);
  return value;
}
struct add_wrapping {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
  }
};
struct smaller {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct larger {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
}  // namespace simt

template <class T>
T __reduce_add_sync(unsigned mask, T value, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::reduce("__reduce_add_sync", mask, value, simt::add_wrapping{}, {file, line});
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::reduce("__reduce_min_sync", mask, value, simt::smaller{}, {file, line});
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::reduce("__reduce_max_sync", mask, value, simt::larger{}, {file, line});
}

// Bits

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

// Memory. All threads of the stand-in share one processor: fences order nothing that is not ordered.

template <class T>
T __ldg(T const* p) {
  return *p;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace simt {
/// Integers only: sums of floating-point numbers by atomics have no fixed order.
template <class T, class F>
T atomic(T* p, F const& f) {
  static_assert(std::integral<T>, "moe has no floating-point atomics");
  return std::exchange(*p, static_cast<T>(f(*p)));
}
}  // namespace simt

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(value); });
}
template <class T>
T atomicSub(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return static_cast<std::make_unsigned_t<T>>(old) - static_cast<std::make_unsigned_t<T>>(value); });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return value < old ? value : old; });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return old & value; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::atomic(p, [&](T old) { return old == expected ? value : old; });
}
