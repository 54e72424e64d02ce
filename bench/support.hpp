#pragma once
// Shared by the benchmarks: random operands, rates, and the share of what this machine can do at most.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/random.hpp>

namespace bench {

using moe::index_t;

/// Where the benchmarks run: on all threads (OMP_NUM_THREADS).
inline moe::cpu space() { return {}; }

/// What one iteration does. flops: products and sums of the formula; bytes: every operand once, read or written.
struct work {
  double items = 0, flops = 0, bytes = 0;
};

/// Limits of this machine, measured in this process on all threads.
double peak_flops();                      ///< per second: float madd on registers
double copy_bandwidth(double set_bytes);  ///< bytes per second, read and written: a copy whose source and target are set_bytes together

/// Adds rates per second to the report of a benchmark, and `share`: the time that the limits allow over the time taken. The limits are the peak of
/// madd, and a copy of as many bytes, wherever in the caches they lie; the slower of the two counts. A share above 1 says that the operands were
/// nearer than those of the copy, or that the machine was slower during the probe.
void count(benchmark::State& state, work const& w, double seconds);

/// The loop of a benchmark whose iteration is f() and does `w`.
template <class F>
void run(benchmark::State& state, work const& w, F const& f) {
  auto const start = std::chrono::steady_clock::now();
  for (auto _ : state) f();
  count(state, w, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

/// Memory for the operands of one benchmark, all of it uniform in [-1, 1): zeros would be faster than data is, in power and in denormals.
class operands {
 public:
  explicit operands(std::size_t mebibytes) : data_(mebibytes << 20) {}

  template <class T = float>
  moe::matrix_view<T> mat(index_t rows, index_t columns) {
    auto const m = memory_.mat<T>(rows, columns);
    fill(m.data(), m.size());
    return m;
  }
  template <class T = float>
  moe::vector_view<T> vec(index_t n) {
    auto const v = memory_.vec<T>(n);
    fill(v.data(), n);
    return v;
  }
  template <int K>
  moe::tensor<float, moe::dyn, K> mat(index_t rows) {
    return mat(rows, K);
  }
  /// Integers in [0, below).
  moe::vector_view<int> ids(index_t n, index_t below) {
    auto const v = memory_.vec<int>(n);
    for (index_t i = 0; i < n; ++i) v(i) = static_cast<int>(random_.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(below)));
    return v;
  }
  moe::arena scratch(std::size_t bytes) { return {memory_.take<std::byte>(static_cast<index_t>(bytes)), bytes}; }
  moe::arena& memory() { return memory_; }

 private:
  template <class T>
  void fill(T* p, index_t n) {
    ++random_.step;
    moe::parallel_chunks(space(), n, 4096, 10.0, [&](index_t, index_t begin, index_t end) {
      for (index_t i = begin; i < end; i += 4) {
        auto const words = random_.words(static_cast<std::uint64_t>(i));
        for (int j = 0; j < 4 && i + j < end; ++j) p[i + j] = T(static_cast<float>(static_cast<std::int32_t>(words[j])) * 0x1p-31f);
      }
    });
  }
  moe::buffer data_;
  moe::arena memory_{data_};
  moe::random_stream random_{1, moe::random_purpose::test, 0};
};

}  // namespace bench
