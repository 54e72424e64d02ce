#pragma once
#include <moe/core/ptx/common.cuh>
#include <moe/core/ptx/descriptor.hpp>

// wgmma: 128 threads multiply two bf16 tiles of shared memory, D [64, N] += A [64, 16] B [16, N], in float. All of sm_90a.
//
// D, thread 32 * w + lane, element i: row 16 * w + lane / 4 + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
namespace moe::inline MOE_ISA::ptx {

/// The address of shared memory that a descriptor is made of.
__device__ inline std::uint32_t shared_address(void const* p) { return shared_pointer(p); }

/// Before the first product, and after any other access to its accumulators.
__device__ inline void wgmma_fence() { MOE_PTX_SM90A("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Closes a group of products.
__device__ inline void wgmma_commit() { MOE_PTX_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most Pending groups are under way: the accumulators of the others may be read, and their tiles overwritten.
template <int Pending>
__device__ void wgmma_wait() {
  MOE_PTX_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/// Keeps the compiler from moving accesses to the accumulators: after their initialisation, and after the last wgmma_wait<0>. Never while a group is
/// under way (ptxas then serialises: C7515).
template <int Size>
__device__ __forceinline__ void wgmma_pin(float (&d)[Size]) {
#pragma unroll
  for (int i = 0; i < Size; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define MOE_ACCUMULATORS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MOE_ACCUMULATORS_16(i) MOE_ACCUMULATORS_4(i), MOE_ACCUMULATORS_4(i + 4), MOE_ACCUMULATORS_4(i + 8), MOE_ACCUMULATORS_4(i + 12)

/// Starts d = A B (+ d where `accumulate`), all 128 threads with the same descriptors. The hardware's order of summation over k is not documented.
template <int N, major A = major::k, major B = major::k>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
  static_assert(N == 64 || N == 128 || N == 256, "moe::ptx: wgmma is here for 64, 128 and 256 columns");
  if constexpr (N == 64)
    MOE_PTX_SM90A(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, p, 1, 1, %35, %36;\n}"
        : MOE_ACCUMULATORS_16(0), MOE_ACCUMULATORS_16(16)
        : "l"(a), "l"(b), "r"(accumulate ? 1 : 0), "n"(A == major::mn ? 1 : 0), "n"(B == major::mn ? 1 : 0));
  else if constexpr (N == 128)
    MOE_PTX_SM90A(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;\n}"
        : MOE_ACCUMULATORS_16(0), MOE_ACCUMULATORS_16(16), MOE_ACCUMULATORS_16(32), MOE_ACCUMULATORS_16(48)
        : "l"(a), "l"(b), "r"(accumulate ? 1 : 0), "n"(A == major::mn ? 1 : 0), "n"(B == major::mn ? 1 : 0));
  else if constexpr (N == 256)
    MOE_PTX_SM90A(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p, 1, 1, %131, %132;\n}"
        : MOE_ACCUMULATORS_16(0), MOE_ACCUMULATORS_16(16), MOE_ACCUMULATORS_16(32), MOE_ACCUMULATORS_16(48), MOE_ACCUMULATORS_16(64),
          MOE_ACCUMULATORS_16(80), MOE_ACCUMULATORS_16(96), MOE_ACCUMULATORS_16(112)
        : "l"(a), "l"(b), "r"(accumulate ? 1 : 0), "n"(A == major::mn ? 1 : 0), "n"(B == major::mn ? 1 : 0));
}

#undef MOE_ACCUMULATORS_16
#undef MOE_ACCUMULATORS_4

}  // namespace moe::inline MOE_ISA::ptx
