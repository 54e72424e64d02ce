// Every function of core/ptx.cuh in a small kernel, for the build check: ptxas must accept each instruction.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>

namespace {

using namespace moe;

struct layout {
  ptx::shared_matrix<ptx::vector16<float>, 16, 16> tile;
};

template <int = 0>
__global__ void matrix_kernel(float const* from, float* to) {
  auto& shared = ptx::dynamic_shared<layout>();
  int const lane = static_cast<int>(threadIdx.x);
  ptx::cp_async_16(&shared.tile(lane / 16, lane % 16), from + 4 * lane, 16);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
  std::uint32_t a[4], b[4];
  ptx::ldmatrix_x4(a, &shared.tile(lane % 16, lane / 16));
  ptx::ldmatrix_x4<true>(b, &shared.tile(lane % 16, lane / 16));
  float d[4] = {};
  ptx::mma_m16n8k16(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) to[4 * lane + i] = d[i];
}

}  // namespace

void instantiate() {
  float *const to = nullptr, *const from = nullptr;
  launch("matrix", matrix_kernel<>, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(layout)}, cuda{}, from, to);
}
