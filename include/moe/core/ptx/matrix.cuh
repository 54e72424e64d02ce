#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include <moe/core/ptx/common.cuh>

// Matrices of 16-bit elements in registers: a warp loads them, multiplies them and stores them as one. With g = lane / 4 and t = lane % 4:
//   A [16, 16]  element i of 8: row g + 8 * (i / 2 % 2), column 2 * t + i % 2 + 8 * (i / 4); two elements to a register, the lower one first
//   B [16, 8]   element i of 4: row 2 * t + i % 2 + 8 * (i / 2), column g
//   D [16, 8]   element i of 4: row g + 8 * (i / 2), column 2 * t + i % 2
namespace moe::inline MOE_ISA::ptx {

/// Four 8 x 8 matrices of shared memory. Lane l names row l % 8 of matrix l / 8, 16 bytes at a multiple of 16; r[i] receives row g, columns 2 t and
/// 2 t + 1 of matrix i; transposed: rows 2 t and 2 t + 1 of column g.
/// With rows l % 16 and columns l / 16 * 8 of a row-major tile, r is the A of an mma; transposed, of a tile stored [k, n], r[0], r[1] are the B of
/// columns 0 to 7 and r[2], r[3] that of columns 8 to 15.
template <bool Transposed = false>
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], void const* row) {
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_pointer(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_pointer(row))
                 : "memory");
}

/// The inverse, of sm_90a: stores what ldmatrix_x4 would load.
template <bool Transposed = false>
__device__ __forceinline__ void stmatrix_x4(void* row, std::uint32_t const (&r)[4]) {
  if constexpr (Transposed)
    MOE_PTX_SM90A("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_pointer(row)), "r"(r[0]), "r"(r[1]),
                  "r"(r[2]), "r"(r[3])
                  : "memory");
  else
    MOE_PTX_SM90A("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_pointer(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]),
                  "r"(r[3])
                  : "memory");
}

/// d += A B in float: bf16 operands, [16, 16] by [16, 8]. The hardware's order of summation over k is not documented.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace moe::inline MOE_ISA::ptx
