#pragma once
#include <moe/core/algorithms.hpp>
#include <moe/core/detail/cub.cuh>
#include <moe/core/elements.cuh>

// Opt-in: this header brings CUB. It is not part of moe/moe.cuh, and no other header of the library includes it.
namespace moe::inline MOE_ISA {

namespace detail {

/// The key of each element, and its place.
template <class T, class P>
struct make_sort_pair {
  tensor<T const, dyn, dyn> keys;
  sort_direction direction;
  sort_bits<T>* key;
  P* place;
  __device__ void operator()(index_t r, index_t c) const {
    index_t const i = r * keys.template extent<1>() + c;
    key[i] = sort_key(keys(r, c), direction);
    place[i] = static_cast<P>(i);
  }
};
/// The row of each place, as the next key.
template <class K, class P>
struct row_of_place {
  P const* place;
  index_t columns;
  K* key;
  __device__ void operator()(index_t, index_t i) const { key[i] = static_cast<K>(place[i] / columns); }
};
/// Places by row become columns.
template <class P>
struct column_of_place {
  P const* place;
  tensor<P, dyn, dyn> position;
  __device__ void operator()(index_t r, index_t c) const {
    index_t const first = r * position.template extent<1>();
    position(r, c) = static_cast<P>(place[first + c] - first);
  }
};
template <class T, class V>
struct gather_pair {
  tensor<index_t const, dyn, dyn> position;
  tensor<T const, dyn> keys;
  tensor<V const, dyn> values;
  tensor<T, dyn> sorted_keys;
  tensor<V, dyn> sorted_values;
  __device__ void operator()(index_t, index_t i) const {
    index_t const from = position(0, i);
    sorted_keys(i) = keys(from);
    sorted_values(i) = values(from);
  }
};

inline int bits_of(index_t n) { return n <= 0 ? 1 : 64 - __builtin_clzll(static_cast<unsigned long long>(n)); }

/// Temporary memory of a call of CUB, as an arena gives it, which `ask(nullptr, bytes)` asks for. 0 elements need none.
template <class F>
std::size_t cub_bytes(char const* name, index_t n, F const& ask) {
  std::size_t bytes = 0;
  if (n > 0) cuda_check(ask(static_cast<void*>(nullptr), bytes), name);
  return aligned(bytes);
}

/// Memory of argsort. On a measuring arena it says how much that is.
template <class T, class P>
struct argsort_memory {
  using K = sort_bits<T>;
  vector_view<K> key, other_key;
  vector_view<P> place, other_place;
  vector_view<std::byte> temporary;
  argsort_memory(arena& a, index_t rows, index_t columns)
      : key(a.vec<K>(rows * columns)), other_key(a.vec<K>(rows * columns)), place(a.vec<P>(rows * columns)), other_place(a.vec<P>(rows * columns)) {
    auto const by_bits = [&](int bits) {
      return cub_bytes("argsort", rows * columns, [&](void* none, std::size_t& bytes) {
        return cub_call::sort_pairs<K, P>(none, bytes, nullptr, nullptr, nullptr, nullptr, rows * columns, bits, nullptr);
      });
    };
    std::size_t const by_key = by_bits(static_cast<int>(8 * sizeof(K))), by_row = by_bits(bits_of(rows - 1));
    temporary = a.vec<std::byte>(static_cast<index_t>(by_key > by_row ? by_key : by_row));
  }
  void sort(cuda const& space, vector_view<K const> k, vector_view<K> to_k, vector_view<P const> p, vector_view<P> to_p, int bits) const {
    auto bytes = static_cast<std::size_t>(temporary.size());
    cuda_check(
        cub_call::sort_pairs(static_cast<void*>(temporary.data()), bytes, k.data(), to_k.data(), p.data(), to_p.data(), k.size(), bits, space.stream),
        "argsort");
  }
};

}  // namespace detail

/// Bytes of scratch of argsort(cuda). Asks CUB, and so needs a device.
template <sortable T, class P = int>
std::size_t argsort_scratch_bytes(cuda const& /*space*/, index_t rows, index_t columns) {
  arena measure;
  detail::argsort_memory<T, P>(measure, rows, columns);
  return measure.peak();
}

/// The contract of argsort(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class Keys, class P, index_t R, index_t C>
requires(Keys::rank == 2 && sortable<typename Keys::value_type>) void argsort(cuda const& space, Keys const& keys, tensor<P, R, C> position,
                                                                              sort_direction direction, arena& scratch) {
  using T = typename Keys::value_type;
  using K = detail::sort_bits<T>;
  detail::check_argsort(keys, position);
  index_t const rows = keys.template extent<0>(), columns = keys.template extent<1>();
  arena::scope const scope(scratch);
  detail::argsort_memory<T, P> const m(scratch, rows, columns);
  if (rows * columns == 0) return;
  for_each_element("argsort", space, rows, columns, detail::make_sort_pair<T, P>{keys, direction, m.key.data(), m.place.data()});
  m.sort(space, m.key, m.other_key, m.place, m.other_place, static_cast<int>(8 * sizeof(K)));
  P const* sorted = m.other_place.data();
  if (rows > 1) {  // a stable sort by row keeps the order that the keys gave
    for_each_element("argsort", space, 1, rows * columns, detail::row_of_place<K, P>{sorted, columns, m.key.data()});
    m.sort(space, m.key, m.other_key, m.other_place, m.place, detail::bits_of(rows - 1));
    sorted = m.place.data();
  }
  for_each_element("argsort", space, rows, columns, detail::column_of_place<P>{sorted, position});
}

/// Bytes of scratch of sort_pairs(cuda).
template <sortable T, class V = int>
std::size_t sort_pairs_scratch_bytes(cuda const& space, index_t n) {
  arena measure;
  measure.vec<index_t>(n);
  return measure.peak() + argsort_scratch_bytes<T, index_t>(space, 1, n);
}

/// The contract of sort_pairs(cpu), with all views in device memory; asynchronous on `space.stream`.
template <sortable T, class V>
void sort_pairs(cuda const& space, in<T, dyn> keys, in<V, dyn> values, tensor<T, dyn> sorted_keys, tensor<V, dyn> sorted_values,
                sort_direction direction, arena& scratch) {
  detail::check_sort_pairs<T, V>(keys, values, sorted_keys, sorted_values);
  arena::scope const scope(scratch);
  index_t const n = keys.size();
  auto const position = scratch.mat<index_t>(1, n);
  argsort(space, tensor<T const, dyn, dyn>(keys.data(), 1, n), position, direction, scratch);
  for_each_element("sort_pairs", space, 1, n, detail::gather_pair<T, V>{position, keys, values, sorted_keys, sorted_values});
}

/// Bytes of scratch of select_flagged(cuda). Asks CUB, and so needs a device.
template <std::integral F, class P = int>
std::size_t select_flagged_scratch_bytes(cuda const& /*space*/, index_t n) {
  return detail::cub_bytes("select_flagged", n, [&](void* none, std::size_t& bytes) {
    return detail::cub_call::select_flagged<F, P>(none, bytes, nullptr, nullptr, nullptr, n, nullptr);
  });
}

/// The contract of select_flagged(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class Flags, class P>
requires(Flags::rank == 1 && std::integral<typename Flags::value_type>) void select_flagged(cuda const& space, Flags const& flag,
                                                                                            tensor<P, dyn> position, tensor<index_t, 1> count,
                                                                                            arena& scratch) {
  using F = typename Flags::value_type;
  index_t const n = flag.size();
  detail::check_select_flagged(n, position);
  arena::scope const scope(scratch);
  std::size_t bytes = select_flagged_scratch_bytes<F, P>(space, n);
  void* const temporary = scratch.take<std::byte>(static_cast<index_t>(bytes));
  if (n == 0) {
    cuda_check(cudaMemsetAsync(count.data(), 0, sizeof(index_t), space.stream), "select_flagged");
    return;
  }
  F const* const flags = flag.data();
  cuda_check(detail::cub_call::select_flagged(temporary, bytes, flags, position.data(), count.data(), n, space.stream), "select_flagged");
}

/// Bytes of scratch of exclusive_sum(cuda). Asks CUB, and so needs a device.
template <std::integral T>
std::size_t exclusive_sum_scratch_bytes(cuda const& /*space*/, index_t n) {
  return detail::cub_bytes("exclusive_sum", n, [&](void* none, std::size_t& bytes) {
    return detail::cub_call::inclusive_sum<T>(none, bytes, nullptr, nullptr, n, nullptr);
  });
}

/// The contract of exclusive_sum(cpu), with all views in device memory; asynchronous on `space.stream`.
template <class X>
requires(X::rank == 1 && std::integral<typename X::value_type>) void exclusive_sum(cuda const& space, X const& x, tensor<index_t, dyn> sum,
                                                                                   arena& scratch) {
  using T = typename X::value_type;
  index_t const n = x.size();
  detail::check_vector("exclusive_sum", "sum", sum, n + 1);
  arena::scope const scope(scratch);
  std::size_t bytes = exclusive_sum_scratch_bytes<T>(space, n);
  void* const temporary = scratch.take<std::byte>(static_cast<index_t>(bytes));
  cuda_check(cudaMemsetAsync(sum.data(), 0, sizeof(index_t), space.stream), "exclusive_sum");
  T const* const summands = x.data();
  if (n > 0) cuda_check(detail::cub_call::inclusive_sum(temporary, bytes, summands, sum.data() + 1, n, space.stream), "exclusive_sum");
}

}  // namespace moe::inline MOE_ISA
