#pragma once
// Shared by the tests: arrays with canaries and poison, reproducible data, gradient checks, the sets of threads and shapes to try.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <moe/core/buffer.hpp>
#include <moe/core/random.hpp>
#include <moe/core/tensor.hpp>
#include <test/execution.hpp>

namespace test {

using moe::bf16;
using moe::dyn;
using moe::index_t;

template <class T>
T quiet_nan() {
  return T(std::numeric_limits<float>::quiet_NaN());
}

/// Memory for one operand: NaN in every element until written, and 64 canary elements on both sides that the destructor checks.
/// `offset` elements before the first row make the address odd; `stride` may exceed the row length (the gap is a canary too).
template <class T>
class array {
 public:
  explicit array(index_t rows, index_t columns = 1, index_t stride = 0, index_t offset = 0)
      : rows_(rows), columns_(columns), stride_(stride > columns ? stride : columns), offset_(offset),
        memory_(static_cast<std::size_t>(2 * margin + offset + rows * stride_), canary()) {
    poison();
  }
  array(std::vector<T> const& values, index_t rows, index_t columns) : array(rows, columns) {
    for (index_t i = 0; i < rows * columns; ++i) data()[i] = values[static_cast<std::size_t>(i)];
  }
  array(array const&) = default;
  array& operator=(array const&) = default;
  ~array() { CHECK_MESSAGE(intact(), "a canary beside an array was overwritten"); }

  T* data() { return memory_.data() + margin + offset_; }
  T const* data() const { return memory_.data() + margin + offset_; }
  index_t rows() const { return rows_; }
  index_t columns() const { return columns_; }
  index_t size() const { return rows_ * columns_; }
  T& operator()(index_t r, index_t c = 0) { return data()[r * stride_ + c]; }
  T const& operator()(index_t r, index_t c = 0) const { return data()[r * stride_ + c]; }
  moe::matrix_view<T> mat() { return moe::mat(data(), rows_, columns_).with_row_stride(stride_); }
  moe::matrix_view<T const> mat() const { return moe::mat(data(), rows_, columns_).with_row_stride(stride_); }
  moe::vector_view<T> vec() { return moe::vec(data(), rows_ * columns_); }
  moe::vector_view<T const> vec() const { return moe::vec(data(), rows_ * columns_); }

  /// Every element NaN (integers: -1), as a dirty output buffer would be.
  void poison() {
    for (index_t r = 0; r < rows_; ++r)
      for (index_t c = 0; c < columns_; ++c) {
        if constexpr (std::is_integral_v<T>) (*this)(r, c) = T(-1);
        else (*this)(r, c) = quiet_nan<T>();
      }
  }
  void fill(T x) {
    for (index_t r = 0; r < rows_; ++r)
      for (index_t c = 0; c < columns_; ++c) (*this)(r, c) = x;
  }
  /// Reproducible standard normal numbers times `scale`.
  array& normal(std::uint64_t seed, double scale = 1.0) {
    moe::random_stream const random{seed, moe::random_purpose::test, 0};
    for (index_t r = 0; r < rows_; ++r)
      for (index_t c = 0; c < columns_; ++c) (*this)(r, c) = T(scale * random.normal(static_cast<std::uint64_t>(r * columns_ + c)));
    return *this;
  }
  /// Reproducible integers in [-bound, bound]: sums of their products are exact, so any order gives the same bits.
  array& integers(std::uint64_t seed, int bound = 4) {
    moe::random_stream const random{seed, moe::random_purpose::test, 1};
    for (index_t r = 0; r < rows_; ++r)
      for (index_t c = 0; c < columns_; ++c)
        (*this)(r, c) = T(static_cast<float>(static_cast<int>(random.below(static_cast<std::uint64_t>(r * columns_ + c), static_cast<std::uint64_t>(2 * bound + 1))) - bound));
    return *this;
  }
  /// The elements, without canaries and gaps, for comparison by ==.
  std::vector<T> values() const {
    std::vector<T> v;
    for (index_t r = 0; r < rows_; ++r)
      for (index_t c = 0; c < columns_; ++c) v.push_back((*this)(r, c));
    return v;
  }
  bool intact() const {
    std::size_t const first = static_cast<std::size_t>(margin + offset_);
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      bool const inside = i >= first && i < first + static_cast<std::size_t>(rows_ * stride_) &&
                          static_cast<index_t>(i - first) % stride_ < columns_;
      T const c = canary();
      if (!inside && std::memcmp(&memory_[i], &c, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr index_t margin = 64;
  static T canary() {
    if constexpr (std::is_integral_v<T>) return T(0x5a5a5a5a);
    else return T(-7.25f);
  }
  index_t rows_, columns_, stride_, offset_;
  memory<T> memory_;
};

/// Same bits: NaN equals NaN, +0 differs from -0.
template <class T, class A = std::allocator<T>>
bool same_bits(std::vector<T, A> const& a, std::vector<T, A> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Scratch that grows to what a call needs and is dirty (NaN) each time.
class scratch {
 public:
  explicit scratch(std::size_t bytes = std::size_t{64} << 20) : memory_(bytes, std::byte{0xff}) {}
  moe::arena get() {
    if (!memory_.empty()) std::memset(memory_.data(), 0xff, memory_.size());
    return moe::arena(memory_.data(), memory_.size());
  }

 private:
  memory<std::byte> memory_;
};

struct gradient_tolerance {
  double step = 1e-5;         ///< of the central difference, relative to max(1, |x|)
  double relative = 1e-7;     ///< allowed max |analytic - numeric| over max |analytic| of the tensor
};

/// Compares `analytic` (d loss / d x) with central differences (fourth order: steps h and 2h) of `loss`, which reads x.
/// A tensor whose analytic gradient is zero everywhere must have a loss that does not move at all.
template <class Loss>
void check_gradient_at(char const* name, Loss&& loss, double* x, std::vector<index_t> const& places, double const* analytic,
                       gradient_tolerance tolerance = {}) {
  double largest = 0, worst = 0;
  index_t where = 0;
  for (index_t i : places) largest = std::max(largest, std::abs(analytic[i]));
  for (index_t i : places) {
    double const saved = x[i], h = tolerance.step * std::max(1.0, std::abs(saved));
    auto const at = [&](double d) {
      x[i] = saved + d;
      double const l = loss();
      x[i] = saved;
      return l;
    };
    double const numeric = (8.0 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12.0 * h);
    double const difference = std::abs(numeric - analytic[i]);
    if (!(difference <= worst)) worst = difference, where = i;
  }
  CHECK_MESSAGE(worst <= tolerance.relative * largest, name << ": d[" << where << "] differs from the central difference by " << worst
                                                            << ", largest gradient " << largest);
}
/// The same for all of n elements.
template <class Loss>
void check_gradient(char const* name, Loss&& loss, double* x, index_t n, std::vector<double> const& analytic, gradient_tolerance tolerance = {}) {
  REQUIRE(static_cast<index_t>(analytic.size()) == n);
  std::vector<index_t> places(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) places[static_cast<std::size_t>(i)] = i;
  check_gradient_at(name, loss, x, places, analytic.data(), tolerance);
}

/// Directional check for large tensors: the derivative of the loss along one random direction.
template <class Loss>
void check_direction(char const* name, Loss&& loss, double* x, index_t n, std::vector<double> const& analytic, std::uint64_t seed = 1,
                     double step = 1e-4, double relative = 1e-7) {
  moe::random_stream const random{seed, moe::random_purpose::test, 2};
  std::vector<double> saved(x, x + n), direction(static_cast<std::size_t>(n));
  double expected = 0, norm = 0;
  for (index_t i = 0; i < n; ++i) {
    auto const u = static_cast<std::size_t>(i);
    direction[u] = random.normal(static_cast<std::uint64_t>(i));
    expected += direction[u] * analytic[u];
    norm += std::abs(direction[u] * analytic[u]);
  }
  auto const at = [&](double d) {
    for (index_t i = 0; i < n; ++i) x[i] = saved[static_cast<std::size_t>(i)] + d * direction[static_cast<std::size_t>(i)];
    return loss();
  };
  double const numeric = (8.0 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12.0 * step);
  at(0);
  CHECK_MESSAGE(std::abs(numeric - expected) <= relative * norm, name << ": derivative along a direction is " << numeric << ", analytic " << expected);
}

/// The code of the moe::error that f throws; a failure if it throws none.
template <class F>
moe::errc code_of(F&& f) {
  try {
    f();
  } catch (moe::error const& e) {
    return e.code;
  }
  FAIL("must throw");
  return moe::errc{};
}
/// The message of the moe::error that f throws; empty if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (moe::error const& e) {
    return e.what();
  }
  return {};
}
inline bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

}  // namespace test
