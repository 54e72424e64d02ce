#pragma once
#include <algorithm>

#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/tensor.hpp>

// What layers are glued together with: fill, copy, convert and add, on matrices whose rows may be strided.
//
// Shapes  every matrix is [rows, columns].
// Edges   0 rows or columns write nothing.
// Throws  shape_mismatch if the shapes differ.
// Order   an element by itself.
// Cost    each operand is read or written once: bound by memory.

namespace moe::inline MOE_ISA {

/// to[r, c] = value
template <class T, index_t R, index_t C>
void fill(cpu const& space, tensor<T, R, C> const& to, std::type_identity_t<T> value) {
  index_t const columns = to.template extent<1>();
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) { std::fill_n(to.row(r), columns, value); });
}

/// to[r, c] = from[r, c]; the two must not overlap.
template <class T, index_t R, index_t C>
void copy(cpu const& space, in<T, dyn, dyn> from, tensor<T, R, C> const& to) {
  index_t const columns = to.template extent<1>();
  detail::check_matrix("copy", "from", from, to.rows(), columns);
  parallel_for(space, to.rows(), static_cast<double>(columns), [&](index_t r) { std::copy_n(from.row(r), columns, to.row(r)); });
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
