#pragma once
#include <omp.h>

#include <concepts>

#include <moe/core/error.hpp>
#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA {

/// The instruction set this translation unit was compiled for.
inline char const* instruction_set() { return MOE_STRINGIFY(MOE_ISA); }

/// Whether this machine has what was compiled. Always true where the compiler cannot ask.
inline bool machine_has_instruction_set() {
#if defined(MOE_AVX512_BF16)
  if (!__builtin_cpu_supports("avx512bf16")) return false;
#endif
#if defined(MOE_AVX512)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#elif defined(MOE_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__FMA__)
  return __builtin_cpu_supports("fma");
#elif defined(__AVX__)
  return __builtin_cpu_supports("avx");
#else
  return true;
#endif
}

/// Throws errc::unsupported_machine, saying what to do, before an illegal instruction would end the program without a word.
inline void check_machine() {
  expects(machine_has_instruction_set(), errc::unsupported_machine, "moe: this program was compiled for ", instruction_set(),
          ", which this machine does not have; compile it here (-march=native) or for a smaller instruction set (-mavx2 -mfma, or no -m flag)");
}

namespace detail {
inline int default_threads() {
  static int const n = (check_machine(), omp_get_max_threads());
  return n;
}
}  // namespace detail

/// Where code runs: the first argument of every operator. On the CPU a call returns when its work is done.
struct cpu {
  int threads = detail::default_threads();  ///< any number >= 1; results do not depend on it
  void wait() const {}
};

template <class S>
concept execution_space = std::copyable<S> && requires(S const& space) { space.wait(); };

}  // namespace moe::inline MOE_ISA
