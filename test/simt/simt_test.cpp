// The stand-in itself: each fault that it promises to find, planted in a small kernel.
#include <moe/core/buffer.cuh>
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>

#include "test/simt/support.hpp"

namespace {

using moe::launch;
namespace ptx = moe::ptx;

struct numbers {
  ptx::shared_matrix<float, 1, 128> value;
};

/// to[i] = from[127 - i], by way of shared memory.
template <bool Barrier>
__global__ void reverse_kernel(float const* from, float* to) {
  auto& shared = ptx::dynamic_shared<numbers>();
  int const i = static_cast<int>(threadIdx.x);
  shared.value(0, i) = from[i];
  if constexpr (Barrier) __syncthreads();
  to[i] = shared.value(0, 127 - i);
}

/// Round after round through one buffer: to[i] = sum over rounds of what the neighbour wrote. The barrier at the end keeps a fast warp from writing
/// early.
template <bool Barrier>
__global__ void reuse_kernel(float* to) {
  auto& shared = ptx::dynamic_shared<numbers>();
  int const i = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 1; round <= 4; ++round) {
    shared.value(0, i) = static_cast<float>(round * 1000 + i);
    __syncthreads();
    sum += shared.value(0, (i + 32) % 128);
    if constexpr (Barrier) __syncthreads();
  }
  to[i] = sum;
}

struct vectors {
  ptx::vector16<float> v[32];
};
template <bool Wait>
__global__ void copy_kernel(float const* from, float* to) {
  auto& shared = ptx::dynamic_shared<vectors>();
  int const i = static_cast<int>(threadIdx.x);
  ptx::cp_async_16(&shared.v[i], from + 4 * i, i == 31 ? 8 : 16);
  ptx::cp_async_commit();
  if constexpr (Wait) ptx::cp_async_wait<0>();
  __syncthreads();
  for (int j = 0; j < 4; ++j) to[4 * i + j] = shared.v[31 - i].v[j];
  ptx::cp_async_wait<0>();
}

/// Names of the schedules under which `to` differs from what forward order gives.
template <class F>
int differing_schedules(test::array<float>& to, F&& f) {
  std::vector<float> reference;
  int n = 0;
  simt::for_each_schedule(
      [&] {
        to.poison();
        f();
        return to.values();
      },
      [&](simt::schedule const&, std::vector<float> const& result) {
        if (reference.empty()) reference = result;
        n += test::same_bits(result, reference) ? 0 : 1;
      });
  return n;
}

}  // namespace

TEST_CASE("simt: a missing barrier between threads is found") {
  test::array<float> from(128), to(128);
  for (int i = 0; i < 128; ++i) from(i) = static_cast<float>(i);
  moe::launch_shape const shape{.blocks = 1, .threads = 128, .shared_bytes = sizeof(numbers)};
  CHECK(differing_schedules(to, [&] { launch("reverse", reverse_kernel<true>, shape, moe::cuda{}, from.data(), to.data()); }) == 0);
  for (int i = 0; i < 128; ++i) CHECK(to(i) == static_cast<float>(127 - i));
  CHECK(differing_schedules(to, [&] { launch("reverse", reverse_kernel<false>, shape, moe::cuda{}, from.data(), to.data()); }) > 0);
}

TEST_CASE("simt: a missing barrier before a buffer is used again is found") {
  test::array<float> to(128);
  moe::launch_shape const shape{.blocks = 1, .threads = 128, .shared_bytes = sizeof(numbers)};
  CHECK(differing_schedules(to, [&] { launch("reuse", reuse_kernel<true>, shape, moe::cuda{}, to.data()); }) == 0);
  CHECK(differing_schedules(to, [&] { launch("reuse", reuse_kernel<false>, shape, moe::cuda{}, to.data()); }) > 0);
}

TEST_CASE("simt: a missing wait for an asynchronous copy is found") {
  alignas(16) float from[128];
  for (int i = 0; i < 128; ++i) from[i] = static_cast<float>(i);
  test::array<float> to(128);
  moe::launch_shape const shape{.blocks = 1, .threads = 32, .shared_bytes = sizeof(vectors)};
  CHECK(differing_schedules(to, [&] { launch("copy", copy_kernel<true>, shape, moe::cuda{}, static_cast<float const*>(from), to.data()); }) == 0);
  CHECK(to(4) == 120.0f);
  CHECK(to(2) == 0.0f);  // the last copy was of 8 bytes
  CHECK(differing_schedules(to, [&] { launch("copy", copy_kernel<false>, shape, moe::cuda{}, static_cast<float const*>(from), to.data()); }) > 0);
}

namespace {
__global__ void exits_kernel(int* to) {
  if (threadIdx.x == 7) return;
  to[threadIdx.x] = __shfl_xor_sync(0xffffffffu, static_cast<int>(threadIdx.x), 1);
}
/// The address sanitizer would end the program here; elsewhere the margins show it.
__attribute__((no_sanitize("address"))) __global__ void outside_kernel(int offset) {
  auto* const p = reinterpret_cast<unsigned char*>(&ptx::dynamic_shared<numbers>());
  p[static_cast<int>(sizeof(numbers)) - 1 + offset] = 1;
}
__global__ void index_kernel(int column) { ptx::dynamic_shared<numbers>().value(0, column) = 1; }
constexpr int line = __LINE__;
__global__ void deadlock_kernel() {
  if (threadIdx.x < 32) __syncwarp();
  else if (threadIdx.x < 48) __syncwarp(0xffffffffu);
  else if (threadIdx.x < 64) __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
__global__ void mask_kernel() { __shfl_sync(0xffffu, 1, 0); }
__global__ void source_kernel() {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}
__global__ void operations_kernel() {
  if (threadIdx.x % 2 == 0) __ballot_sync(0xffffffffu, 1);
  else __any_sync(0xffffffffu, 1);
}
__global__ void in_flight_kernel(float const* from) { ptx::cp_async_16(&ptx::dynamic_shared<vectors>().v[threadIdx.x], from, 16); }
__global__ void unaligned_kernel(float const* from) { ptx::cp_async_16(&ptx::dynamic_shared<vectors>().v[threadIdx.x], from + 1, 16); }
__global__ void unaligned_load_kernel(float const* from) { (void)ptx::load_16(from + 1); }
__global__ void unaligned_store_kernel(float* to) { ptx::store_16(to + 3, {}); }
__global__ void throwing_kernel() {
  if (threadIdx.x == 40) throw std::runtime_error("from a kernel");
  __syncthreads();
}
__global__ void nothing_kernel() {}
}  // namespace

TEST_CASE("simt: faults are reported with their place, under every schedule, and the next launch starts clean") {
  alignas(16) float from[8] = {};
  float const* const source = from;
  test::array<int> to(64);
  auto const report = [&](auto kernel, int threads, auto... args) {
    return test::failure_of(
        [&] { launch("test", kernel, {.blocks = 2, .threads = threads, .shared_bytes = sizeof(numbers)}, moe::cuda{}, args...); });
  };
  for (simt::schedule const& s : simt::schedules) {
    CAPTURE(s.name);
    simt::use(s);
    std::string const exited = report(exits_kernel, 32, to.data());
    CHECK_MESSAGE((test::contains(exited, "lane 7, which has left the kernel") && test::contains(exited, "simt_test.cpp:")), exited);
    CHECK(report(outside_kernel, 1, 0).empty());
    CHECK(test::contains(report(outside_kernel, 1, 1), "a store to shared memory 1 bytes behind the end of the 512 bytes of the launch, in block "));
    CHECK(test::contains(report(outside_kernel, 1, 4000), "4000 bytes behind"));
    CHECK(test::contains(report(outside_kernel, 1, -512), "a store to shared memory 1 bytes before the 512 bytes of the launch"));
    CHECK(test::contains(report(index_kernel, 1, 128), "shared_matrix: element (0, 128) of 1 x 128, thread 0 of block"));
    CHECK(report(index_kernel, 1, 127).empty());
    CHECK(test::contains(report(mask_kernel, 32), "__shfl_sync from lane "));
    CHECK(test::contains(report(source_kernel, 32), "reads lane 20, which is not in its mask 0x0000ffff"));
    CHECK(test::contains(report(mask_kernel, 8), "which the block does not have"));
    CHECK(test::contains(report(operations_kernel, 32), "while other lanes await __"));
    CHECK(test::contains(report(two_barriers_kernel, 64), "that other threads of the block await at"));
    CHECK(test::contains(report(in_flight_kernel, 1, source), "ends with a cp.async in flight"));
    CHECK(test::contains(report(unaligned_kernel, 1, source), "no multiple of 16"));
    CHECK(test::contains(report(unaligned_load_kernel, 1, source), "16 bytes at once at an address that is no multiple of 16"));
    CHECK(test::contains(report(unaligned_store_kernel, 1, from), "16 bytes at once at an address that is no multiple of 16"));
    CHECK_THROWS_WITH(launch("test", throwing_kernel, {.blocks = 1, .threads = 64}, moe::cuda{}), "from a kernel");
    CHECK(report(nothing_kernel, 64).empty());
  }
  simt::use(simt::schedules[0]);
}

TEST_CASE("simt: a deadlock is reported with who waits where") {
  for (simt::schedule const& s : simt::schedules) {
    simt::use(s);
    std::string const text = test::failure_of([&] { launch("test", deadlock_kernel, {.blocks = 1, .threads = 96}, moe::cuda{}); });
    CAPTURE(text);
    CHECK(text == std::string("deadlock in block (0,0,0):\n"
                              "  threads 0-31: finished\n"
                              "  threads 32-47: __syncwarp with mask 0xffffffff at test/simt/simt_test.cpp:") +
                      std::to_string(line + 3) +
                      "\n"
                      "  threads 48-63: __syncthreads at test/simt/simt_test.cpp:" +
                      std::to_string(line + 4) +
                      "\n"
                      "  threads 64-95: finished");
  }
  simt::use(simt::schedules[0]);
}

namespace {
__global__ void warp_kernel(int* to) {
  int const lane = static_cast<int>(threadIdx.x % 32), all = static_cast<int>(threadIdx.x);
  int* const mine = to + 8 * all;
  mine[0] = __shfl_xor_sync(0xffffffffu, all, 5);
  mine[1] = __shfl_up_sync(0xffffffffu, all, 3, 8);
  mine[2] = __shfl_down_sync(0xffffffffu, all, 3);
  mine[3] = __shfl_sync(0xffffffffu, all, 9, 16);
  mine[4] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  mine[5] = __any_sync(0xffffffffu, lane == 31);
  mine[6] = __all_sync(0xffffffffu, lane < 31);
  unsigned const half = lane < 16 ? 0xffffu : 0xffff0000u;
  mine[7] = __shfl_xor_sync(half, all, 1);
}
__global__ void count_kernel(int* to) { atomicAdd(to, static_cast<int>(blockIdx.x + threadIdx.x)); }
__global__ void integer_kernel(int* to, unsigned* match) {
  int const t = static_cast<int>(threadIdx.x);
  unsigned const even = t % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  match[t] = __match_any_sync(0xffffffffu, t / 5);
  int const sum = __reduce_add_sync(even, t), most = __reduce_max_sync(0xffffffffu, 7 - t), least = __reduce_min_sync(0xffffffffu, 7 - t);
  if (t == 1) to[0] = sum, to[1] = most, to[2] = least;
  atomicMax(to + 3, 3 * t % 32), atomicMin(to + 4, -t), atomicOr(to + 5, 1 << t), atomicSub(to + 6, t);
  if (atomicCAS(to + 7, -1, 5) == -1) atomicExch(to + 8, 9);
}
}  // namespace

TEST_CASE("simt: shuffles, votes and integer atomics") {
  test::array<int> to(64, 8), count(1);
  test::check_schedules(to, [&] { launch("warp", warp_kernel, {.blocks = 1, .threads = 64}, moe::cuda{}, to.data()); });
  for (int t = 0; t < 64; ++t) {
    int const lane = t % 32;
    CHECK(to(t, 0) == (t ^ 5));
    CHECK(to(t, 1) == (lane % 8 >= 3 ? t - 3 : t));
    CHECK(to(t, 2) == (lane + 3 < 32 ? t + 3 : t));
    CHECK(to(t, 3) == t / 16 * 16 + 9);
    CHECK(to(t, 4) == 0x49249249);
    CHECK(to(t, 5) == 1);
    CHECK(to(t, 6) == 0);
    CHECK(to(t, 7) == (t ^ 1));
  }
  test::check_schedules(count, [&] {
    count(0) = 0;
    launch("count", count_kernel, {.blocks = 3, .threads = 40}, moe::cuda{}, count.data());
  });
  CHECK(count(0) == 3 * (39 * 40 / 2) + 40 * (0 + 1 + 2));

  test::array<int> numbers(9);
  test::array<unsigned> match(32);
  test::check_schedules(numbers, [&] {
    numbers(6) = 0;
    launch("integer", integer_kernel, {.blocks = 1, .threads = 32}, moe::cuda{}, numbers.data(), match.data());
  });
  CHECK(numbers.values() == std::vector<int>{256, 7, -24, 31, -31, -1, -496, 5, 9});
  for (int t = 0; t < 32; ++t) CHECK(match(t) == (t < 30 ? 0x1fu << t / 5 * 5 : 0xc0000000u));
  CHECK((__clz(1) == 31 && __clz(0) == 32 && __brev(1) == 0x80000000u && __popcll(~0ull) == 64 && __ffs(8) == 4 && __ffsll(0) == 0));
  CHECK((__float_as_uint(1.0f) == 0x3f800000u && __uint_as_float(0x3f800000u) == 1.0f && __double_as_longlong(-0.0) < 0));
}
