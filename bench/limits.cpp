#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include <bench/limits.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/simd.hpp>

namespace bench {
namespace {

using clock = std::chrono::steady_clock;
using moe::index_t;

/// The compiler must assume that x is read, and changed.
template <class T>
void opaque(T& x) {
  asm volatile("" : "+m"(x) : : "memory");
}

/// Seconds that the threads take for work(thread, threads), from a common start to the last one's end.
template <class F>
double joint_seconds(int threads, F const& work) {
  std::atomic<int> ready = 0;
  clock::time_point first = clock::time_point::max(), last = clock::time_point::min();
#pragma omp parallel num_threads(threads)
  {
    int const team = omp_get_num_threads();
    for (++ready; ready.load() < team;) {
    }  // a start that all see within a fraction of a microsecond
    auto const start = clock::now();
    work(omp_get_thread_num(), team);
    auto const end = clock::now();
#pragma omp critical(bench_joint_seconds)
    first = std::min(first, start), last = std::max(last, end);
  }
  return std::chrono::duration<double>(last - first).count();
}

/// Chains of one operation: more of them than a core has in flight at a time.
constexpr int chains = 12;
using V = moe::simd<float>;

template <class Step>
void run_chains(int repetitions, Step const& step) {
  V sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = V::all(static_cast<float>(i));
  opaque(repetitions);
  for (int r = 0; r < repetitions; ++r) {
    MOE_UNROLL(12)
    for (int i = 0; i < chains; ++i) sum[i] = step(sum[i]);
  }
  V total = V::zero();
  for (int i = 0; i < chains; ++i) total = total + sum[i];
  float result = moe::sum(total);
  opaque(result);
}

/// One part of n elements per thread.
template <class F>
double joint_bytes(int threads, index_t n, double bytes, F const& f) {
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    double const seconds = joint_seconds(threads, [&](int t, int team) { f(n / team * t, n / team * (t + 1)); });
    if (run > 0) best = std::max(best, bytes / seconds);  // the first touches the memory
  }
  return best;
}

float read(float const* p, index_t begin, index_t end) {
  V sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (index_t i = begin; i + 4 * V::width <= end; i += 4 * V::width)
    for (int j = 0; j < 4; ++j) sum[j] = sum[j] + V::load(p + i + j * V::width);
  return moe::sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

memory_rates best_of(memory_rates const& a, memory_rates const& b) {
  return {std::max(a.read, b.read), std::max(a.copy, b.copy), std::max(a.triad, b.triad)};
}

}  // namespace

double madd_flops(int threads, int repetitions) {
  V a = V::all(0.9999f), b = V::all(1e-4f);
  opaque(a), opaque(b);
  double const seconds = joint_seconds(threads, [&](int, int) { run_chains(repetitions, [a, b](V s) { return madd(s, a, b); }); });
  return 2.0 * V::width * chains * repetitions * threads / seconds;
}

double dot_flops([[maybe_unused]] int threads, [[maybe_unused]] int repetitions) {
#if defined(MOE_AVX512_BF16)
  V bits = V::all(0.0f);
  opaque(bits);
  moe::bf16_pairs const a(bits), b(bits);
  double const seconds = joint_seconds(threads, [&](int, int) { run_chains(repetitions, [a, b](V s) { return moe::madd_pairs(a, b, s); }); });
  return 4.0 * V::width * chains * repetitions * threads / seconds;
#else
  return 0;
#endif
}

memory_rates measure_memory(int threads, std::size_t bytes) {
  auto const n = static_cast<index_t>(bytes / sizeof(float));
  moe::buffer const memory[3] = {moe::buffer(bytes), moe::buffer(bytes), moe::buffer(bytes)};
  float *const a = memory[0].as<float>(), *const b = memory[1].as<float>(), *const c = memory[2].as<float>();
  for (index_t i = 0; i < n; ++i) a[i] = b[i] = static_cast<float>(i & 1023);
  auto const size = static_cast<double>(bytes);
  memory_rates r;
  r.read = joint_bytes(threads, n, size, [&](index_t begin, index_t end) {
    float total = read(a, begin, end);
    opaque(total);
  });
  r.copy = joint_bytes(threads, n, 2 * size,
                       [&](index_t begin, index_t end) { std::memcpy(c + begin, a + begin, sizeof(float) * static_cast<std::size_t>(end - begin)); });
  V const factor = V::all(0.5f);
  r.triad = joint_bytes(threads, n, 3 * size, [&](index_t begin, index_t end) {
    for (index_t i = begin; i + V::width <= end; i += V::width) madd(factor, V::load(b + i), V::load(a + i)).store(c + i);
  });
  return r;
}

limits measure_limits(int threads, std::size_t bytes) {
  limits l{threads, 0, 0, 0, 0, {}, {}};
  for (int run = 0; run < 6 && (run < 2 || l.memory.read < l.memory_one.read); ++run) {
    l.memory_one = best_of(l.memory_one, measure_memory(1, bytes));
    l.memory = best_of(l.memory, measure_memory(threads, bytes));
  }
  for (int run = 0; run < 200; ++run) {
    l.madd_one = std::max(l.madd_one, madd_flops(1)), l.madd = std::max(l.madd, madd_flops(threads));
    l.dot_one = std::max(l.dot_one, dot_flops(1)), l.dot = std::max(l.dot, dot_flops(threads));
    if (run >= 20 && l.madd > 0.95 * threads * l.madd_one && l.dot >= 0.95 * threads * l.dot_one) break;
    if (run >= 20) std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the threads have not a core each just now
  }
  return l;
}

}  // namespace bench
