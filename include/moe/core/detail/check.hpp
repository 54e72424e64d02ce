#pragma once
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

}  // namespace moe::inline MOE_ISA::detail
