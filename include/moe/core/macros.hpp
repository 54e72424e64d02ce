#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "moe: compile without -ffast-math and -ffinite-math-only. The contracts speak of NaN and of a fixed order of summation; both are lost with it."
#endif

/// Callable from host and device code; plain host code where no CUDA compiler reads it.
#if defined(__CUDACC__)
#define MOE_HD __host__ __device__
#else
#define MOE_HD
#endif

/// Everything but moe::error lives in an inline namespace named after the instruction set that the translation unit was compiled for:
/// units built for different ones define different functions, and the linker cannot mix them up. Flags that make no difference here (-mbmi2, -mtune) do not
/// make a set of their own.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__FMA__)
#define MOE_AVX512 1
#if defined(__AVX512BF16__)
#define MOE_AVX512_BF16 1
#define MOE_ISA avx512_bf16
#else
#define MOE_ISA avx512
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#define MOE_AVX2 1
#define MOE_ISA avx2
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MOE_ISA portable_fma
#elif defined(__AVX__)
#define MOE_ISA portable_avx
#else
#define MOE_ISA portable
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MOE_HAS_FMA 1
#endif

#define MOE_STRINGIFY_(x) #x
#define MOE_STRINGIFY(x) MOE_STRINGIFY_(x)

/// For the few functions whose speed depends on being inlined into a loop that keeps its operands in registers.
#if defined(__GNUC__)
#define MOE_INLINE inline __attribute__((always_inline))
#else
#define MOE_INLINE inline
#endif

/// For the few that are too large to be copied into each caller.
#if defined(__GNUC__)
#define MOE_NOINLINE __attribute__((noinline))
#else
#define MOE_NOINLINE
#endif

/// Before a loop of constant length whose body should be repeated. nvcc's front end does not know the pragma, and warns.
#if defined(__CUDACC__) || !defined(__GNUC__)
#define MOE_UNROLL(n)
#else
#define MOE_UNROLL(n) _Pragma(MOE_STRINGIFY(GCC unroll n))
#endif
