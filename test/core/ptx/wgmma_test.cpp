// wgmma through its descriptors, against the layouts of the PTX manual written down here a second time: tiles filled by hand, sums that are exact.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>

#include "test/support.hpp"

namespace {

using moe::bf16;
using moe::launch;
using moe::ptx::major;
namespace ptx = moe::ptx;

/// Where element (mn, k) of a tile of 64 of k stands, in elements: the chunk of eight is permuted by the row of 128 bytes it lies in, modulo 8.
template <major M>
MOE_HD int place_of(int mn, int k) {
  return M == major::k ? mn * 64 + (k / 8 ^ mn % 8) * 8 + k % 8 : mn / 64 * 4096 + k * 64 + (mn % 64 / 8 ^ k % 8) * 8 + mn % 8;
}

template <int N>
struct tiles {
  alignas(1024) bf16 a[64 * 64], b[64 * N];
};

/// d [64, N] = a [64, 64] b [N, 64]^T (+ c), k16 after k16; without c the accumulators hold it nevertheless.
template <int N, major A, major B>
__global__ void __launch_bounds__(128, 1) product_kernel(bf16 const* a, bf16 const* b, float const* c, float* d, bool plus_c) {
  if constexpr (ptx::sm90a) {
    auto& shared = ptx::dynamic_shared<tiles<N>>();
    int const t = static_cast<int>(threadIdx.x);
    for (int i = t; i < 64 * 64; i += 128) shared.a[place_of<A>(i / 64, i % 64)] = a[i];
    for (int i = t; i < N * 64; i += 128) shared.b[place_of<B>(i / 64, i % 64)] = b[i];
    ptx::fence_proxy_async();
    __syncthreads();
    // Thread T of warp w holds row 16 w + T / 4 and the one eight below; of each eight columns the pair 2 (T % 4).
    int const first = (t / 32 * 16 + t % 32 / 4) * N + t % 4 * 2;
    float sum[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) sum[i] = c[first + (i % 4 < 2 ? 0 : 8 * N) + i / 4 * 8 + i % 2];
    ptx::wgmma_pin(sum);
    ptx::wgmma_fence();
    auto const at = ptx::wgmma_descriptor<A>(ptx::shared_address(shared.a), 8192), bt = ptx::wgmma_descriptor<B>(ptx::shared_address(shared.b), 8192);
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) ptx::wgmma<N, A, B>(sum, at + k * ptx::wgmma_step<A>, bt + k * ptx::wgmma_step<B>, plus_c || k > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sum);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) d[first + (i % 4 < 2 ? 0 : 8 * N) + i / 4 * 8 + i % 2] = sum[i];
  }
}

template <int N, major A, major B>
void check_product() {
  if (!ptx::runs_sm90a_code()) return;
  test::array<bf16> a(64, 64), b(N, 64);
  test::array<float> c(64, N), d(64, N);
  a.integers(1), b.integers(2);
  bf16 const *const left = a.data(), *const right = b.data();
  float const* const start = c.data();
  for (bool plus_c : {true, false}) {
    if (plus_c) c.integers(3);
    else c.poison();
    test::for_each_execution([&](moe::cuda const& space, int) {
      d.poison();
      launch("product", product_kernel<N, A, B>, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(tiles<N>)}, space, left, right, start, d.data(),
             plus_c);
      space.wait();
      int wrong = 0;
      for (int m = 0; m < 64; ++m)
        for (int n = 0; n < N; ++n) {
          float sum = plus_c ? c(m, n) : 0.0f;
          for (int k = 0; k < 64; ++k) sum += static_cast<float>(a(m, k)) * static_cast<float>(b(n, k));
          wrong += d(m, n) == sum ? 0 : 1;
        }
      CHECK(wrong == 0);
    });
  }
}

}  // namespace

TEST_CASE("wgmma: both majors of both operands, every width") {
  check_product<64, major::k, major::k>();
  check_product<64, major::mn, major::k>();
  check_product<128, major::k, major::mn>();
  check_product<128, major::mn, major::mn>();
  check_product<256, major::k, major::k>();
  check_product<256, major::mn, major::mn>();
}

TEST_CASE("wgmma: the fields of a descriptor") {
  std::uint64_t const k = ptx::wgmma_descriptor<major::k>(0x12400), mn = ptx::wgmma_descriptor<major::mn>(0x2000, 8192);
  CHECK((k & 0x3fff) == 0x1240);
  CHECK((k >> 32 & 0x3fff) == 64);  // eight rows of 128 bytes, in units of 16
  CHECK((mn & 0x3fff) == 0x200);
  CHECK((mn >> 16 & 0x3fff) == 512);
  CHECK((mn >> 32 & 0x3fff) == 64);
  for (std::uint64_t d : {k, mn}) {
    CHECK((d >> 62) == 1);
    CHECK((d >> 49 & 7) == 0);
    CHECK((d >> 46 & 7) == 0);
    CHECK((d >> 52 & 0x3ff) == 0);
  }
}
