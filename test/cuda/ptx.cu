// Every function of core/ptx.cuh in a small kernel, for the build check: ptxas must accept each instruction.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>

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

struct stage {
  alignas(1024) bf16 a[2][64 * 64];
  alignas(1024) bf16 b[256 * 64];
  alignas(1024) bf16 out[64 * 64];
  std::uint64_t full, empty, gathered;
};

/// One warpgroup loads, one multiplies N columns and stores.
template <int N, ptx::major A, ptx::major B>
__global__ void __launch_bounds__(256, 1) product_kernel(CUtensorMap const __grid_constant__ a, CUtensorMap const __grid_constant__ b,
                                                         CUtensorMap const __grid_constant__ to, float const* from, float* sums, int steps) {
  if constexpr (ptx::sm90a) {
    auto& shared = ptx::dynamic_shared<stage>();
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&shared.full, 1), ptx::mbarrier_init(&shared.empty, 128), ptx::mbarrier_init(&shared.gathered, 128);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      ptx::setmaxnreg_dec<40>();
      if (threadIdx.x == 0) ptx::prefetch_tensor_map(a);
      for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(&shared.empty, (step & 1) ^ 1);
        ptx::cp_async_16(&shared.a[1][8 * threadIdx.x], from + 4 * threadIdx.x, 16);
        ptx::cp_async_arrive(&shared.gathered);
        if (threadIdx.x != 0) continue;
        ptx::mbarrier_arrive_expect_tx(&shared.full, sizeof shared.a[0] + sizeof shared.b);
        ptx::tma_load(shared.a[0], a, &shared.full, 64 * step, 0);
        ptx::tma_load(shared.b, b, &shared.full, 64 * step, 0, 0);
      }
    } else {
      ptx::setmaxnreg_inc<232>();
      float d[N / 2] = {};
      ptx::wgmma_pin(d);
      auto const at = ptx::wgmma_descriptor<A>(ptx::shared_address(shared.a[0]), 8192);
      auto const bt = ptx::wgmma_descriptor<B>(ptx::shared_address(shared.b), 8192);
      for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(&shared.full, step & 1);
        ptx::mbarrier_wait(&shared.gathered, step & 1);
        ptx::fence_proxy_async();
        ptx::wgmma_fence();
        for (int k = 0; k < 4; ++k) ptx::wgmma<N, A, B>(d, at + k * ptx::wgmma_step<A>, bt + k * ptx::wgmma_step<B>, true);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        ptx::mbarrier_arrive(&shared.empty);
      }
      ptx::wgmma_pin(d);
      int const t = static_cast<int>(threadIdx.x) - 128;
      std::uint32_t const r[4] = {__float_as_uint(d[0]), __float_as_uint(d[1]), __float_as_uint(d[2]), __float_as_uint(d[3])};
      ptx::stmatrix_x4(&shared.out[8 * t], r);
      ptx::stmatrix_x4<true>(&shared.out[1024 + 8 * t], r);
      ptx::fence_proxy_async();
      ptx::bar_sync<1, 128>();
      if (t == 0) {
        ptx::tma_store(to, shared.out, 0, 0);
        ptx::tma_store(to, shared.out, 0, 0, 1);
        ptx::bulk_commit();
        ptx::bulk_wait_read<0>();
        ptx::bulk_wait<0>();
      }
      ptx::bar_arrive<2, 128>();
#pragma unroll
      for (int i = 0; i < N / 2; ++i) sums[N / 2 * t + i] = d[i];
    }
  }
}

template <int N, ptx::major A, ptx::major B>
void start_product(CUtensorMap const& map, float* p) {
  launch("product", product_kernel<N, A, B>, {.blocks = 1, .threads = 256, .shared_bytes = sizeof(stage)}, cuda{}, map, map, map, p, p, 4);
}

}  // namespace

void instantiate(bf16 const* x, double const* y) {
  float *const to = nullptr, *const from = nullptr;
  auto const map = encode_tensor_map("ptx", "x", x, box_of_tensor<2>{{64, 64}, {64}, {64, 64}});
  encode_tensor_map("ptx", "y", y, box_of_tensor<3>{{64, 64, 2}, {64, 4096}, {16, 64, 1}, box_layout::plain});
  launch("matrix", matrix_kernel<>, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(layout)}, cuda{}, from, to);
  if (!ptx::runs_sm90a_code()) return;
  start_product<64, ptx::major::k, ptx::major::k>(map, to);
  start_product<128, ptx::major::k, ptx::major::mn>(map, to);
  start_product<256, ptx::major::mn, ptx::major::k>(map, to);
  start_product<64, ptx::major::mn, ptx::major::mn>(map, to);
}
