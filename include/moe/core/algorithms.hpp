#pragma once
#include <algorithm>
#include <concepts>
#include <limits>

#include <moe/core/buffer.hpp>
#include <moe/core/detail/check.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/tensor.hpp>

// Sort, select and sum over whole vectors: what routers and samplers are built of that look at all tokens or the whole vocabulary at once. The CUDA
// overloads (core/algorithms.cuh) stand on CUB, whose headers cost nvcc several seconds; so moe/moe.cuh leaves them out.
namespace moe::inline MOE_ISA {

enum class sort_direction { ascending, descending };

/// What can be sorted: bf16, float, double and the integers of 4 and 8 bytes.
template <class T>
concept sortable = std::same_as<T, bf16> || std::same_as<T, float> || std::same_as<T, double> ||
    (std::integral<T> && (sizeof(T) == 4 || sizeof(T) == 8));

namespace detail {

template <class T>
using sort_bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

/// An unsigned number that ascends in the order of the contract of argsort, or the other way round. -0 is +0, all NaN are one.
template <sortable T>
MOE_HD sort_bits<T> sort_key(T x, sort_direction direction) {
  using U = sort_bits<T>;
  constexpr U all = ~U{0}, sign = U{1} << (8 * sizeof(U) - 1);
  U key;
  if constexpr (std::same_as<T, bf16>) {
    return sort_key(static_cast<float>(x), direction);
  } else {
    if constexpr (std::unsigned_integral<T>) key = x;
    else if constexpr (std::integral<T>) key = static_cast<U>(x) ^ sign;
    else if (x != x) key = all;
    else if (x == 0) key = sign;
    else if (U const bits = __builtin_bit_cast(U, x); (bits & sign) != 0) key = ~bits;
    else key = bits | sign;
    return direction == sort_direction::descending ? static_cast<U>(~key) : key;
  }
}

template <class Keys, class P, index_t R, index_t C>
void check_argsort(Keys const& keys, tensor<P, R, C> const& position) {
  static_assert(std::same_as<P, int> || std::same_as<P, index_t>, "moe::argsort: positions are int or index_t");
  index_t const rows = keys.template extent<0>(), columns = keys.template extent<1>();
  check_matrix("argsort", "position", position, rows, columns);
  expects(columns == 0 || rows <= std::numeric_limits<P>::max() / columns, errc::shape_mismatch, "argsort: ", rows, " x ", columns,
          " keys, needs at most ", std::numeric_limits<P>::max(), " for positions of ", sizeof(P), " bytes");
}

template <class T, class V>
void check_sort_pairs(tensor<T const, dyn> keys, tensor<V const, dyn> values, tensor<T, dyn> sorted_keys, tensor<V, dyn> sorted_values) {
  index_t const n = keys.size();
  check_vector("sort_pairs", "values", values, n);
  check_vector("sort_pairs", "sorted_keys", sorted_keys, n);
  check_vector("sort_pairs", "sorted_values", sorted_values, n);
}

template <class P>
void check_select_flagged(index_t n, tensor<P, dyn> const& position) {
  static_assert(std::same_as<P, int> || std::same_as<P, index_t>, "moe::select_flagged: positions are int or index_t");
  check_vector("select_flagged", "position", position, n);
  expects(n <= std::numeric_limits<P>::max(), errc::shape_mismatch, "select_flagged: ", n, " flags, needs at most ", std::numeric_limits<P>::max(),
          " for positions of ", sizeof(P), " bytes");
}

}  // namespace detail

/// Bytes of scratch of argsort. T: type of the keys, P: of the positions.
template <sortable T, class P = int>
std::size_t argsort_scratch_bytes(cpu const& /*space*/, index_t /*rows*/, index_t /*columns*/) {
  return 0;
}

/// The order of each row: keys[r, position[r, 0]], keys[r, position[r, 1]], ... ascends or descends.
///
///   keys      [rows, columns]  in   bf16, float, double, or integers of 4 or 8 bytes
///   position  [rows, columns]  out  int or index_t: columns, each once per row
///
/// Edges   stable: equal keys stay in the order of their columns, in both directions. -0 equals +0. NaN of any sign and payload are equal to each
///         other and above +infinity: last when ascending, first when descending, as in topk. Nothing to sort writes nothing.
/// Throws  shape_mismatch if the shapes differ, or rows * columns does not fit the type of the positions; out_of_memory if scratch holds less than
///         argsort_scratch_bytes.
/// Order   comparisons only: the same in every space, for any number of threads.
/// Cost    CPU: columns log2(columns) comparisons per row, rows in parallel. CUDA: one radix sort of rows * columns keys by their bytes, and a second
///         one by row if there are several.
template <class Keys, class P, index_t R, index_t C>
requires(Keys::rank == 2 && sortable<typename Keys::value_type>) void argsort(cpu const& space, Keys const& keys, tensor<P, R, C> position,
                                                                              sort_direction direction, arena& /*scratch*/) {
  detail::check_argsort(keys, position);
  index_t const columns = keys.template extent<1>();
  parallel_for(space, keys.template extent<0>(), 20.0 * static_cast<double>(columns), [&](index_t r) {
    P* const p = position.row(r);
    for (index_t c = 0; c < columns; ++c) p[c] = static_cast<P>(c);
    std::sort(p, p + columns, [row = keys.row(r), direction](P a, P b) {  // not stable_sort, which allocates: the position settles a tie
      auto const x = detail::sort_key(row[a], direction), y = detail::sort_key(row[b], direction);
      return x != y ? x < y : a < b;
    });
  });
}

/// Bytes of scratch of sort_pairs. T: type of the keys, V: of the values.
template <sortable T, class V = int>
std::size_t sort_pairs_scratch_bytes(cpu const& space, index_t n) {
  arena measure;
  measure.vec<index_t>(n);
  return measure.peak() + argsort_scratch_bytes<T, index_t>(space, 1, n);
}

/// Sorts keys, and with each key its value; the order is that of argsort, and bits of keys are kept.
///
///   keys, sorted_keys      [n]  in, out  as argsort
///   values, sorted_values  [n]  in, out  any type; outputs must not overlap inputs
///
/// Throws  shape_mismatch if the lengths differ; out_of_memory if scratch holds less than sort_pairs_scratch_bytes.
/// Cost    that of argsort, then reads and writes keys and values once.
template <sortable T, class V>
void sort_pairs(cpu const& space, in<T, dyn> keys, in<V, dyn> values, tensor<T, dyn> sorted_keys, tensor<V, dyn> sorted_values,
                sort_direction direction, arena& scratch) {
  detail::check_sort_pairs<T, V>(keys, values, sorted_keys, sorted_values);
  arena::scope const scope(scratch);
  index_t const n = keys.size();
  auto const position = scratch.mat<index_t>(1, n);
  argsort(space, tensor<T const, dyn, dyn>(keys.data(), 1, n), position, direction, scratch);
  for (index_t i = 0; i < n; ++i) {
    sorted_keys(i) = keys(position(0, i));
    sorted_values(i) = values(position(0, i));
  }
}

/// Bytes of scratch of select_flagged. F: type of the flags, P: of the positions.
template <std::integral F, class P = int>
std::size_t select_flagged_scratch_bytes(cpu const& /*space*/, index_t /*n*/) {
  return 0;
}

/// Positions of the flags that are not 0, ascending: position[j] is the j-th of them, count[0] their number.
///
///   flag      [n]  in   any integer type
///   position  [n]  out  int or index_t; elements behind the count stay as they are
///   count     [1]  out
///
/// Edges   n == 0: the count is 0.
/// Throws  shape_mismatch if the lengths differ or n does not fit the type of the positions; out_of_memory if scratch holds less than
///         select_flagged_scratch_bytes.
/// Cost    one pass over memory; on the CPU by one thread.
template <class Flags, class P>
requires(Flags::rank == 1 && std::integral<typename Flags::value_type>) void select_flagged(cpu const& /*space*/, Flags const& flag,
                                                                                            tensor<P, dyn> position, tensor<index_t, 1> count,
                                                                                            arena& /*scratch*/) {
  index_t const n = flag.size();
  detail::check_select_flagged(n, position);
  index_t found = 0;
  for (index_t i = 0; i < n; ++i)
    if (flag(i) != 0) position(found++) = static_cast<P>(i);
  count(0) = found;
}

/// Bytes of scratch of exclusive_sum. T: type of the summands.
template <std::integral T>
std::size_t exclusive_sum_scratch_bytes(cpu const& /*space*/, index_t /*n*/) {
  return 0;
}

/// Sums of all elements before each place, and the sum of all behind them: sum[i] = x[0] + ... + x[i - 1], so that counts become offsets.
///
///   x    [n]      in   integers of up to 8 bytes
///   sum  [n + 1]  out  must not overlap x
///
/// Edges   n == 0: sum[0] = 0. Summed in 64 bits.
/// Throws  shape_mismatch unless sum has n + 1 elements; out_of_memory if scratch holds less than exclusive_sum_scratch_bytes.
/// Cost    one pass over memory; on the CPU by one thread.
template <class X>
requires(X::rank == 1 && std::integral<typename X::value_type>) void exclusive_sum(cpu const& /*space*/, X const& x, tensor<index_t, dyn> sum,
                                                                                   arena& /*scratch*/) {
  index_t const n = x.size();
  detail::check_vector("exclusive_sum", "sum", sum, n + 1);
  sum(0) = 0;
  for (index_t i = 0; i < n; ++i) sum(i + 1) = sum(i) + static_cast<index_t>(x(i));
}

}  // namespace moe::inline MOE_ISA
