#pragma once
#include <algorithm>

#include <moe/core/detail/check.hpp>
#include <moe/core/detail/streaming.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>

// What layers are glued together with: fill, fill_multiples, copy, convert and add, on matrices whose rows may be strided.
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
/// Writes the rows of `to` past the caches: vector(r, i) is what stands from byte i of row r on. A fence waits for memory, so not one per row.
template <class T, index_t R, index_t C, class F>
void stream_rows(cpu const& space, tensor<T, R, C> const& to, F const& vector) {
  index_t const columns = to.template extent<1>(), bytes = columns * index_t{sizeof(T)};
  parallel_chunks(space, to.rows(), std::max<index_t>(1, 65536 / bytes), static_cast<double>(columns), [&](index_t, index_t begin, index_t end) {
    for (index_t r = begin; r < end; ++r)
      for (index_t i = 0; i < bytes; i += vector_bytes) stream(vector(r, i), reinterpret_cast<unsigned char*>(to.row(r)) + i);
    fence_streams();
  });
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
  if (detail::streams_rows(to)) return detail::stream_rows(space, to, [=](index_t, index_t) { return v; });
  parallel_for(space, to.rows(), static_cast<double>(columns), [=](index_t r) {
    T* const row = to.row(r);
    index_t c = 0;
    for (; c + per_vector <= columns; c += per_vector) std::memcpy(static_cast<void*>(row + c), &v, sizeof v);
    std::fill_n(row + c, columns - c, value);
  });
}

/// to[i] = i * step: offsets of parts of equal size, a vector.
template <class T>
void fill_multiples(cpu const& space, tensor<T, dyn> const& to, std::type_identity_t<T> step) {
  parallel_for(space, to.size(), 1.0, [&](index_t i) { to(i) = static_cast<T>(i) * step; });
}

/// to[r, c] = from[r, c]; the two must not overlap.
template <class T, index_t R, index_t C>
void copy(cpu const& space, in<T, dyn, dyn> from, tensor<T, R, C> const& to) {
  index_t const columns = to.template extent<1>();
  detail::check_matrix("copy", "from", from, to.rows(), columns);
  if (detail::streams_rows(to))
    return detail::stream_rows(space, to, [=](index_t r, index_t i) {
      detail::vector_of_bytes v;
      std::memcpy(&v, reinterpret_cast<unsigned char const*>(from.row(r)) + i, sizeof v);
      return v;
    });
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) { std::copy_n(from.row(r), columns, to.row(r)); });
}

/// to[r, c] += x[r, c], in accumulator<T>, rounded to T once, or in whole numbers; x may be the very same view.
template <class T, index_t R, index_t C>
void add(cpu const& space, in<T, dyn, dyn> x, tensor<T, R, C> const& to) {
  index_t const columns = to.template extent<1>();
  detail::check_matrix("add", "x", x, to.rows(), columns);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) {
    T const* from = x.row(r);
    T* y = to.row(r);
    if constexpr (std::is_integral_v<T>) {
      for (index_t c = 0; c < columns; ++c) y[c] += from[c];
    } else {
      using V = simd<accumulator<T>>;
      for (index_t c = 0; c < columns; c += V::width) (V::load(y + c, columns - c) + V::load(from + c, columns - c)).store(y + c, columns - c);
    }
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
