// must say: matrix_unit::mma multiplies bf16 by bf16 and sums in float
#include <moe/gemm/gemm.hpp>

void call(moe::matrix_view<float const> a, moe::matrix_view<float const> b, moe::matrix_view<float> c, moe::arena& scratch) {
  moe::gemm<moe::gemm_config{.unit = moe::matrix_unit::mma}>(moe::cpu{}, a, b, c, scratch);
}
