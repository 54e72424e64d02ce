#pragma once
// Random operands for benchmarks.
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/random.hpp>

namespace bench {

using moe::index_t;

/// Where the benchmarks run: on all threads (OMP_NUM_THREADS).
inline moe::cpu space() { return {}; }

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
