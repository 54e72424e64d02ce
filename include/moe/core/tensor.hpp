#pragma once
#include <algorithm>
#include <concepts>
#include <type_traits>

#include <moe/core/error.hpp>
#include <moe/core/types.hpp>

namespace moe::inline MOE_ISA {

inline constexpr index_t dyn = -1;  ///< an extent known only at run time

/// Non-owning row-major view, rows `row_stride()` elements apart. Checked where it is made, then copied freely, also into kernels.
template <class T, index_t... E>
class tensor {
 public:
  using value_type = std::remove_const_t<T>;
  static constexpr int rank = sizeof...(E);
  static constexpr index_t fixed[rank] = {E...};

  /// A view of nothing: only where an extent can be 0.
  tensor()
    requires((E == dyn) || ...)
      : data_(nullptr), size_{(E == dyn ? 0 : E)...}, row_stride_(size_[rank - 1]) {}

  explicit tensor(T* data, std::convertible_to<index_t> auto... n) : data_(data), size_{static_cast<index_t>(n)...} {
    static_assert(sizeof...(n) == rank, "moe::tensor: give one size per extent");
    index_t count = 1;
    for (int d = 0; d < rank; ++d) {
      expects(size_[d] >= 0, errc::shape_mismatch, "tensor: extent ", d, " is ", size_[d], ", must not be negative");
      expects((fixed[d] == dyn || fixed[d] == size_[d]), errc::shape_mismatch, "tensor: extent ", d, " is ", size_[d],
              " where the type says ", fixed[d]);
      expects(!__builtin_mul_overflow(count, size_[d], &count), errc::shape_mismatch, "tensor: the product of its extents does not fit 64 bits");
    }
    expects(data != nullptr || count == 0, errc::bad_argument, "tensor: no data for ", count, " elements");
    row_stride_ = size_[rank - 1];
  }

  /// Read access from write access, run-time extents from fixed ones.
  template <class U, index_t... F>
    requires(sizeof...(F) == sizeof...(E) && (std::same_as<U, T> || std::same_as<U const, T>) && ((E == F || E == dyn) && ...) &&
             !std::same_as<tensor<U, F...>, tensor<T, E...>>)
  tensor(tensor<U, F...> const& t) : data_(t.data_), row_stride_(t.row_stride_) {
    std::copy_n(t.size_, rank, size_);
  }
  /// Fixed extents from run-time ones: checked.
  template <class U, index_t... F>
    requires(sizeof...(F) == sizeof...(E) && (std::same_as<U, T> || std::same_as<U const, T>) && !((E == F || E == dyn) && ...) &&
             ((E == F || E == dyn || F == dyn) && ...))
  tensor(tensor<U, F...> const& t) : data_(t.data_), row_stride_(t.row_stride_) {
    std::copy_n(t.size_, rank, size_);
    for (int d = 0; d < rank; ++d)
      expects(fixed[d] == dyn || fixed[d] == size_[d], errc::shape_mismatch, "tensor: extent ", d, " is ", size_[d], " where the type says ", fixed[d]);
  }

  tensor with_row_stride(index_t elements) const {
    expects(elements >= size_[rank - 1], errc::shape_mismatch, "tensor: row stride ", elements, " below row length ", size_[rank - 1]);
    index_t span = 0;
    expects(!__builtin_mul_overflow(rows(), elements, &span), errc::shape_mismatch, "tensor: ", rows(), " rows ", elements,
            " elements apart do not fit 64 bits");
    tensor t = *this;
    t.row_stride_ = elements;
    return t;
  }

  MOE_HD T* data() const { return data_; }
  MOE_HD index_t row_stride() const { return row_stride_; }
  template <int D>
  MOE_HD constexpr index_t extent() const {
    if constexpr (fixed[D] == dyn) return size_[D];
    else return fixed[D];  // a constant: loops over it unroll
  }
  /// Number of rows: the product of all extents but the last.
  MOE_HD index_t rows() const {
    index_t n = 1;
    for (int d = 0; d + 1 < rank; ++d) n *= size_[d];
    return n;
  }
  MOE_HD index_t size() const { return rows() * size_[rank - 1]; }
  MOE_HD T* row(index_t i) const { return data_ + i * row_stride_; }
  MOE_HD T& operator()(std::convertible_to<index_t> auto... i) const {
    static_assert(sizeof...(i) == rank, "moe::tensor: give one index per extent");
    index_t row = 0, column = 0;
    int d = 0;
    ((row = d + 1 < rank ? row * size_[d] + static_cast<index_t>(i) : row, column = static_cast<index_t>(i), ++d), ...);
    return data_[row * row_stride_ + column];
  }

 private:
  template <class, index_t...>
  friend class tensor;
  T* data_;
  index_t size_[rank], row_stride_;
};

template <class T>
using vector_view = tensor<T, dyn>;
template <class T>
using matrix_view = tensor<T, dyn, dyn>;

/// An input: never deduced, so whatever converts to read access can be passed.
template <class T, index_t... E>
using in = std::type_identity_t<tensor<T const, E...>>;

/// view<dyn, 64>(p, n, 64) is tensor<T, dyn, 64>(p, n, 64).
template <index_t... E, class T>
tensor<T, E...> view(T* data, std::convertible_to<index_t> auto... n) {
  return tensor<T, E...>(data, n...);
}
/// vec(p, n): a run-time vector; mat(p, rows, columns): a run-time matrix.
template <class T>
vector_view<T> vec(T* data, index_t n) {
  return vector_view<T>(data, n);
}
template <class T>
matrix_view<T> mat(T* data, index_t rows, index_t columns) {
  return matrix_view<T>(data, rows, columns);
}

/// Rows [begin, end) of a matrix.
template <class T, index_t R, index_t C>
tensor<T, dyn, C> rows_of(tensor<T, R, C> const& m, index_t begin, index_t end) {
  expects(0 <= begin && begin <= end && end <= m.template extent<0>(), errc::shape_mismatch, "rows_of: rows [", begin, ", ", end, ") of ",
          m.template extent<0>());
  return tensor<T, dyn, C>(m.row(begin), end - begin, m.template extent<1>()).with_row_stride(m.row_stride());
}
/// Columns [begin, end) of a matrix: the rows stay where they are, so the view is strided.
template <class T, index_t R, index_t C>
tensor<T, R, dyn> columns_of(tensor<T, R, C> const& m, index_t begin, index_t end) {
  index_t const columns = m.template extent<1>(), rows = m.template extent<0>();
  expects(0 <= begin && begin <= end && end <= columns, errc::shape_mismatch, "columns_of: columns [", begin, ", ", end, ") of ", columns);
  return tensor<T, R, dyn>(m.data() + begin, rows, end - begin).with_row_stride(m.row_stride());
}

}  // namespace moe::inline MOE_ISA
