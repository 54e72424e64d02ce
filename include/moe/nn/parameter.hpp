#pragma once
#include <cmath>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <moe/core/random.hpp>
#include <moe/core/tensor.hpp>
#include <moe/optim/parameter_group.hpp>

namespace moe::inline MOE_ISA::nn {

using moe::name_of;
using moe::parameter_group;

/// constant + std * N(0, 1).
struct initializer {
  double std = 0, constant = 0;
};
/// Variance 1 / fan_in.
constexpr initializer scaled_normal(index_t fan_in, double gain = 1) {
  double x = static_cast<double>(fan_in), root = x > 1 ? x / 2 : 1;  // a constant expression: std::sqrt is none
  for (int i = 0; i < 64; ++i) root = 0.5 * (root + x / root);
  return {.std = gain / root};
}

/// How the elements of a [rows, columns] matrix lie in the model's buffer. Files are always plain, so each layout says where element (r, c) is.
struct row_major {
  static constexpr index_t size(index_t rows, index_t columns) { return rows * columns; }
  static constexpr index_t offset(index_t /*rows*/, index_t columns, index_t r, index_t c) { return r * columns + c; }
};
/// Panels of `Width` rows (outputs), element (r, c) beside (r + 1, c): the order in which gemm's registers read a weight. Rows beyond the last stay zero.
template <index_t Width>
struct panels {
  static constexpr index_t size(index_t rows, index_t columns) { return (rows + Width - 1) / Width * Width * columns; }
  static constexpr index_t offset(index_t /*rows*/, index_t columns, index_t r, index_t c) { return (r / Width * columns + c) * Width + r % Width; }
};

/// `Count` matrices [Rows, Columns] (a vector: Rows 1), one behind the other, in `Layout`.
template <index_t Count, index_t Rows, index_t Columns, class Layout = row_major>
struct parameter {
  using layout = Layout;
  static constexpr index_t count = Count, rows = Rows, columns = Columns;
  static constexpr index_t matrix_size = Layout::size(Rows, Columns), elements = Count * Rows * Columns;
  static constexpr index_t size = (Count * matrix_size + 15) / 16 * 16;  ///< in the buffer: the next parameter starts at a cache line
  std::string_view name;
  parameter_group group;
  initializer init;
};

/// One parameter of a model, for the optimizer, files and reports.
struct parameter_info {
  std::string name;  ///< "layers.0.ffn.experts.down.weight"
  parameter_group group;
  initializer init;
  index_t offset, size;          ///< elements of the model's buffer, padding included
  index_t count, rows, columns;  ///< `count` matrices
  index_t (*element)(index_t rows, index_t columns, index_t r, index_t c);
  index_t matrix_size;

  index_t elements() const { return count * rows * columns; }
  /// Copies between the buffer's layout (at the model's first element) and plain row-major order, as files have it.
  template <class T>
  void to_plain(T const* model, T* plain) const {
    each([&](index_t from, index_t to) { plain[to] = model[from]; });
  }
  template <class T>
  void from_plain(T const* plain, T* model) const {
    each([&](index_t to, index_t from) { model[to] = plain[from]; });
  }

 private:
  template <class F>
  void each(F const& f) const {
    for (index_t n = 0, i = 0; n < count; ++n)
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < columns; ++c, ++i) f(offset + n * matrix_size + element(rows, columns, r, c), i);
  }
};

/// The parameters of one layer: `static constexpr auto parameters = parameter_list(parameter<...>{...}, ...);`
template <class... P>
struct parameter_list {
  std::tuple<P...> all;
  static constexpr index_t size = (P::size + ... + 0);
  static constexpr index_t elements = (P::elements + ... + 0);
  constexpr explicit parameter_list(P... p) : all(p...) {}

  template <int I>
  static constexpr index_t offset() {
    index_t n = 0, i = 0;
    ((n += i++ < I ? P::size : 0), ...);
    return n;
  }
  template <class F>
  void for_each(std::string const& prefix, index_t first, F const& f) const {
    std::apply(
        [&](P const&... p) {
          ((f(parameter_info{prefix + std::string(p.name), p.group, p.init, first, P::size, P::count, P::rows, P::columns, &P::layout::offset, P::matrix_size}),
            first += P::size),
           ...);
        },
        all);
  }
  /// View of parameter I of the layer whose first element is at w: a vector, a matrix, or `count` matrices.
  template <int I, class T>
  static auto at(T* w) {
    using Q = std::tuple_element_t<I, std::tuple<P...>>;
    static_assert(std::is_same_v<typename Q::layout, row_major>, "moe::nn: this operator reads row-major weights");
    T* p = w == nullptr ? nullptr : w + offset<I>();
    if constexpr (Q::count > 1) return tensor<T, dyn, dyn, dyn>(p, Q::count, Q::rows, Q::columns);
    else if constexpr (Q::rows > 1) return matrix_view<T>(p, Q::rows, Q::columns);
    else return vector_view<T>(p, Q::columns);
  }
};

/// All parameters of a model or layer, in the order of the buffer.
template <class M>
std::vector<parameter_info> parameters_of() {
  std::vector<parameter_info> all;
  M::for_each_parameter("", 0, [&](parameter_info p) { all.push_back(std::move(p)); });
  return all;
}

/// Fills the model's buffer [M::parameter_count]. A value depends on the seed, the parameter's place in the list and the element's plain index alone, so it
/// does not depend on layout or type (but for rounding). Padding becomes 0.
template <class M, class T>
void initialise(T* w, std::uint64_t seed) {
  std::fill_n(w, M::parameter_count, T(0.0f));
  std::uint32_t place = 0;
  for (parameter_info const& p : parameters_of<M>()) {
    random_stream const random{seed, random_purpose::initialisation, place++};
    std::vector<T> plain(static_cast<std::size_t>(p.elements()));
    for (std::size_t i = 0; i < plain.size(); ++i) {
      double const z = p.init.std == 0 ? 0 : random.normal(i);
      plain[i] = T(madd(p.init.std, z, p.init.constant));
    }
    p.from_plain(plain.data(), w);
  }
}

}  // namespace moe::inline MOE_ISA::nn
