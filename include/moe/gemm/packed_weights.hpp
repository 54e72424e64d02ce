#pragma once
#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

/// How the elements of a weight [out, in] lie when products own it: panels of 32 outputs, one behind the other. Within a panel
///   float, double   the 32 outputs of in = 0, then those of in = 1, ...
///   bf16            the same in pairs: for each output its elements in = 0 and 1, then for each output in = 2 and 3, ...
/// Outputs beyond the last, and one input if their number is odd, are padding: 0 in every weight, and 0 in its gradient. The order is the same for all
/// instruction sets.
template <storage T>
struct panel_layout {
  static constexpr index_t columns = 32, pair = std::same_as<T, bf16> ? 2 : 1;
  static constexpr index_t padded_in(index_t in) { return in + in % 2; }
  /// Elements of a matrix, padding included: the same for every T.
  static constexpr index_t size(index_t out, index_t in) { return (out + columns - 1) / columns * columns * padded_in(in); }
  /// Where element [o, i] is.
  static constexpr index_t offset(index_t /*out*/, index_t in, index_t o, index_t i) {
    return (o / columns * padded_in(in) + i / pair * pair) * columns + o % columns * pair + i % pair;
  }
};

/// View of `count` weights [out, in] in panel_layout<T>, one behind the other, or of a part of their outputs or inputs. Not owning; copied freely.
template <class T>
class packed_weights {
 public:
  using value_type = T;
  using layout = panel_layout<std::remove_const_t<T>>;
  packed_weights() = default;
  /// Throws  bad_argument for a negative size, or no memory where there are elements.
  packed_weights(T* data, index_t count, index_t out, index_t in)
      : data_(data), count_(count), out_(out), in_(in), padded_in_(layout::padded_in(checked(out, in))), matrix_size_(layout::size(out, in)) {
    detail::elements(count, matrix_size_);
    expects(data != nullptr || count * out * in == 0, errc::bad_argument, "packed_weights: no data for ", count, " weights [", out, ", ", in, "]");
  }
  /// Read access from write access.
  template <class U>
  requires std::same_as<U const, T> packed_weights(packed_weights<U> const& w)
      : data_(w.data_), count_(w.count_), out_(w.out_), in_(w.in_), padded_in_(w.padded_in_), matrix_size_(w.matrix_size_) {}
  /// Outputs [begin, end) of each weight, or inputs; begin is a multiple of 32. Products of bf16 take a pair of what is summed over at a time: where a
  /// part ends within a pair, its neighbour is multiplied by 0, so it must be finite.
  packed_weights outputs(index_t begin, index_t end) const {
    check_part("outputs", begin, end, out_);
    packed_weights part = *this;
    part.data_ = data_ == nullptr ? data_ : data_ + begin * padded_in_, part.out_ = end - begin;
    return part;
  }
  packed_weights inputs(index_t begin, index_t end) const {
    check_part("inputs", begin, end, in_);
    packed_weights part = *this;
    part.data_ = data_ == nullptr ? data_ : data_ + begin * layout::columns, part.in_ = end - begin;
    return part;
  }

  T* data() const { return data_; }
  index_t count() const { return count_; }
  index_t out() const { return out_; }
  index_t in() const { return in_; }
  /// As a tensor [count, out, in] says its extents.
  template <int D>
  index_t extent() const {
    return D == 0 ? count_ : D == 1 ? out_ : in_;
  }
  index_t panel_size() const { return padded_in_ * layout::columns; }  ///< elements from one panel to the next
  index_t matrix_size() const { return matrix_size_; }                 ///< elements from one weight to the next
  T* matrix(index_t e) const { return data_ + e * matrix_size_; }
  T& operator()(index_t e, index_t o, index_t i) const { return matrix(e)[layout::offset(out_, padded_in_, o, i)]; }

 private:
  template <class>
  friend class packed_weights;
  /// Throws where the size of a weight would not fit 64 bits.
  static index_t checked(index_t out, index_t in) {
    detail::elements(detail::chunks(out, layout::columns), layout::columns, in, 2);
    return in;
  }
  static void check_part(char const* what, index_t begin, index_t end, index_t n) {
    expects(begin >= 0 && begin % layout::columns == 0 && begin <= end && end <= n, errc::bad_argument, "packed_weights: ", what, " [", begin, ", ",
            end, ") of ", n, ", the first must be a multiple of ", layout::columns);
  }
  T* data_ = nullptr;
  index_t count_ = 0, out_ = 0, in_ = 0, padded_in_ = 0, matrix_size_ = 0;
};

/// Bytes that `count` weights [out, in] take in panels.
template <storage T>
constexpr std::size_t packed_weights_bytes(index_t count, index_t out, index_t in) {
  return static_cast<std::size_t>(count * panel_layout<T>::size(out, in)) * sizeof(T);
}

namespace detail {
template <class S, class T>
void check_packing(char const* op, tensor<S, dyn, dyn, dyn> const& plain, packed_weights<T> const& packed) {
  expects(plain.template extent<0>() == packed.count() && plain.template extent<1>() == packed.out() && plain.template extent<2>() == packed.in(),
          errc::shape_mismatch, op, ": plain is [", plain.template extent<0>(), ", ", plain.template extent<1>(), ", ", plain.template extent<2>(),
          "], packed is [", packed.count(), ", ", packed.out(), ", ", packed.in(), "]");
}
}  // namespace detail

/// Copies plain row-major weights into panels, converting to T; the padding becomes 0.
///
///   plain   [count, out, in]  in   rows may be strided
///   packed  [count, out, in]  out  must not overlap; a part that ends inside a panel, or a pair, loses what else is there: it becomes 0
///
/// Throws  shape_mismatch if the extents differ.
/// Cost    one pass; call it where weights come from elsewhere, not in a loop: an optimizer works on panels as they are.
template <storage T, class S>
void pack_weights(cpu const& space, tensor<S, dyn, dyn, dyn> const& plain, packed_weights<T> packed) {
  detail::check_packing("pack_weights", plain, packed);
  index_t const in = packed.in(), out = packed.out(), panels = detail::chunks(out, panel_layout<T>::columns);
  if (in == 0) return;
  parallel_for(space, packed.count() * panels, 2.0 * 32 * static_cast<double>(in), [&](index_t item) {
    index_t const e = item / panels, first = item % panels * panel_layout<T>::columns;
    T* const to = packed.matrix(e) + item % panels * packed.panel_size();
    std::fill_n(to, panel_layout<T>::padded_in(in) * panel_layout<T>::columns, T(0.0f));  // not panel_size: packed may be a part of the inputs
    for (index_t o = first; o < std::min(out, first + panel_layout<T>::columns); ++o)
      for (index_t i = 0; i < in; ++i) to[panel_layout<T>::offset(out, in, o - first, i)] = static_cast<T>(plain(e, o, i));
  });
}
/// The way back: plain [count, out, in] from panels.
template <class T, class S>
void unpack_weights(cpu const& space, packed_weights<T> packed, tensor<S, dyn, dyn, dyn> const& plain) {
  detail::check_packing("unpack_weights", plain, packed);
  index_t const out = packed.out();
  parallel_for(space, packed.count() * out, 2.0 * static_cast<double>(packed.in()), [&](index_t item) {
    for (index_t i = 0; i < packed.in(); ++i) plain(item / out, item % out, i) = static_cast<S>(packed(item / out, item % out, i));
  });
}

}  // namespace moe::inline MOE_ISA
