#pragma once
#include <concepts>
#include <string>

#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA::detail {

/// Throws unless the matrix `name` of operator `op` is [rows, columns].
template <class V>
void check_matrix(char const* op, char const* name, V const& v, index_t rows, index_t columns) {
  expects(v.template extent<0>() == rows && v.template extent<1>() == columns, errc::shape_mismatch, op, ": ", name, " is [", v.template extent<0>(),
          ", ", v.template extent<1>(), "], needs [", rows, ", ", columns, "]");
}
/// Throws unless the vector `name` of operator `op` has n elements.
template <class V>
void check_vector(char const* op, char const* name, V const& v, index_t n) {
  expects(v.template extent<0>() == n, errc::shape_mismatch, op, ": ", name, " has ", v.template extent<0>(), " elements, needs ", n);
}

/// The product of sizes that memory is asked for. Throws where one is negative or the product does not fit 64 bits.
inline index_t elements(std::convertible_to<index_t> auto... sizes) {
  index_t count = 1;
  bool fits = true;
  ((fits = fits && sizes >= 0 && !__builtin_mul_overflow(count, static_cast<index_t>(sizes), &count)), ...);
  if (!fits) [[unlikely]] {
    std::string text;
    ((text += (text.empty() ? "" : " x ") + std::to_string(sizes)), ...);
    fail(errc::bad_argument, "arena: ", text, " elements, sizes must not be negative and their product must fit 64 bits");
  }
  return count;
}
/// How many chunks of `size` hold n elements. Throws for a negative n.
inline index_t chunks(index_t n, index_t size) { return elements(n) / size + (n % size != 0); }

}  // namespace moe::inline MOE_ISA::detail
