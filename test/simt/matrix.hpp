#pragma once
// The matrix instructions of a warp: ldmatrix, stmatrix, mma.sync.
#include "test/simt/simt.hpp"

namespace simt {

void load_matrices(std::uint32_t (&r)[4], void const* row, bool transposed, place where);
/// In ascending k, one fused multiply-add each: what the library's contracts say, not what a tensor core does.
void multiply_matrices(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1, place where);

}  // namespace simt
