#pragma once
#include <moe/attention/rope.hpp>
#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>

namespace moe::inline MOE_ISA {

namespace detail {

/// base^(-2 i / d_head) as exp(-2 i / d_head ln base), with exponent and logarithm in two doubles each: pow would do, but nvcc contracts it as it
/// likes.
template <class A>
struct rope_angle {
  tensor<A, dyn, dyn> rows;
  double log_base, log_base_rest;
  int d_head;
  __device__ void operator()(index_t p, index_t i) const {
    double const n = d_head, twice = -2.0 * static_cast<double>(i), r = twice / n, r_rest = madd(-r, n, twice) / n;
    double const x = product(r, log_base), x_rest = madd(r, log_base, -x) + madd(r, log_base_rest, product(r_rest, log_base));
    double const e = exp_scalar(x), angle = product(static_cast<double>(p), madd(e, x_rest, e));
    rows(p, i) = static_cast<A>(std::cos(angle));
    rows(p, d_head / 2 + i) = static_cast<A>(std::sin(angle));
  }
};

/// N neighbouring elements, moved as vectors of 16 bytes; one element as itself.
template <int N, class T>
struct rope_pack {
  static constexpr int per_vector = ptx::vector16<T>::size, vectors = N / per_vector;
  static_assert(N % per_vector == 0);
  ptx::vector16<T> v[vectors];
  __device__ explicit rope_pack(T const* from) {
    for (int i = 0; i < vectors; ++i) v[i] = reinterpret_cast<ptx::vector16<T> const*>(from)[i];
  }
  __device__ void store(T* to) const {
    for (int i = 0; i < vectors; ++i) reinterpret_cast<ptx::vector16<T>*>(to)[i] = v[i];
  }
  __device__ T& operator[](int i) { return v[i / per_vector].v[i % per_vector]; }
};
template <class T>
struct rope_pack<1, T> {
  T v;
  __device__ explicit rope_pack(T const* from) : v(*from) {}
  __device__ void store(T* to) const { *to = v; }
  __device__ T& operator[](int) { return v; }
};

/// Turns N neighbouring pairs of a head; column c of the launch is the c-th such group of the row.
template <int Half, bool Back, int N, class T, class Position>
struct rotate_pairs {
  using A = accumulator<T>;
  tensor<T, dyn, dyn> x;
  tensor<A const, dyn, dyn> table;
  Position position;
  __device__ void operator()(index_t t, index_t c) const {
    index_t const p = position(t), group = c % (Half / N) * N;
    T* const low = x.row(t) + c / (Half / N) * (2 * Half) + group;
    bool const known = 0 <= p && p < table.template extent<0>();
    A const* const angles = table.row(known ? p : 0) + group;
    rope_pack<N, T> a(low), b(low + Half);
    rope_pack<N, A> cosine(angles), sine(angles + Half);
    for (int i = 0; i < N; ++i) {
      A const u = static_cast<A>(a[i]), v = static_cast<A>(b[i]), k = known ? cosine[i] : static_cast<A>(__builtin_nanf("")),
              s = Back ? -sine[i] : sine[i];
      a[i] = T(madd(u, k, v * -s));
      b[i] = T(madd(v, k, u * s));
    }
    a.store(low);
    b.store(low + Half);
  }
};

template <class View>
bool rows_of_vectors(View const& v) {
  return reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.row_stride() * static_cast<index_t>(sizeof(typename View::value_type)) % 16 == 0;
}

template <rope_config C, bool Back, class T, class Position>
void rotate_rows(char const* op, cuda const& space, tensor<T, dyn, dyn> x, rope_table<accumulator<T>> const& table, Position const& position) {
  index_t const tokens = x.template extent<0>(), columns = x.template extent<1>();
  check_rope<C>(op, table, columns);
  check_positions(op, position, tokens, table.positions());
  constexpr int half = C.d_head / 2, size = ptx::vector16<T>::size;
  expects(tokens == 0 || table.positions() > 0, errc::bad_argument, op, ": the table has no positions");
  if constexpr (half % size == 0)
    if (rows_of_vectors(x) && rows_of_vectors(table.rows))
      return for_each_element(op, space, tokens, columns / 2 / size, rotate_pairs<half, Back, size, T, Position>{x, table.rows, position});
  for_each_element(op, space, tokens, columns / 2, rotate_pairs<half, Back, 1, T, Position>{x, table.rows, position});
}
}  // namespace detail

/// The contract of fill_rope_table(cpu), with the table in device memory; asynchronous on `space.stream`. Computed in double on the device, where
/// exp, cos and sin may differ from the CPU's in the last bit of a double.
template <rope_config C, class A>
void fill_rope_table(cuda const& space, rope_table<A> const& table) {
  detail::check_rope_table<C>("fill_rope_table", table);
  long double const log_base = std::log(static_cast<long double>(C.base));
  auto const log_high = static_cast<double>(log_base), log_low = static_cast<double>(log_base - log_high);
  for_each_element("fill_rope_table", space, table.positions(), C.d_head / 2, detail::rope_angle<A>{table.rows, log_high, log_low, C.d_head});
}

/// The contract of rope(cpu), with all views in device memory; asynchronous on `space.stream`. The same bits as the CPU from the same table.
///
/// Edges   the array of positions is on the device and not checked: a row whose position is not in the table becomes NaN.
template <rope_config C, class T>
void rope(cuda const& space, tensor<T, dyn, dyn> x, std::type_identity_t<rope_table<accumulator<T>>> const& table, in<index_t, dyn> position) {
  detail::rotate_rows<C, false, T>("rope", space, x, table, position);
}
template <rope_config C, class T>
void rope(cuda const& space, tensor<T, dyn, dyn> x, std::type_identity_t<rope_table<accumulator<T>>> const& table, consecutive const& position) {
  detail::rotate_rows<C, false, T>("rope", space, x, table, position);
}

/// The contract of rope_backward(cpu), as rope(cuda).
template <rope_config C, class T>
void rope_backward(cuda const& space, tensor<T, dyn, dyn> d_x, std::type_identity_t<rope_table<accumulator<T>>> const& table,
                   in<index_t, dyn> position) {
  detail::rotate_rows<C, true, T>("rope_backward", space, d_x, table, position);
}
template <rope_config C, class T>
void rope_backward(cuda const& space, tensor<T, dyn, dyn> d_x, std::type_identity_t<rope_table<accumulator<T>>> const& table,
                   consecutive const& position) {
  detail::rotate_rows<C, true, T>("rope_backward", space, d_x, table, position);
}

}  // namespace moe::inline MOE_ISA
