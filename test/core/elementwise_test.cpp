#include <moe/core/buffer.hpp>
#include <moe/core/elementwise.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
T plain_sum(T a, T b) {
  return T(static_cast<moe::accumulator<T>>(a) + static_cast<moe::accumulator<T>>(b));
}
}  // namespace

TEST_CASE_TEMPLATE("fill, copy and add: every element, strided and unaligned, nothing beside them", T, float, double, bf16) {
  for_each_execution([](space const& s, int i) {
    for (index_t rows : {0, 1, 3, 70})
      for (index_t columns : {0, 1, 7, 16, 33}) {
        array<T> x(rows, columns, columns + i % 3, i % 2), y(rows, columns, columns + 2, 1), z(rows, columns);
        x.normal(1);
        moe::fill(s, y.mat(), T(2.5f));
        for (T const v : y.values()) CHECK(v == T(2.5f));
        moe::copy<T>(s, x.mat(), z.mat());
        CHECK(same_bits(z.values(), x.values()));
        moe::add<T>(s, x.mat(), y.mat());
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < columns; ++c) CHECK(y(r, c) == plain_sum(T(2.5f), x(r, c)));
        moe::add<T>(s, x.mat(), x.mat());
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < columns; ++c) CHECK(x(r, c) == plain_sum(z(r, c), z(r, c)));
      }
  });
}

TEST_CASE_TEMPLATE("fill and copy of more than the caches hold: every element, strided and unaligned, nothing between the rows", T, float, double,
                   bf16) {
  if (on_cuda) return;
  constexpr index_t size = sizeof(T), stride = (4096 + 64) / size, rows = 2100;  // 8.2 MiB without the gaps
  moe::buffer const memory(2 * static_cast<std::size_t>(rows * stride * size) + 64);
  for (auto const& [shift, columns] : {std::pair(0, 4096 / size), std::pair(1, 4096 / size), std::pair(0, (4096 - 24) / size)}) {
    auto const x = moe::mat(memory.as<T>(), rows, columns).with_row_stride(stride);
    auto const y = moe::mat(memory.as<T>() + rows * stride + shift, rows, columns).with_row_stride(stride);
    index_t wrong = 0;
    std::fill_n(y.data(), rows * stride, T(1.0f));
    moe::fill(on(), y, T(-2.5f));
    for (index_t i = 0; i < rows * stride; ++i) wrong += y.data()[i] != T(i % stride < columns ? -2.5f : 1.0f);
    for (index_t i = 0; i < rows * stride; ++i) x.data()[i] = T(static_cast<float>(i % 251));
    moe::copy<T>(on(), x, y);
    for (index_t i = 0; i < rows * stride; ++i) wrong += y.data()[i] != T(i % stride < columns ? static_cast<float>(i % 251) : 1.0f);
    CHECK(wrong == 0);
  }
}

TEST_CASE("fill, copy and add: a NaN stays; errors name the argument") {
  array<float> x(2, 3), y(2, 3), wide(2, 4);
  x.fill(1), y.fill(1), x(1, 2) = quiet_nan<float>();
  moe::add<float>(on(), x.mat(), y.mat());
  CHECK(y(1, 1) == 2);
  CHECK(y(1, 2) != y(1, 2));
  CHECK(error_of([&] { moe::add<float>(on(), wide.mat(), y.mat()); }) == "add: x is [2, 4], needs [2, 3]");
  CHECK(error_of([&] { moe::copy<float>(on(), wide.mat(), y.mat()); }) == "copy: from is [2, 4], needs [2, 3]");
}

TEST_CASE("convert: float to bf16 rounds to nearest, ties to even, and back changes nothing; NaN stays") {
  for_each_execution([](space const& s, int i) {
    for (index_t rows : {0, 1, 3, 70})
      for (index_t columns : {0, 1, 7, 16, 33}) {
        array<float> x(rows, columns, columns + i % 3, i % 2), back(rows, columns, columns + 1);
        array<bf16> rounded(rows, columns, columns + 2, 1);
        x.normal(1);
        if (x.size() > 0) x(0, 0) = i % 2 == 0 ? 1.00390625f : quiet_nan<float>();  // half way between two of bf16
        moe::convert<float>(s, x.mat(), rounded.mat());
        moe::convert<bf16>(s, rounded.mat(), back.mat());
        std::vector<bf16> expected;
        for (float const v : x.values()) expected.push_back(bf16(v));
        CHECK(same_bits(rounded.values(), expected));
        for (index_t r = 0; r < rows; ++r)
          for (index_t c = 0; c < columns; ++c) CHECK(bf16(back(r, c)).bits == rounded(r, c).bits);
        if (x.size() > 0 && i % 2 == 0) CHECK(back(0, 0) == 1);
      }
  });
  array<float> x(2, 3);
  array<bf16> wide(2, 4);
  CHECK(error_of([&] { moe::convert<float>(on(), x.mat(), wide.mat()); }) == "convert: from is [2, 3], needs [2, 4]");
}

TEST_CASE("copy: n elements, and none") {
  array<int> from(5), to(5);
  for (index_t i = 0; i < 5; ++i) from(i) = static_cast<int>(i);
  moe::copy(on(), to.data(), static_cast<int const*>(from.data()), 5);
  moe::copy(on(), to.data(), static_cast<int const*>(nullptr), 0);
  on().wait();
  CHECK(to.values() == from.values());
}

TEST_CASE_TEMPLATE("fill_multiples: every element of a vector, nothing beside it", T, float, index_t) {
  for_each_execution([](space const& s, int) {
    for (index_t n : {0, 1, 17, 300}) {
      array<T> x(1, n);
      moe::fill_multiples(s, x.vec(), T(3));
      for (index_t i = 0; i < n; ++i) CHECK(x(0, i) == static_cast<T>(3 * i));
    }
  });
}

TEST_CASE("add: whole numbers beyond what a double holds") {
  for_each_execution([](space const& s, int) {
    array<index_t> x(2, 5), y(2, 5);
    for (index_t i = 0; i < 10; ++i) x(i / 5, i % 5) = (index_t{1} << 60) + i, y(i / 5, i % 5) = 3 * i;
    moe::add<index_t>(s, x.mat(), y.mat());
    for (index_t i = 0; i < 10; ++i) CHECK(y(i / 5, i % 5) == (index_t{1} << 60) + 4 * i);
  });
}
