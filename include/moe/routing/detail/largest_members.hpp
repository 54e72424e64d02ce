#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <moe/routing/detail/softmax_row.hpp>

// The largest of many numbers, given as integers that are not negative and compare as they do: softmax scores are such bits, and a NaN is above them all.
namespace moe::inline MOE_ISA::detail {

template <class A>
using score_key = typename lane_integers<A>::integer;

template <class Key>
using key_vector = typename lane_integers<std::conditional_t<sizeof(Key) == 4, float, double>>::vector;
template <class Key>
inline constexpr index_t key_lanes = vector_bytes / static_cast<index_t>(sizeof(Key));

/// Which of some keys are taken: those above `least`, and those equal to it whose place is not behind `last`.
template <class Key>
struct taken_keys {
  Key least, last;
};

/// The keys that are at least `least`, in order; returns their number. `to` has room for a vector more than there are.
template <class Key>
MOE_INLINE index_t collect_at_least(Key const* key, index_t n, Key least, Key* to) {
  index_t found = 0, i = 0;
#if defined(MOE_AVX512) && !defined(__CUDACC__)
  if constexpr (sizeof(Key) == 4) {
    ints const bound = least - ints{};
    for (; i + float_lanes <= n; i += float_lanes) {
      ints v;
      std::memcpy(&v, key + i, sizeof v);
      auto const chosen = static_cast<unsigned short>(__builtin_ia32_cmpd512_mask(v, bound, 5, all_floats));  // 5: not less
      ints const packed = __builtin_ia32_compresssi512_mask(v, ints{}, chosen);
      std::memcpy(to + found, &packed, sizeof packed);
      found += __builtin_popcount(chosen);
    }
  }
#endif
  for (; i < n; ++i) {
    to[found] = key[i];
    found += key[i] >= least ? 1 : 0;
  }
  return found;
}

/// Keys of a search in whole vectors, of which those behind the last are below all others.
template <class Key>
void pad_keys(Key* key, index_t n) {
  std::fill_n(key + n, key_lanes<Key>, Key(-1));
}
/// The largest of the lanes.
template <class Key, index_t Half = key_lanes<Key> / 2>
MOE_INLINE Key largest_lane(key_vector<Key> v) {
  return [&]<int... I>(std::integer_sequence<int, I...>) {
    key_vector<Key> const other = shuffled<((I + static_cast<int>(Half)) % static_cast<int>(key_lanes<Key>))...>(v, v), most = v > other ? v : other;
    if constexpr (Half > 1) return largest_lane<Key, Half / 2>(most);
    else return static_cast<Key>(most[0]);
  }
  (std::make_integer_sequence<int, static_cast<int>(key_lanes<Key>)>{});
}
/// How many of n padded keys are at least `least`.
template <class Key>
MOE_INLINE index_t count_at_least(Key const* key, index_t n, Key least) {
  using vector = key_vector<Key>;
  vector const bound = least - vector{};
  vector count[2] = {};
  auto const reached = [&](index_t i) {
    vector v;
    std::memcpy(&v, key + i, sizeof v);
    return v >= bound;
  };
  index_t i = 0;
  for (; i + key_lanes<Key> < n; i += 2 * key_lanes<Key>) count[0] -= reached(i), count[1] -= reached(i + key_lanes<Key>);
  if (i < n) count[0] -= reached(i);
  count[0] += count[1];
  index_t sum = 0;
  for (index_t l = 0; l < key_lanes<Key>; ++l) sum += count[0][l];
  return sum;
}

/// The largest of n padded keys.
template <class Key>
MOE_INLINE Key largest_key(Key const* key, index_t n) {
  using vector = key_vector<Key>;
  vector most = Key(-1) - vector{};
  for (index_t i = 0; i < n; i += key_lanes<Key>) {
    vector v;
    std::memcpy(&v, key + i, sizeof v);
    most = v > most ? v : most;
  }
  return largest_lane<Key>(most);
}

/// A number that at least `count` of n padded keys reach, and no more but for equal ones: bisection, which ends where it meets the count.
template <class Key>
struct reached_by {
  Key least;      ///< all keys reach what it is at first
  index_t found;  ///< how many reach it
  reached_by(Key const* key, index_t n, index_t count, Key all_reach) : least(all_reach), found(n) {
    Key beyond = largest_key(key, n) + 1;  // of which fewer reach it
    while (found != count && beyond - least > 1) {
      Key const middle = least + (beyond - least) / 2;
      index_t const reached = count_at_least(key, n, middle);
      if (reached >= count) least = middle, found = reached;
      else beyond = middle;
    }
  }
};

/// Keys of memory that largest_of_many needs for n of them.
inline index_t sample_keys(index_t n) { return n + 2 * float_lanes; }

/// A number that `count` of n keys are likely to reach, and not many more, as a sample of them tells.
template <class Key>
Key likely_bound(Key const* key, index_t n, index_t count, index_t step, double margin, Key* sample) {
  index_t taken = 0;
  for (index_t i = step / 2; i < n; i += step) sample[taken++] = key[i];
  double const expected = static_cast<double>(count) * static_cast<double>(taken) / static_cast<double>(n);
  auto const rank = static_cast<index_t>(expected + margin * (std::sqrt(expected) + 1)) + 1;
  if (rank >= taken) return 0;
  pad_keys(sample, taken);
  return reached_by<Key>(sample, taken, rank, 0).least;
}

/// The `count` largest of n keys: larger first, among equal ones the earlier. Of many keys a sample gives a bound that about as many reach, and only those
/// are looked at closely; the result does not depend on the sample. Memory: `sample` of sample_keys(n).
template <class Key>
taken_keys<Key> largest_of_many(Key const* key, index_t n, index_t count, Key* sample) {
  Key bound = 0;
  index_t found = 0;
  if (count * 4 < n && n > 512) {
    for (double margin = 2; found < count; margin *= 4) {
      bound = likely_bound(key, n, count, n / 256, margin, sample);
      found = collect_at_least(key, n, bound, sample);
    }
  } else {
    found = n;
    std::copy_n(key, n, sample);
  }
  pad_keys(sample, found);
  reached_by<Key> const taken(sample, found, count, bound);
  if (taken.found == count) return {taken.least, static_cast<Key>(n - 1)};
  index_t ties = count - count_at_least(sample, found, static_cast<Key>(taken.least + 1)), last = -1;
  while (ties > 0) ties -= key[++last] == taken.least ? 1 : 0;
  return {taken.least, static_cast<Key>(last)};
}

/// The same for keys that fit Vectors vectors, all of which can be read: they are looked through once for each that is taken.
template <int Vectors, class Key>
MOE_INLINE taken_keys<Key> largest_of_vectors(Key const* key, index_t n, index_t count) {
  using vector = key_vector<Key>;
  vector const iota = lane_integers<std::conditional_t<sizeof(Key) == 4, float, double>>::iota(), none = Key(-1) - vector{};
  vector v[Vectors], at[Vectors];
  std::memcpy(v, key, sizeof v);
  for (int i = 0; i < Vectors; ++i) {
    at[i] = static_cast<Key>(-i * key_lanes<Key>) - iota;  // the earlier place is the larger number
    v[i] = at[i] > static_cast<Key>(-n) - vector{} ? v[i] : none;
  }
  for (;;) {
    vector most = v[0];
    for (int i = 1; i < Vectors; ++i) most = v[i] > most ? v[i] : most;
    Key const least = largest_lane<Key>(most);
    vector const largest = least - vector{};
    vector first = std::numeric_limits<Key>::min() - vector{};
    for (int i = Vectors - 1; i >= 0; --i) first = v[i] == largest ? at[i] : first;
    Key const where = largest_lane<Key>(first);
    if (--count == 0) return {least, static_cast<Key>(-where)};
    for (int i = 0; i < Vectors; ++i) v[i] = at[i] == where - vector{} ? none : v[i];
  }
}
template <class Key>
inline constexpr index_t few_members = 4 * key_lanes<Key>;  ///< so many keys are read, whatever n
template <class Key>
taken_keys<Key> largest_of_few(Key const* key, index_t n, index_t count) {
  if (n <= key_lanes<Key>) return largest_of_vectors<1>(key, n, count);
  if (n <= 2 * key_lanes<Key>) return largest_of_vectors<2>(key, n, count);
  return largest_of_vectors<4>(key, n, count);
}

}  // namespace moe::inline MOE_ISA::detail
