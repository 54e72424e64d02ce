// wgmma: the addresses of its descriptors, and the faults that the stand-in promises to find. test/core/ptx has the layouts.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::bf16;
using moe::box_of_tensor;
using moe::cuda;
using moe::launch;
using moe::ptx::major;
namespace ptx = moe::ptx;

/// Where element (mn, k) of a tile of 64 of k stands, in elements: the chunk of eight is permuted by the row of 128 bytes it lies in, modulo 8.
template <major M>
int place_of(int mn, int k) {
  return M == major::k ? mn * 64 + (k / 8 ^ mn % 8) * 8 + k % 8 : mn / 64 * 4096 + k * 64 + (mn % 64 / 8 ^ k % 8) * 8 + mn % 8;
}

template <int N>
struct tiles {
  alignas(1024) bf16 a[64 * 64], b[64 * N];
};

}  // namespace

TEST_CASE("simt: the addresses that a descriptor stands for") {
  std::uint64_t const zero = ptx::wgmma_descriptor<major::k>(0), slabs = ptx::wgmma_descriptor<major::mn>(0, 8192);
  CHECK(simt::descriptor_address(zero, 13, 40, false) == 1664);
  CHECK(simt::descriptor_address(zero, 5, 23, false) == 766);
  CHECK(simt::descriptor_address(slabs, 70, 11, true) == 9660);
  for (unsigned row = 0; row < 128; ++row)
    for (unsigned i = 0; i < 64; ++i) {
      unsigned const step = i / 16, rest = i % 16;  // by steps of 16, as products go
      CHECK(simt::descriptor_address(zero + step * ptx::wgmma_step<major::k>, row, rest, false) ==
            2u * static_cast<unsigned>(place_of<major::k>(static_cast<int>(row), static_cast<int>(i))));
      CHECK(simt::descriptor_address(slabs + step * ptx::wgmma_step<major::mn>, row, rest, true) ==
            2u * static_cast<unsigned>(place_of<major::mn>(static_cast<int>(row), static_cast<int>(i))));
    }
}

namespace {

enum class fault { none, early_release, no_wait, no_final_wait, other_descriptor, early_read, unbased, write_in_flight };

struct gemm_layout {
  alignas(1024) bf16 a[2][64 * 64], b[2][64 * 64];
  std::uint64_t full[2], empty[2];
};

/// d [64, 64] = a [64, 64 * steps] b [64, 64 * steps]^T: a producing warp and a warpgroup, one product in flight while the next stage is waited for.
template <fault F>
__global__ void __launch_bounds__(256, 1)
    gemm_kernel(CUtensorMap const __grid_constant__ a, CUtensorMap const __grid_constant__ b, float* d, int steps) {
  auto& shared = ptx::dynamic_shared<gemm_layout>();
  if (threadIdx.x == 0)
    for (int s = 0; s < 2; ++s) ptx::mbarrier_init(&shared.full[s], 1), ptx::mbarrier_init(&shared.empty[s], 1);
  ptx::fence_mbarrier_init();
  __syncthreads();
  if (threadIdx.x >= 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x != 128) return;
    for (int step = 0; step < steps; ++step) {
      int const s = step % 2;
      ptx::mbarrier_wait(&shared.empty[s], static_cast<unsigned>(step) / 2 % 2 ^ 1);
      ptx::mbarrier_arrive_expect_tx(&shared.full[s], sizeof shared.a[s] + sizeof shared.b[s]);
      ptx::tma_load(shared.a[s], a, &shared.full[s], 64 * step, 0);
      ptx::tma_load(shared.b[s], b, &shared.full[s], 64 * step, 0);
    }
    return;
  }
  ptx::setmaxnreg_inc<232>();
  int const t = static_cast<int>(threadIdx.x);
  float sum[32] = {};
  ptx::wgmma_pin(sum);
  auto const release = [&](int step) {
    if (step >= 0 && t == 0) ptx::mbarrier_arrive(&shared.empty[step % 2]);
  };
  for (int step = 0; step < steps; ++step) {
    int const s = step % 2;
    if (F != fault::no_wait) ptx::mbarrier_wait(&shared.full[s], static_cast<unsigned>(step) / 2 % 2);
    auto const at = ptx::wgmma_descriptor<major::k>(
        F == fault::unbased ? 64 : ptx::shared_address(shared.a[F == fault::other_descriptor && t == 77 ? 1 - s : s]));
    auto const bt = ptx::wgmma_descriptor<major::k>(ptx::shared_address(shared.b[s]));
    ptx::wgmma_fence();
    for (unsigned k = 0; k < 4; ++k) ptx::wgmma<64>(sum, at + 2 * k, bt + 2 * k, step + static_cast<int>(k) > 0);
    ptx::wgmma_commit();
    if (F == fault::write_in_flight) sum[0] = 1;
    if (F == fault::early_release) release(step);
    ptx::wgmma_wait<1>();
    if (F != fault::early_release) release(step - 1);
  }
  if (F != fault::no_final_wait && F != fault::early_read) ptx::wgmma_wait<0>();
  ptx::wgmma_pin(sum);
  for (int i = 0; i < 32; ++i) d[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = sum[i];
  if (F == fault::early_read) ptx::wgmma_wait<0>();
}

__global__ void few_kernel() {
  float d[32] = {};
  ptx::wgmma<64>(d, 0, 0, false);
}
__global__ void some_issue_kernel() {
  auto const at = ptx::wgmma_descriptor<major::k>(ptx::shared_address(&ptx::dynamic_shared<tiles<64>>()));
  float d[32] = {};
  if (threadIdx.x < 96) ptx::wgmma<64>(d, at, at, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

}  // namespace

TEST_CASE("simt: TMA, mbarriers and wgmma together give the exact product under every schedule; each fault is found") {
  constexpr int steps = 4, depth = 64 * steps;
  test::array<bf16> numbers(64, 2 * depth);
  numbers.integers(5);
  alignas(128) static bf16 a[64 * depth], b[64 * depth];
  for (int i = 0; i < 64 * depth; ++i) a[i] = numbers.data()[i], b[i] = numbers.data()[64 * depth + i];
  std::vector<float> expected(64 * 64);
  for (int i = 0; i < 64 * 64; ++i)
    for (int k = 0; k < depth; ++k) expected[static_cast<std::size_t>(i)] += a[i / 64 * depth + k] * b[i % 64 * depth + k];
  box_of_tensor<2> const box{{depth, 64}, {depth}, {64, 64}};
  auto const a_map = moe::encode_tensor_map("test", "a", static_cast<bf16 const*>(a), box),
             b_map = moe::encode_tensor_map("test", "b", static_cast<bf16 const*>(b), box);
  test::array<float> d(64, 64);
  auto const run = [&](auto kernel) {
    return test::outcomes(d, expected, [&] {
      launch("gemm", kernel, {.blocks = 1, .threads = 256, .shared_bytes = sizeof(gemm_layout)}, cuda{}, a_map, b_map, d.data(), steps);
    });
  };
  test::outcome const good = run(gemm_kernel<fault::none>);
  CHECK_MESSAGE(good.same == test::schedule_count, good.report);
  CHECK(run(gemm_kernel<fault::early_release>).same < test::schedule_count);
  CHECK(run(gemm_kernel<fault::no_wait>).same < test::schedule_count);
  CHECK(run(gemm_kernel<fault::early_read>).same < test::schedule_count);
  test::outcome const in_flight = run(gemm_kernel<fault::no_final_wait>), other = run(gemm_kernel<fault::other_descriptor>),
                      unbased = run(gemm_kernel<fault::unbased>), write = run(gemm_kernel<fault::write_in_flight>);
  CHECK(in_flight.failures == test::schedule_count);
  CHECK_MESSAGE(test::contains(in_flight.report, "the kernel ends with a wgmma in flight"), in_flight.report);
  CHECK(other.failures == test::schedule_count);
  CHECK_MESSAGE(test::contains(other.report, "wgmma with operands other than those of the warpgroup's other threads at test/simt/"), other.report);
  CHECK(write.failures == test::schedule_count);
  CHECK_MESSAGE(test::contains(write.report, "an accumulator was written while its wgmma was in flight, thread "), write.report);
  CHECK(unbased.failures == test::schedule_count);
  CHECK_MESSAGE(test::contains(unbased.report, "wgmma reads shared+-"), unbased.report);
  CHECK(test::contains(test::failure_of([&] { launch("few", few_kernel, {.blocks = 1, .threads = 64}, cuda{}); }), "fewer than 128 threads"));
  std::string const some =
      test::failure_of([&] { launch("some", some_issue_kernel, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(tiles<64>)}, cuda{}); });
  CHECK_MESSAGE(test::contains(some, "threads 0-95: wgmma.wait_group 0 (96 of 128 threads have issued the product) at "), some);
}
