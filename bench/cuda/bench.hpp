#pragma once
// Benchmarks of the CUDA operators. A harness of our own instead of Google Benchmark: time comes from CUDA events, the second-level cache is flushed
// before every repetition, operands are random, results are compared with a reference in double, and limits are measured in the same process.
// bench/cuda/<path>_bench.cu mirrors include/moe/<path>.cuh; each adds its cases with a static bench::group. test/simt runs them on the CPU, tiny.
#include <cmath>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <moe/core/buffer.cuh>
#include <moe/core/elementwise.cuh>
#include <moe/core/random.hpp>

namespace bench {

using moe::bf16;
using moe::dyn;
using moe::index_t;
using moe::matrix_view;
using moe::vector_view;

/// What one call does: bytes that must be read or written once, flops of its products of matrices.
struct work {
  double bytes, flops = 0;
};

/// Largest difference between results and their reference in double, over the largest reference. A NaN on either side stays one.
class error {
 public:
  void add(double got, double want) {
    double const d = std::abs(got - want);
    if (!(d <= worst_)) worst_ = worst_ != worst_ ? worst_ : d;
    if (std::abs(want) > largest_) largest_ = std::abs(want);
  }
  double relative() const { return largest_ > 0 ? worst_ / largest_ : worst_; }

 private:
  double worst_ = 0, largest_ = 0;
};

/// One number of a shape; `tiny` takes its place in a smoke run.
struct extent {
  char const* name;
  index_t value, tiny;
};

template <class T>
constexpr char const* type_name() {
  return std::is_integral_v<T> ? "int" : sizeof(T) == 2 ? "bf16" : sizeof(T) == 4 ? "float" : "double";
}

template <class T>
struct uniform_element {  ///< uniform in [-1, 1): zeros would be faster than data is, in power
  moe::random_stream random;
  matrix_view<T> to;
  __device__ void operator()(index_t r, index_t c) const {
    auto const words = random.words(static_cast<std::uint64_t>(r * to.template extent<1>() + c));
    to(r, c) = T(static_cast<float>(static_cast<std::int32_t>(words[0])) * 0x1p-31f);
  }
};

/// A case while it runs: its shape, memory on the device, and what was found.
class run {
 public:
  run(std::vector<extent> shape, double seconds) : shape_(std::move(shape)), seconds_(seconds) {}

  moe::cuda const space;
  index_t operator[](char const* name) const;

  /// Random operands.
  template <class T>
  matrix_view<T> mat(index_t rows, index_t columns) {
    auto const m = empty<T>(rows, columns);
    moe::for_each_element("uniform", space, rows, columns, uniform_element<T>{{1, moe::random_purpose::test, ++operands_}, m});
    return m;
  }
  template <class T>
  vector_view<T> vec(index_t n) {
    return moe::vec(mat<T>(1, n).data(), n);
  }
  /// Memory that is not initialised.
  template <class T>
  matrix_view<T> empty(index_t rows, index_t columns) {
    return moe::mat(take<T>(rows * columns), rows, columns);
  }
  moe::arena scratch(std::size_t bytes) { return {take<std::byte>(static_cast<index_t>(bytes)), bytes}; }
  /// From the host.
  template <class T>
  vector_view<T> device(std::vector<T> const& values) {
    auto const n = static_cast<index_t>(values.size());
    T* const p = take<T>(n);
    moe::copy(space, p, values.data(), n);
    space.wait();
    return moe::vec(p, n);
  }
  /// Integers in [0, below).
  std::vector<int> ids(index_t n, index_t below) {
    moe::random_stream const random{1, moe::random_purpose::test, ++operands_};
    std::vector<int> v(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int>(random.below(i, static_cast<std::uint64_t>(below)));
    return v;
  }

  /// To the host, as doubles.
  template <class T>
  std::vector<double> host(T const* p, index_t n) const {
    std::vector<T> values(static_cast<std::size_t>(n));
    moe::copy(space, values.data(), p, n);
    space.wait();
    return std::vector<double>(values.begin(), values.end());
  }
  template <class V>
  std::vector<double> host_row(V const& m, index_t r) const {
    return host(m.row(r), m.template extent<1>());
  }
  /// Columns [begin, end), row by row.
  template <class T>
  std::vector<double> host_columns(matrix_view<T> const& m, index_t begin, index_t end) {
    auto const packed = empty<T>(m.rows(), end - begin);
    moe::copy<T>(space, moe::columns_of(m, begin, end), packed);
    return host(packed.data(), packed.size());
  }

  /// Calls f(space) once and waits: what the results are checked after.
  template <class F>
  void first(F const& f) {
    f(space);
    space.wait();
  }
  void check(error const& e) { error_ = e.relative(); }
  /// Calls f(space) many times.
  void time(work const& w, std::function<void(moe::cuda const&)> const& f);

  work done{0, 0};
  std::vector<double> microseconds;  ///< of each repetition, ascending
  bool graph = false;                ///< a CUDA graph captured the call
  double max_error() const { return error_; }

 private:
  template <class T>
  T* take(index_t n) {
    memory_.emplace_back(static_cast<std::size_t>(n > 0 ? n : 1) * sizeof(T));
    return memory_.back().as<T>();
  }
  std::vector<extent> shape_;
  std::vector<moe::device_buffer> memory_;
  double seconds_, error_ = NAN;
  std::uint32_t operands_ = 0;
};

/// Rows in which results are checked: the first, one in the middle, the last.
inline std::vector<index_t> some_rows(index_t rows) { return {0, rows / 2, rows - 1}; }

inline double dot(std::vector<double> const& a, std::vector<double> const& b) {
  double s = 0;
  for (std::size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}

struct bench_case {
  std::string name, dtype, peer;  ///< peer: empty for this library
  std::vector<extent> shape;
  std::function<void(run&)> body;
};
std::vector<bench_case>& cases();

/// Adds cases before main starts: add<T>(name, shape, body), and add_peer for another library at the same shape.
struct group {
  explicit group(void (*fill)(group&)) { fill(*this); }
  template <class T>
  void add(char const* name, std::vector<extent> shape, void (*body)(run&)) {
    cases().push_back({name, type_name<T>(), "", std::move(shape), body});
  }
  template <class T>
  void add_peer(char const* peer, char const* name, std::vector<extent> shape, void (*body)(run&)) {
    cases().push_back({name, type_name<T>(), peer, std::move(shape), body});
  }
};

/// Flops per second of another library's product of matrices of `dtype`: set where there is one. 0: unknown.
extern double (*matrix_rate)(std::string const& dtype, index_t size);

}  // namespace bench
