// The matrix instructions against the layouts that the PTX manual publishes, written down here a second time and otherwise.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/types.hpp>

#include "test/simt/support.hpp"

namespace {

using moe::bf16;
using moe::launch;
namespace ptx = moe::ptx;

struct tile {
  ptx::shared_matrix<std::uint16_t, 16, 24> number;  // 48 bytes to a row: aligned, and not a power of two
};

/// Element (row, column) is 256 * row + column; the four registers of each lane as ldmatrix fills them.
template <bool Transposed>
__global__ void load_kernel(std::uint32_t* to) {
  auto& shared = ptx::dynamic_shared<tile>();
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * 16; i += 32) shared.number(i / 16, i % 16) = static_cast<std::uint16_t>(i / 16 * 256 + i % 16);
  __syncwarp();
  std::uint32_t r[4];
  ptx::ldmatrix_x4<Transposed>(r, &shared.number(lane % 16, lane / 16 * 8));
  for (int i = 0; i < 4; ++i) to[4 * lane + i] = r[i];
}

struct operands {
  ptx::shared_matrix<bf16, 16, 24> a, b;  // b is stored [k, n]
};

/// d [16, 16] = a [16, 16] * b [16, 16] + d, by two instructions of eight columns.
__global__ void product_kernel(bf16 const* a, bf16 const* b, float* d) {
  auto& shared = ptx::dynamic_shared<operands>();
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared.a(i / 16, i % 16) = a[i], shared.b(i / 16, i % 16) = b[i];
  __syncwarp();
  std::uint32_t ra[4], rb[4];
  ptx::ldmatrix_x4(ra, &shared.a(lane % 16, lane / 16 * 8));
  ptx::ldmatrix_x4<true>(rb, &shared.b(lane % 16, lane / 16 * 8));
  for (int half = 0; half < 2; ++half) {
    auto const at = [&](int i) -> float& { return d[(lane / 4 + 8 * (i / 2)) * 16 + 8 * half + lane % 4 * 2 + i % 2]; };
    float sum[4] = {at(0), at(1), at(2), at(3)};
    ptx::mma_m16n8k16(sum, ra, rb[2 * half], rb[2 * half + 1]);
    for (int i = 0; i < 4; ++i) at(i) = sum[i];
  }
}

__global__ void unaligned_kernel() {
  std::uint32_t r[4];
  ptx::ldmatrix_x4(r, &ptx::dynamic_shared<tile>().number(0, 1));
}
__global__ void outside_kernel() {
  std::uint32_t r[4];
  ptx::ldmatrix_x4(r, reinterpret_cast<std::byte*>(&ptx::dynamic_shared<tile>()) + sizeof(tile));
}
__global__ void divergent_kernel() {
  std::uint32_t r[4];
  if (threadIdx.x < 16) ptx::ldmatrix_x4(r, &ptx::dynamic_shared<tile>().number(0, 0));
}

}  // namespace

TEST_CASE("simt: ldmatrix gives each lane the elements that the manual shows") {
  moe::launch_shape const shape{.blocks = 1, .threads = 32, .shared_bytes = sizeof(tile)};
  test::array<std::uint32_t> to(32, 4);
  // Matrix i stands at rows 8 * (i % 2), columns 8 * (i / 2). Thread T holds row T / 4, columns 2 (T % 4) and one more.
  test::check_schedules(to, [&] { launch("load", load_kernel<false>, shape, moe::cuda{}, to.data()); });
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned i = 0; i < 4; ++i) {
      unsigned const row = (i & 1) * 8 + (lane >> 2), column = (i >> 1) * 8 + (lane & 3) * 2;
      CHECK(to(lane, i) == ((row << 8 | column) | (row << 8 | (column + 1)) << 16));
    }
  test::check_schedules(to, [&] { launch("load", load_kernel<true>, shape, moe::cuda{}, to.data()); });
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned i = 0; i < 4; ++i) {
      unsigned const row = (i & 1) * 8 + (lane & 3) * 2, column = (i >> 1) * 8 + (lane >> 2);
      CHECK(to(lane, i) == ((row << 8 | column) | ((row + 1) << 8 | column) << 16));
    }
}

TEST_CASE("simt: mma.sync multiplies what ldmatrix loaded") {
  moe::launch_shape const shape{.blocks = 1, .threads = 32, .shared_bytes = sizeof(operands)};
  test::array<bf16> a(16, 16), b(16, 16);
  test::array<float> start(16, 16), d(16, 16);
  a.integers(1), b.integers(2), start.integers(3);
  bf16 const *const left = a.data(), *const right = b.data();
  test::check_schedules(d, [&] {
    for (int i = 0; i < 256; ++i) d.data()[i] = start.data()[i];
    launch("product", product_kernel, shape, moe::cuda{}, left, right, d.data());
  });
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      float sum = start(m, n);
      for (int k = 0; k < 16; ++k) sum += a(m, k) * b(k, n);
      CHECK(d(m, n) == sum);
    }
}

TEST_CASE("simt: faults of matrix loads are reported") {
  auto const report = [&](auto kernel) {
    return test::failure_of([&] { launch("test", kernel, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(tile)}, moe::cuda{}); });
  };
  CHECK(test::contains(report(unaligned_kernel), "ldmatrix of an address of shared memory that is no multiple of 16"));
  CHECK(test::contains(report(outside_kernel), "ldmatrix of an address outside the block's shared memory"));
  std::string const text = report(divergent_kernel);
  CHECK_MESSAGE(test::contains(text, "left the kernel"), text);
}
