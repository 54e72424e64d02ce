#include <moe/core/tensor.hpp>

#include "test/support.hpp"

using moe::dyn;
using moe::index_t;
using moe::tensor;
using test::error_of;

// What converts without a word, what does not convert at all.
static_assert(std::is_convertible_v<tensor<float, dyn, dyn>, tensor<float const, dyn, dyn>>);
static_assert(std::is_convertible_v<tensor<float, 3, dyn>, tensor<float const, dyn, dyn>>);
static_assert(std::is_convertible_v<tensor<float, dyn, dyn>, tensor<float, dyn, 8>>);
static_assert(std::is_convertible_v<tensor<float, 4, dyn>, tensor<float const, dyn, 8>>);
static_assert(!std::is_convertible_v<tensor<float const, dyn, dyn>, tensor<float, dyn, dyn>>);
static_assert(!std::is_convertible_v<tensor<float, dyn, 4>, tensor<float, dyn, 8>>);
static_assert(!std::is_convertible_v<tensor<float, dyn>, tensor<float, dyn, dyn>>);
static_assert(!std::is_convertible_v<tensor<float, dyn>, tensor<double, dyn>>);
static_assert(std::is_trivially_copyable_v<tensor<float, dyn, dyn>>);
static_assert(std::is_same_v<tensor<float const, dyn>::value_type, float>);

TEST_CASE("tensor: extents, rows, elements in row-major order") {
  std::vector<int> v(24);
  for (int i = 0; i < 24; ++i) v[static_cast<std::size_t>(i)] = i;
  tensor<int, dyn, 3, dyn> const t(v.data(), 2, 3, 4);
  CHECK(t.extent<0>() == 2);
  CHECK(t.extent<1>() == 3);
  CHECK(t.extent<2>() == 4);
  CHECK(t.rows() == 6);
  CHECK(t.size() == 24);
  CHECK(t.row_stride() == 4);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k) REQUIRE(t(i, j, k) == (i * 3 + j) * 4 + k);
  CHECK(t.row(5) == v.data() + 20);
  t(1, 2, 3) = -1;
  CHECK(v[23] == -1);
  CHECK(decltype(t)::rank == 3);
}

TEST_CASE("tensor: a row stride moves rows apart and nothing else") {
  std::vector<int> v(100);
  for (int i = 0; i < 100; ++i) v[static_cast<std::size_t>(i)] = i;
  auto const t = tensor<int, dyn, dyn, dyn>(v.data(), 2, 3, 4).with_row_stride(7);
  CHECK(t.row_stride() == 7);
  CHECK(t.size() == 24);
  CHECK(t(1, 2, 3) == 5 * 7 + 3);
  CHECK(t.row(4) == v.data() + 28);
  tensor<int const, dyn, dyn, 4> const read = t;
  CHECK(read.row_stride() == 7);
  CHECK(&read(1, 0, 2) == &t(1, 0, 2));
  CHECK(error_of([&] { t.with_row_stride(3); }) == "tensor: row stride 3 below row length 4");
  CHECK_NOTHROW(t.with_row_stride(4));
}

TEST_CASE("tensor: conversions to const and between run-time and fixed extents keep data and extents") {
  std::vector<float> v(12);
  auto const m = moe::mat(v.data(), 3, 4);
  tensor<float const, dyn, dyn> const read = m;
  tensor<float, 3, 4> const fixed = m;
  tensor<float const, 3, dyn> const half = fixed;
  tensor<float const, dyn, 4> const other_half = half;
  CHECK(read.data() == v.data());
  CHECK(fixed.data() == v.data());
  CHECK(half.extent<1>() == 4);
  CHECK(other_half.extent<0>() == 3);
  static_assert(tensor<float, 3, 4>::fixed[1] == 4);
  CHECK(error_of([&] { static_cast<void>(static_cast<tensor<float, 3, 5>>(m)); }) == "tensor: extent 1 is 4 where the type says 5");
  CHECK(error_of([&] { static_cast<void>(static_cast<tensor<float const, 2, dyn>>(m)); }) == "tensor: extent 0 is 3 where the type says 2");
  moe::in<float, dyn, 4> const input = m;
  CHECK(input.extent<0>() == 3);
}

TEST_CASE("tensor: what a constructor refuses") {
  float x = 0;
  CHECK(error_of([&] { moe::vec(&x, -1); }) == "tensor: extent 0 is -1, must not be negative");
  CHECK(error_of([&] { moe::mat(&x, 2, 0).with_row_stride(INT64_MAX); }) == "tensor: 2 rows 9223372036854775807 elements apart do not fit 64 bits");
  static_assert(!std::is_default_constructible_v<tensor<double, 2>>);  // two elements without memory
  CHECK(error_of([&] { tensor<float, dyn, 8>(&x, 1, 7); }) == "tensor: extent 1 is 7 where the type says 8");
  CHECK(error_of([&] { moe::mat(&x, INT64_MAX, 2); }) == "tensor: the product of its extents does not fit 64 bits");
  CHECK(error_of([&] { tensor<float, dyn, dyn, dyn>(&x, index_t{1} << 21, index_t{1} << 21, index_t{1} << 21); }) ==
        "tensor: the product of its extents does not fit 64 bits");
  CHECK(error_of([&] { moe::mat(static_cast<float*>(nullptr), 2, 3); }) == "tensor: no data for 6 elements");
  CHECK_NOTHROW(moe::mat(static_cast<float*>(nullptr), 0, 3));
  CHECK_NOTHROW(moe::mat(static_cast<float*>(nullptr), 3, 0));
}

TEST_CASE("tensor: the codes of its errors") {
  CHECK(test::code_of([] { moe::mat(static_cast<float*>(nullptr), 1, 1); }) == moe::errc::bad_argument);
  CHECK(test::code_of([] { moe::vec(static_cast<float*>(nullptr), -1); }) == moe::errc::shape_mismatch);
}

TEST_CASE("tensor: default-constructed ones are empty") {
  tensor<float, dyn, 4> const t;
  CHECK(t.data() == nullptr);
  CHECK(t.extent<0>() == 0);
  CHECK(t.extent<1>() == 4);
  CHECK(t.size() == 0);
  CHECK(t.row_stride() == 4);
  CHECK(moe::vector_view<int>().size() == 0);
}

TEST_CASE("view, vec, mat: the short ways to make one") {
  std::vector<double> v(6);
  auto const a = moe::view<dyn, 3>(v.data(), 2, 3);
  static_assert(std::is_same_v<decltype(a), tensor<double, dyn, 3> const>);
  CHECK(a.extent<0>() == 2);
  CHECK(moe::vec(v.data(), 6).size() == 6);
  CHECK(moe::mat(v.data(), 3, 2).rows() == 3);
}

TEST_CASE("rows_of, columns_of: parts of a matrix, in place") {
  std::vector<int> v(60);
  for (int i = 0; i < 60; ++i) v[static_cast<std::size_t>(i)] = i;
  auto const m = moe::mat(v.data(), 5, 8).with_row_stride(12);
  auto const r = moe::rows_of(m, 1, 4);
  CHECK(r.extent<0>() == 3);
  CHECK(r.extent<1>() == 8);
  CHECK(r.row_stride() == 12);
  CHECK(r(0, 0) == 12);
  CHECK(r(2, 7) == 43);
  auto const c = moe::columns_of(m, 2, 5);
  CHECK(c.extent<0>() == 5);
  CHECK(c.extent<1>() == 3);
  CHECK(c.row_stride() == 12);
  CHECK(c(4, 2) == 52);
  CHECK(moe::columns_of(moe::rows_of(m, 2, 3), 7, 8)(0, 0) == 31);
  CHECK(moe::rows_of(m, 5, 5).size() == 0);
  CHECK(moe::columns_of(m, 8, 8).size() == 0);
  CHECK(error_of([&] { moe::rows_of(m, 3, 6); }) == "rows_of: rows [3, 6) of 5");
  CHECK(error_of([&] { moe::rows_of(m, -1, 2); }) == "rows_of: rows [-1, 2) of 5");
  CHECK(error_of([&] { moe::rows_of(m, 3, 2); }) == "rows_of: rows [3, 2) of 5");
  CHECK(error_of([&] { moe::columns_of(m, 0, 9); }) == "columns_of: columns [0, 9) of 8");
}
