// The matrix instructions of a warp against the layouts that the PTX manual publishes, written down here a second time and otherwise.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>

#include "test/support.hpp"

namespace {

using moe::bf16;
using moe::launch;
namespace ptx = moe::ptx;

struct tile {
  ptx::shared_matrix<std::uint16_t, 16, 24> number;  // 48 bytes to a row: aligned, and not a power of two
};

/// Element (row, column) is 256 * row + column; the four registers of each lane as ldmatrix fills them, and the tile as stmatrix writes them back.
template <bool Transposed>
__global__ void move_kernel(std::uint32_t* to, std::uint16_t* back) {
  auto& shared = ptx::dynamic_shared<tile>();
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * 16; i += 32) shared.number(i / 16, i % 16) = static_cast<std::uint16_t>(i / 16 * 256 + i % 16);
  __syncwarp();
  std::uint32_t r[4];
  ptx::ldmatrix_x4<Transposed>(r, &shared.number(lane % 16, lane / 16 * 8));
  for (int i = 0; i < 4; ++i) to[4 * lane + i] = r[i];
  if constexpr (ptx::sm90a) {
    __syncwarp();
    for (int i = lane; i < 16 * 16; i += 32) shared.number(i / 16, i % 16) = 0;
    __syncwarp();
    ptx::stmatrix_x4<Transposed>(&shared.number(lane % 16, lane / 16 * 8), r);
    __syncwarp();
  }
  for (int i = lane; i < 16 * 16; i += 32) back[i] = shared.number(i / 16, i % 16);
}

struct operands {
  ptx::shared_matrix<bf16, 16, 24> a, b;  // b is stored [k, n]
};

/// d [16, 16] = a [16, 16] * b [16, 16] + c, by two instructions of eight columns.
template <int = 0>
__global__ void product_kernel(bf16 const* a, bf16 const* b, float const* c, float* d) {
  auto& shared = ptx::dynamic_shared<operands>();
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared.a(i / 16, i % 16) = a[i], shared.b(i / 16, i % 16) = b[i];
  __syncwarp();
  std::uint32_t ra[4], rb[4];
  ptx::ldmatrix_x4(ra, &shared.a(lane % 16, lane / 16 * 8));
  ptx::ldmatrix_x4<true>(rb, &shared.b(lane % 16, lane / 16 * 8));
  for (int half = 0; half < 2; ++half) {
    int const first = lane / 4 * 16 + 8 * half + lane % 4 * 2;
    float sum[4] = {c[first], c[first + 1], c[first + 128], c[first + 129]};
    ptx::mma_m16n8k16(sum, ra, rb[2 * half], rb[2 * half + 1]);
    d[first] = sum[0], d[first + 1] = sum[1], d[first + 128] = sum[2], d[first + 129] = sum[3];
  }
}

template <bool Transposed>
void check_moves() {
  test::array<std::uint32_t> to(32, 4);
  test::array<std::uint16_t> back(16, 16);
  test::for_each_execution([&](moe::cuda const& space, int) {
    to.poison(), back.poison();
    launch("move", move_kernel<Transposed>, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(tile)}, space, to.data(), back.data());
    space.wait();
    int wrong = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned i = 0; i < 4; ++i) {  // matrix i stands at rows 8 * (i % 2), columns 8 * (i / 2)
        unsigned const row = (i & 1) * 8, column = (i >> 1) * 8, g = lane >> 2, pair = (lane & 3) * 2;
        unsigned const low = Transposed ? (row + pair) << 8 | (column + g) : (row + g) << 8 | (column + pair);
        unsigned const high = Transposed ? (row + pair + 1) << 8 | (column + g) : (row + g) << 8 | (column + pair + 1);
        wrong += to(lane, i) == (low | high << 16) ? 0 : 1;
      }
    for (int r = 0; r < 16; ++r)
      for (int c = 0; c < 16; ++c) wrong += back(r, c) == r * 256 + c ? 0 : 1;
    CHECK(wrong == 0);
  });
}

}  // namespace

TEST_CASE("ldmatrix: each lane gets the elements that the manual shows, and stmatrix puts them back") {
  check_moves<false>();
  check_moves<true>();
}

TEST_CASE("mma.sync: multiplies what ldmatrix loaded") {
  test::array<bf16> a(16, 16), b(16, 16);
  test::array<float> c(16, 16), d(16, 16);
  a.integers(1), b.integers(2), c.integers(3);
  bf16 const *const left = a.data(), *const right = b.data();
  float const* const start = c.data();
  test::for_each_execution([&](moe::cuda const& space, int) {
    d.poison();
    launch("product", product_kernel<>, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(operands)}, space, left, right, start, d.data());
    space.wait();
    int wrong = 0;
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        float sum = c(m, n);
        for (int k = 0; k < 16; ++k) sum += static_cast<float>(a(m, k)) * static_cast<float>(b(k, n));
        wrong += d(m, n) == sum ? 0 : 1;
      }
    CHECK(wrong == 0);
  });
}
