// The faults of matrix instructions that the stand-in promises to find. test/core/ptx has the layouts.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::launch;
namespace ptx = moe::ptx;

struct tile {
  ptx::shared_matrix<std::uint16_t, 16, 24> number;  // 48 bytes to a row: aligned, and not a power of two
};

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

TEST_CASE("simt: faults of matrix loads are reported") {
  auto const report = [&](auto kernel) {
    return test::failure_of([&] { launch("test", kernel, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(tile)}, moe::cuda{}); });
  };
  CHECK(test::contains(report(unaligned_kernel), "ldmatrix of an address of shared memory that is no multiple of 16"));
  CHECK(test::contains(report(outside_kernel), "ldmatrix of an address outside the block's shared memory"));
  std::string const text = report(divergent_kernel);
  CHECK_MESSAGE(test::contains(text, "left the kernel"), text);
}
