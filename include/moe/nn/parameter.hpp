#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <moe/core/random.hpp>
#include <moe/core/space.hpp>
#include <moe/core/tensor.hpp>
#include <moe/gemm/packed_weights.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/parameter_group.hpp>

namespace moe::inline MOE_ISA::nn {

using moe::name_of;
using moe::parameter_group;

/// How the elements of a parameter begin.
enum class initial_kind {
  normal,      ///< constant + std * N(0, 1)
  uniform,     ///< in [low, high)
  log_column,  ///< ln(c + 1) in column c
  time_step,   ///< softplus^-1(max(dt, floor)) with ln dt uniform in [ln low, ln high): a bias under which softplus gives such a dt
};
struct initializer {
  double std = 0, constant = 0;
  initial_kind kind = initial_kind::normal;
  double low = 0, high = 0, floor = 0;

  /// The element with plain index i in column c.
  double value(random_stream const& random, std::uint64_t i, index_t c) const {
    switch (kind) {
      case initial_kind::uniform: return madd(high - low, random.uniform(i), low);
      case initial_kind::log_column: return std::log(static_cast<double>(c + 1));
      case initial_kind::time_step: {
        double const dt = std::max(std::exp(madd(std::log(high / low), random.uniform(i), std::log(low))), floor);
        return dt + std::log(-std::expm1(-dt));
      }
      default: return madd(std, std == 0 ? 0 : random.normal(i), constant);
    }
  }
};

namespace detail {
/// sqrt(n): a constant expression, which std::sqrt is not.
constexpr double root_of(index_t n) {
  double x = static_cast<double>(n), root = x > 1 ? x / 2 : 1;
  for (int i = 0; i < 64; ++i) root = 0.5 * (root + x / root);
  return root;
}
}  // namespace detail
/// Variance 1 / fan_in.
constexpr initializer scaled_normal(index_t fan_in, double gain = 1) { return {.std = gain / detail::root_of(fan_in)}; }
/// In +- gain / sqrt(fan_in).
constexpr initializer scaled_uniform(index_t fan_in, double gain = 1) {
  double const bound = gain / detail::root_of(fan_in);
  return {.kind = initial_kind::uniform, .low = -bound, .high = bound};
}

/// How the elements of a parameter lie in the model's buffer. Files are always plain, row-major.
enum class layout {
  row_major,
  product,  ///< a weight [out, in] of products: in panels (gemm/packed_weights.hpp) in spaces whose products read them, row-major in others
};
/// Spaces whose products read weights in panels.
template <class Space>
inline constexpr bool keeps_panels = std::same_as<Space, cpu>;

/// `Count` matrices [Rows, Columns] (a vector: Rows 1), one behind the other.
template <index_t Count, index_t Rows, index_t Columns, layout Layout = layout::row_major>
struct parameter {
  static constexpr index_t count = Count, rows = Rows, columns = Columns, elements = Count * Rows * Columns;
  static constexpr auto order = Layout;
  /// In the buffer, the same in every space: the next parameter starts at a cache line.
  static constexpr index_t size = (Count * (Layout == layout::product ? panel_layout<float>::size(Rows, Columns) : Rows * Columns) + 15) / 16 * 16;
  std::string_view name;
  parameter_group group;
  initializer init;
};
/// A weight [Rows, Columns] that multiplies rows of Columns elements, or Count of them.
template <index_t Count, index_t Rows, index_t Columns>
using product_weight = parameter<Count, Rows, Columns, layout::product>;

/// One parameter of a model, for the optimizer, files and reports.
struct parameter_info {
  std::string name;  ///< "layers.0.ffn.experts.down.weight"
  parameter_group group;
  initializer init;
  index_t offset, size;          ///< elements of the model's buffer, padding included
  index_t count, rows, columns;  ///< `count` matrices
  bool in_panels;                ///< of panel_layout<T>, in a buffer of type T; else row-major
  bf16_layout rounded_layout = in_panels ? bf16_layout::row_pairs : bf16_layout::plain;  ///< of the bf16 copy that round_weights and adamw make

  index_t elements() const { return count * rows * columns; }
  /// Where element (r, c) of matrix n is, in a buffer of type T.
  template <class T>
  index_t place(index_t n, index_t r, index_t c) const {
    if (!in_panels) return offset + (n * rows + r) * columns + c;
    return offset + n * panel_layout<T>::size(rows, columns) + panel_layout<T>::offset(rows, columns, r, c);
  }
  /// Copies between the buffer's order (at the model's first element) and plain row-major order, as files have it. The padding of panels becomes 0.
  template <class T>
  void to_plain(T const* model, T* plain) const {
    each<T>([&](index_t from, index_t to) { plain[to] = model[from]; });
  }
  template <class T>
  void from_plain(T const* plain, T* model) const {
    if (in_panels) std::fill_n(model + offset, size, T(0.0f));
    each<T>([&](index_t to, index_t from) { model[to] = plain[from]; });
  }

 private:
  template <class T, class F>
  void each(F const& f) const {
    for (index_t n = 0, i = 0; n < count; ++n)
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < columns; ++c, ++i) f(place<T>(n, r, c), i);
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
          ((f(parameter_info{prefix + std::string(p.name), p.group, p.init, first, P::size, P::count, P::rows, P::columns,
                             P::order == layout::product}),
            first += P::size),
           ...);
        },
        all);
  }
  /// View of parameter I of the layer whose first element is at w, as the operators of the space read it: a vector, a matrix, `count` matrices, or
  /// packed weights.
  template <int I, class S, class T>
  static auto at(S const&, T* w) {
    using Q = std::tuple_element_t<I, std::tuple<P...>>;
    T* p = w == nullptr ? nullptr : w + offset<I>();
    if constexpr (Q::order == layout::product && keeps_panels<S>) return packed_weights<T>(p, Q::count, Q::rows, Q::columns);
    else if constexpr (Q::count > 1) return tensor<T, dyn, dyn, dyn>(p, Q::count, Q::rows, Q::columns);
    else if constexpr (Q::rows > 1) return matrix_view<T>(p, Q::rows, Q::columns);
    else return vector_view<T>(p, Q::columns);
  }
};

/// All parameters of a model or layer, in the order of the buffer, as they lie in memory of the space: say which one, if it is not the CPU, or weights
/// come out in another order than its products read.
template <class M, class Space = cpu>
std::vector<parameter_info> parameters_of() {
  std::vector<parameter_info> all;
  M::for_each_parameter("", 0, [&](parameter_info p) {
    if constexpr (!keeps_panels<Space>) p.in_panels = false, p.rounded_layout = bf16_layout::plain;
    all.push_back(std::move(p));
  });
  return all;
}

/// Fills the model's buffer [M::parameter_count]. A value depends on the seed, the parameter's place in the list and the element's plain index alone, so it
/// does not depend on layout, space or type (but for rounding). Padding becomes 0. w is memory of the host, in the order that `Space` reads.
template <class M, class Space = cpu, class T>
void initialise(T* w, std::uint64_t seed) {
  std::fill_n(w, M::parameter_count, T(0.0f));
  std::uint32_t place = 0;
  for (parameter_info const& p : parameters_of<M, Space>()) {
    random_stream const random{seed, random_purpose::initialisation, place++};
    std::vector<T> plain(static_cast<std::size_t>(p.elements()));
    for (std::size_t i = 0; i < plain.size(); ++i) {
      plain[i] = T(p.init.value(random, i, static_cast<index_t>(i) % p.columns));
    }
    p.from_plain(plain.data(), w);
  }
}

}  // namespace moe::inline MOE_ISA::nn
