#pragma once
#include <algorithm>

#include <moe/core/detail/check.hpp>
#include <moe/core/detail/streaming.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>

// What layers are glued together with: fill, copy, convert and add, on matrices whose rows may be strided.
//
// Shapes  every matrix is [rows, columns].
// Edges   0 rows or columns write nothing.
// Throws  shape_mismatch if the shapes differ.
// Order   an element by itself.
// Cost    each operand is read or written once: bound by memory. fill and copy write 8 MiB and more past the caches.

namespace moe::inline MOE_ISA {

namespace detail {
typedef unsigned char vector_of_bytes __attribute__((vector_size(vector_bytes)));

/// Whether the rows of a matrix are better written past the caches.
template <class T, index_t R, index_t C>
bool streams_rows(tensor<T, R, C> const& to) {
  index_t const row = to.template extent<1>() * index_t{sizeof(T)};
  return row % 64 == 0 && to.row_stride() * index_t{sizeof(T)} % 64 == 0 && streams(to.data(), to.rows() * row);
}
/// `bytes` bytes to `to`: vector(i) are those from i on.
template <class F>
void write_row(void* to, index_t bytes, bool past_caches, F const& vector) {
  auto* const p = static_cast<unsigned char*>(to);
  index_t i = 0;
  if (past_caches) {
    for (; i < bytes; i += vector_bytes) stream(vector(i), p + i);
    fence_streams();
  }
  for (; i + vector_bytes <= bytes; i += vector_bytes) {
    vector_of_bytes const v = vector(i);
    std::memcpy(p + i, &v, sizeof v);
  }
}
}  // namespace detail

/// to[r, c] = value
template <class T, index_t R, index_t C>
void fill(cpu const& space, tensor<T, R, C> const& to, std::type_identity_t<T> value) {
  index_t const columns = to.template extent<1>();
  constexpr index_t per_vector = vector_bytes / static_cast<index_t>(sizeof(T));
  T pattern[static_cast<std::size_t>(per_vector)];
  std::fill_n(pattern, per_vector, value);
  detail::vector_of_bytes v;
  std::memcpy(&v, pattern, sizeof v);
  bool const past_caches = detail::streams_rows(to);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) {
    detail::write_row(to.row(r), columns * index_t{sizeof(T)}, past_caches, [&](index_t) { return v; });
    index_t const left = columns % per_vector;
    std::fill_n(to.row(r) + columns - left, left, value);
  });
}

/// to[r, c] = from[r, c]; the two must not overlap.
template <class T, index_t R, index_t C>
void copy(cpu const& space, in<T, dyn, dyn> from, tensor<T, R, C> const& to) {
  index_t const columns = to.template extent<1>();
  detail::check_matrix("copy", "from", from, to.rows(), columns);
  bool const past_caches = detail::streams_rows(to);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) {
    if (!past_caches) std::copy_n(from.row(r), columns, to.row(r));
    else
      detail::write_row(to.row(r), columns * index_t{sizeof(T)}, true, [p = reinterpret_cast<unsigned char const*>(from.row(r))](index_t i) {
        detail::vector_of_bytes v;
        std::memcpy(&v, p + i, sizeof v);
        return v;
      });
  });
}

/// to[r, c] += x[r, c], in accumulator<T>, rounded to T once; x may be the very same view.
template <class T, index_t R, index_t C>
void add(cpu const& space, in<T, dyn, dyn> x, tensor<T, R, C> const& to) {
  using V = simd<accumulator<T>>;
  index_t const columns = to.template extent<1>();
  detail::check_matrix("add", "x", x, to.rows(), columns);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) {
    T const* from = x.row(r);
    T* y = to.row(r);
    for (index_t c = 0; c < columns; c += V::width) (V::load(y + c, columns - c) + V::load(from + c, columns - c)).store(y + c, columns - c);
  });
}

/// to[r, c] = from[r, c], rounded to To: what keeps a copy in bf16 of numbers that are summed in float. Both directions are meant.
template <class From, class To, index_t R, index_t C>
void convert(cpu const& space, in<From, dyn, dyn> from, tensor<To, R, C> const& to) {
  using V = simd<accumulator<From>>;
  static_assert(std::is_same_v<accumulator<From>, accumulator<To>>, "moe::convert: from and to differ in more than how they are stored");
  index_t const columns = to.template extent<1>();
  detail::check_matrix("convert", "from", from, to.rows(), columns);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) {
    for (index_t c = 0; c < columns; c += V::width) V::load(from.row(r) + c, columns - c).store(to.row(r) + c, columns - c);
  });
}

/// n elements from one place to another, both in memory that the space reaches: what generic code says to fetch a result. The copy is done when
/// space.wait() returns.
template <class T>
void copy(cpu const&, T* to, T const* from, index_t n) {
  std::copy_n(from, n, to);
}

}  // namespace moe::inline MOE_ISA
