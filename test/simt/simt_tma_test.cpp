// mbarriers, named barriers and the copies of TMA: each fault that the stand-in promises to find, planted in a small kernel. test/core/ptx has the
// layouts.
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::bf16;
using moe::box_layout;
using moe::box_of_tensor;
using moe::cuda;
using moe::encode_tensor_map;
using moe::launch;
namespace ptx = moe::ptx;

enum class fault {
  none,
  no_wait,
  producer_parity,
  consumer_parity,
  too_many_bytes,
  too_few_bytes,
  early_release,
  no_release,
  no_init,
  extra_arrival
};

struct pipeline_layout {
  alignas(1024) bf16 stage[2][8 * 64];
  std::uint64_t full[2], empty[2];
};

/// Sums the rows of a [8 * steps, 64] matrix: one thread loads boxes of eight rows into two stages, 64 others add them up.
template <fault F>
__global__ void pipeline_kernel(CUtensorMap const __grid_constant__ map, float* sums, int steps) {
  auto& shared = ptx::dynamic_shared<pipeline_layout>();
  if (threadIdx.x == 0)
    for (int s = 0; s < 2; ++s) {
      if (F != fault::no_init) ptx::mbarrier_init(&shared.full[s], 1);
      ptx::mbarrier_init(&shared.empty[s], 64);
    }
  __syncthreads();
  if (threadIdx.x == 64) {
    for (int step = 0; step < steps; ++step) {
      unsigned const round = static_cast<unsigned>(step) / 2 % 2;
      ptx::mbarrier_wait(&shared.empty[step % 2], F == fault::producer_parity ? round : round ^ 1);
      ptx::mbarrier_arrive_expect_tx(&shared.full[step % 2], F == fault::too_many_bytes ? 1040 : F == fault::too_few_bytes ? 1008 : 1024);
      ptx::tma_load(shared.stage[step % 2], map, &shared.full[step % 2], 0, 8 * step);
    }
  } else if (threadIdx.x < 64) {
    float sum = 0;
    for (int step = 0; step < steps; ++step) {
      unsigned const round = static_cast<unsigned>(step) / 2 % 2;
      if (F != fault::no_wait) ptx::mbarrier_wait(&shared.full[step % 2], F == fault::consumer_parity ? round ^ 1 : round);
      if (F == fault::early_release) ptx::mbarrier_arrive(&shared.empty[step % 2]);
      __syncwarp();
      for (unsigned r = 0; r < 8; ++r) sum += shared.stage[step % 2][r * 64 + (threadIdx.x / 8 ^ r) * 8 + threadIdx.x % 8];
      if (F == fault::extra_arrival && threadIdx.x == 0) ptx::mbarrier_arrive(&shared.empty[step % 2]);
      if (F != fault::early_release && F != fault::no_release) ptx::mbarrier_arrive(&shared.empty[step % 2]);
    }
    sums[threadIdx.x] = sum;
  }
}

}  // namespace

TEST_CASE("simt: a pipeline of two stages gives the same sums under every schedule; each fault in it is found") {
  constexpr int steps = 6, schedules = test::schedule_count;
  alignas(128) static bf16 rows[8 * steps * 64];
  std::vector<float> expected(64);
  for (int i = 0; i < 8 * steps * 64; ++i) {
    rows[i] = bf16(static_cast<float>(i * 7 % 13 - 6));
    expected[static_cast<std::size_t>(i % 64)] += rows[i];
  }
  auto const map = encode_tensor_map("test", "rows", static_cast<bf16 const*>(rows), box_of_tensor<2>{{64, 8 * steps}, {64}, {64, 8}});
  test::array<float> sums(64);
  auto const run = [&](auto kernel) {
    return test::outcomes(sums, expected, [&] {
      launch("pipeline", kernel, {.blocks = 1, .threads = 96, .shared_bytes = sizeof(pipeline_layout)}, cuda{}, map, sums.data(), steps);
    });
  };
  CHECK(run(pipeline_kernel<fault::none>).same == schedules);
  CHECK(run(pipeline_kernel<fault::no_wait>).same == 0);
  CHECK(run(pipeline_kernel<fault::early_release>).same < schedules);
  CHECK(run(pipeline_kernel<fault::consumer_parity>).same == 0);
  for (auto const& o : {run(pipeline_kernel<fault::producer_parity>), run(pipeline_kernel<fault::too_many_bytes>),
                        run(pipeline_kernel<fault::too_few_bytes>), run(pipeline_kernel<fault::no_release>)}) {
    CHECK(o.failures == schedules);
    CHECK_MESSAGE(test::contains(o.report, "deadlock in block (0,0,0):"), o.report);
    CHECK_MESSAGE(test::contains(o.report, ": mbarrier shared+20"), o.report);
  }
  CHECK(test::contains(run(pipeline_kernel<fault::too_many_bytes>).report, "(phase 0, 0 of 1 arrivals pending, 16 bytes expected) at test/simt/"));
  CHECK(test::contains(run(pipeline_kernel<fault::no_init>).report, "is used before its initialisation"));
  CHECK(run(pipeline_kernel<fault::no_init>).failures == schedules);
  CHECK(run(pipeline_kernel<fault::extra_arrival>).same < schedules);
  simt::use(simt::schedules[0]);
}

namespace {

struct store_layout {
  alignas(128) float value[2][32];
};
enum class store_fault { none, no_wait, early_reuse, no_commit };

/// Writes row after row of 32 numbers by way of two buffers.
template <store_fault F>
__global__ void store_kernel(CUtensorMap const __grid_constant__ map, int rows) {
  auto& shared = ptx::dynamic_shared<store_layout>();
  int const i = static_cast<int>(threadIdx.x);
  for (int row = 0; row < rows; ++row) {
    if (F != store_fault::early_reuse && i == 0) ptx::bulk_wait_read<1>();
    __syncthreads();
    shared.value[row % 2][i] = static_cast<float>(32 * row + i);
    ptx::fence_proxy_async();
    __syncthreads();
    if (i != 0) continue;
    ptx::tma_store(map, shared.value[row % 2], 0, row);
    if (F != store_fault::no_commit) ptx::bulk_commit();
  }
  if (F != store_fault::no_wait && i == 0) ptx::bulk_wait_read<0>();
}

struct spare {
  alignas(16) std::uint64_t barrier;
  alignas(128) float value[64];
};
__global__ void twice_kernel() { ptx::mbarrier_init(&ptx::dynamic_shared<spare>().barrier, 1); }
__global__ void abandoned_kernel(CUtensorMap const __grid_constant__ map) {
  auto& shared = ptx::dynamic_shared<spare>();
  ptx::mbarrier_init(&shared.barrier, 1);
  ptx::mbarrier_arrive_expect_tx(&shared.barrier, 128);
  ptx::tma_load(shared.value, map, &shared.barrier, 0, 0);
}
__global__ void unaligned_kernel(CUtensorMap const __grid_constant__ map) {
  auto& shared = ptx::dynamic_shared<spare>();
  ptx::mbarrier_init(&shared.barrier, 1);
  ptx::tma_load(shared.value + 4, map, &shared.barrier, 0, 0);
}
__global__ void rank_kernel(CUtensorMap const __grid_constant__ map) {
  auto& shared = ptx::dynamic_shared<spare>();
  ptx::mbarrier_init(&shared.barrier, 1);
  ptx::tma_load(shared.value, map, &shared.barrier, 0, 0, 0);
}
/// Whoever does not loop over mbarrier_try_wait reads too early under some schedule.
__global__ void no_loop_kernel(float* to) {
  auto& shared = ptx::dynamic_shared<spare>();
  if (threadIdx.x == 0) ptx::mbarrier_init(&shared.barrier, 32);
  __syncthreads();
  if (threadIdx.x >= 32) shared.value[threadIdx.x - 32] = 1, ptx::mbarrier_arrive(&shared.barrier);
  else ptx::mbarrier_try_wait(&shared.barrier, 0), to[threadIdx.x] = shared.value[threadIdx.x];
}

}  // namespace

TEST_CASE("simt: stores of boxes read shared memory as late as they may, and must be awaited") {
  constexpr int rows = 5, schedules = test::schedule_count;
  alignas(128) static float memory[32 * rows];
  std::vector<float> expected(32 * rows);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<float>(i);
  auto const map = encode_tensor_map("test", "to", static_cast<float const*>(memory), box_of_tensor<2>{{32, rows}, {32}, {32, 1}, box_layout::plain});
  test::array<float> to(32 * rows);
  auto const run = [&](auto kernel) {
    return test::outcomes(to, expected, [&] {
      std::fill(std::begin(memory), std::end(memory), -1.0f);
      launch("store", kernel, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(store_layout)}, cuda{}, map, rows);
      for (int i = 0; i < 32 * rows; ++i) to(i) = memory[i];
    });
  };
  CHECK(run(store_kernel<store_fault::none>).same == schedules);
  CHECK(run(store_kernel<store_fault::early_reuse>).same < schedules);
  test::outcome const no_wait = run(store_kernel<store_fault::no_wait>), no_commit = run(store_kernel<store_fault::no_commit>);
  CHECK(no_wait.failures == schedules);
  CHECK(test::contains(no_wait.report, "the kernel ends with a TMA store that nobody awaited"));
  CHECK(no_commit.failures == schedules);

  auto const report = [&](auto kernel, int threads, auto... args) {
    return test::failure_of([&] { launch("test", kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(spare)}, cuda{}, args...); });
  };
  CHECK(test::contains(report(twice_kernel, 2), "mbarrier shared+0 is initialised a second time"));
  simt::use(simt::schedules[1]);
  CHECK(test::contains(report(abandoned_kernel, 1, map), "the block ends with a TMA load in flight"));
  CHECK(test::contains(report(unaligned_kernel, 1, map), "TMA load of an address of shared memory that is no multiple of 128"));
  CHECK(test::contains(report(rank_kernel, 1, map), "TMA with 3 coordinates of a tensor map of rank 2"));
  CHECK(test::contains(report(abandoned_kernel, 1, CUtensorMap{}), "a tensor map that cuTensorMapEncodeTiled did not make"));
  simt::use(simt::schedules[0]);

  test::array<float> ones(32);
  std::vector<float> const all_ones(32, 1.0f);
  CHECK(test::outcomes(ones, all_ones, [&] {
          launch("test", no_loop_kernel, {.blocks = 1, .threads = 64, .shared_bytes = sizeof(spare)}, cuda{}, ones.data());
        }).same < schedules);
}

namespace {

struct hand_over_layout {
  float value[2][32];
};
enum class bar_fault { none, no_sync, wrong_count };

/// Two warps hand numbers over through two buffers: barriers 1, 2 say full, 3, 4 say empty.
template <bar_fault F>
__global__ void hand_over_kernel(float* to) {
  auto& shared = ptx::dynamic_shared<hand_over_layout>();
  int const lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x < 32) {
    for (int i = 0; i < 6; i += 2) {
      if (i > 0) ptx::bar_sync<3, 64>();
      shared.value[0][lane] = static_cast<float>(i + lane);
      ptx::bar_arrive<1, 64>();
      if (i > 0) ptx::bar_sync<4, 64>();
      shared.value[1][lane] = static_cast<float>(i + 1 + lane);
      if (F == bar_fault::wrong_count) ptx::bar_arrive<2, 96>();
      else ptx::bar_arrive<2, 64>();
    }
  } else {
    float sum = 0;
    for (int i = 0; i < 6; i += 2) {
      if (F != bar_fault::no_sync) ptx::bar_sync<1, 64>();
      sum = 3 * sum + shared.value[0][31 - lane];
      if (i < 4) ptx::bar_arrive<3, 64>();
      ptx::bar_sync<2, 64>();
      sum = 3 * sum + shared.value[1][31 - lane];
      if (i < 4) ptx::bar_arrive<4, 64>();
    }
    to[lane] = sum;
  }
}
__global__ void left_kernel() { ptx::bar_arrive<5, 64>(); }

struct gather_layout {
  alignas(16) float value[32][4];
  std::uint64_t full;
};
/// cp.async by one warp, announced to another through an mbarrier.
template <bool Wait>
__global__ void gather_kernel(float const* from, float* to) {
  auto& shared = ptx::dynamic_shared<gather_layout>();
  int const lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0) ptx::mbarrier_init(&shared.full, 32);
  __syncthreads();
  if (threadIdx.x < 32) {
    ptx::cp_async_16(shared.value[lane], from + 4 * (31 - lane), 16);
    ptx::cp_async_arrive(&shared.full);
    return;
  }
  if (Wait) ptx::mbarrier_wait(&shared.full, 0);
  to[lane] = shared.value[lane][1];
}

}  // namespace

TEST_CASE("simt: named barriers hand over, and cp.async arrives at an mbarrier") {
  constexpr int schedules = test::schedule_count;
  test::array<float> to(32);
  std::vector<float> expected(32);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 6; ++i)
      expected[static_cast<std::size_t>(lane)] = 3 * expected[static_cast<std::size_t>(lane)] + static_cast<float>(i + 31 - lane);
  auto const run = [&](auto kernel) {
    return test::outcomes(to, expected,
                          [&] { launch("test", kernel, {.blocks = 1, .threads = 64, .shared_bytes = sizeof(hand_over_layout)}, cuda{}, to.data()); });
  };
  CHECK(run(hand_over_kernel<bar_fault::none>).same == schedules);
  CHECK(run(hand_over_kernel<bar_fault::no_sync>).same < schedules);
  test::outcome const count = run(hand_over_kernel<bar_fault::wrong_count>);
  CHECK(count.failures == schedules);
  CHECK_MESSAGE(test::contains(count.report, "the named barrier 2 for "), count.report);
  CHECK(test::contains(test::failure_of([&] { launch("test", left_kernel, {.blocks = 1, .threads = 32}, cuda{}); }),
                       "ends with 32 of 64 threads at the named barrier 5 of test/simt/simt_tma_test.cpp:"));

  alignas(16) float from[128];
  for (int i = 0; i < 128; ++i) from[i] = static_cast<float>(i);
  for (int lane = 0; lane < 32; ++lane) expected[static_cast<std::size_t>(lane)] = static_cast<float>(4 * (31 - lane) + 1);
  auto const gather = [&](auto kernel) {
    return test::outcomes(to, expected, [&] {
      launch("test", kernel, {.blocks = 1, .threads = 64, .shared_bytes = sizeof(gather_layout)}, cuda{}, static_cast<float const*>(from), to.data());
    });
  };
  CHECK(gather(gather_kernel<true>).same == schedules);
  CHECK(gather(gather_kernel<false>).same < schedules);
}
