#pragma once
#include <moe/mix/detail/group_product.hpp>

namespace moe::inline MOE_ISA::detail {

/// The sums of as many vectors as one has lanes: lane l is sum(v[l]), by the same tree.
template <int Half, class A>
MOE_INLINE simd<A> lane_sums(simd<A>* v) {
  if constexpr (Half == 0) {
    return v[0];
  } else {
    MOE_UNROLL(16)
    for (int i = 0; i < Half; ++i) {
      exchange<Half>(v[i].v, v[i + Half].v, std::make_integer_sequence<int, simd<A>::width>{});
      v[i] = v[i] + v[i + Half];
    }
    return lane_sums<Half / 2>(v);
  }
}

#if defined(MOE_AVX512)
inline constexpr int dot_rows = 4;
#else
inline constexpr int dot_rows = 2;
#endif
inline constexpr int dot_columns = 4;       ///< dot_rows x dot_columns sums stay in registers
inline constexpr index_t dot_experts = 32;  ///< rows of the right factor that are packed together
inline constexpr index_t dot_members = 32;  ///< rows of the left one that share them, per work item at least
template <class A>
inline constexpr index_t dot_depth = 2048 / static_cast<index_t>(sizeof(A));  ///< elements of a row per pass, part of the order of summation
template <class A>
inline constexpr index_t dot_stride = dot_depth<A> + 64 / static_cast<index_t>(sizeof(A));  ///< packed rows do not share a set of L1

/// Rows that the next group needs, one after the other: memory that arrives while this group is multiplied.
template <class T>
struct next_group_rows {
  spaced_rows<T const> x, y;
  index_t members, rows, share, next = 0;  ///< share: rows per block of sums
  T const* row(index_t i) const { return i < members ? x.row(i) : y.row(i - members); }
};

/// out[r * dot_experts + e] = <a[r], b[e]>: a chain per lane, then the tree of sum().
template <class A, class T>
MOE_NOINLINE void dot_block(index_t depth, A const* a, A const* b, A* out, T const* const (&soon)[4], int fetched) {
  using V = simd<A>;
  V sum[dot_rows * dot_columns];
  MOE_UNROLL(16)
  for (int i = 0; i < dot_rows * dot_columns; ++i) sum[i] = V::zero();
  for (index_t c = 0; c < depth; c += V::width) {
    for (int i = 0; i < fetched; ++i) __builtin_prefetch(soon[i] + c, 0, 2);
    V x[dot_columns];
    MOE_UNROLL(4)
    for (int e = 0; e < dot_columns; ++e) x[e] = in_register(V::load(b + e * dot_stride<A> + c));
    MOE_UNROLL(4)
    for (int r = 0; r < dot_rows; ++r) {
      V const y = in_register(V::load(a + r * dot_stride<A> + c));
      MOE_UNROLL(4)
      for (int e = 0; e < dot_columns; ++e) sum[r * dot_columns + e] = madd(y, x[e], sum[r * dot_columns + e]);
    }
  }
  alignas(alignment) A sums[dot_rows * dot_columns];
  MOE_UNROLL(4)
  for (int i = 0; i < dot_rows * dot_columns; i += V::width) lane_sums<V::width / 2>(sum + i).store(sums + i);
  MOE_UNROLL(4)
  for (int r = 0; r < dot_rows; ++r) std::memcpy(out + r * dot_experts, sums + r * dot_columns, dot_columns * sizeof(A));
}

/// Rows [first, first + rows) of x, columns [c, c + depth), as rows of dot_stride elements, zeros up to a whole vector and a multiple of `unit` rows.
template <class A, class T>
void pack_dot_rows(A* to, spaced_rows<T const> const& x, index_t first, index_t rows, index_t unit, index_t c, index_t depth) {
  using V = simd<A>;
  for (index_t r = 0; r < rows; ++r)
    for (index_t i = 0; i < depth; i += V::width) V::load(x.row(first + r) + c + i, depth - i).store(to + r * dot_stride<A> + i);
  for (index_t r = rows; r < divide_up(rows, unit) * unit; ++r)
    for (index_t i = 0; i < depth; i += V::width) V::zero().store(to + r * dot_stride<A> + i);
}

/// out[i, e] (+)= <x[i], y[e]> in one group. A pass of dot_depth columns after the other, each added to what is there.
template <class T>
struct group_dots {
  using A = accumulator<T>;
  spaced_rows<T const> x, y;
  spaced_rows<A> out;
  index_t experts, columns;
  bool accumulate;

  /// Members [i0, i1).
  void run(index_t i0, index_t i1, next_group_rows<T> soon) const {
    alignas(alignment) A right[dot_experts * dot_stride<A>], left[dot_rows * dot_stride<A>];
    for (index_t e0 = 0; e0 < experts; e0 += dot_experts)
      for (index_t c = 0; c == 0 || c < columns; c += dot_depth<A>) {
        index_t const depth = std::min(dot_depth<A>, columns - c), n = std::min(dot_experts, experts - e0);
        pack_dot_rows(right, y, e0, n, dot_columns, c, depth);
        for (index_t i = i0; i < i1; i += dot_rows) {
          pack_dot_rows(left, x, i, std::min<index_t>(dot_rows, i1 - i), dot_rows, c, depth);
          sum_rows(left, right, i, std::min<index_t>(dot_rows, i1 - i), e0, n, c, depth, soon);
        }
      }
  }

 private:
  /// dot_rows members by n experts.
  void sum_rows(A const* left, A const* right, index_t i, index_t rows, index_t e0, index_t n, index_t c, index_t depth,
                next_group_rows<T>& soon) const {
    using V = simd<A>;
    alignas(alignment) A block[dot_rows * dot_experts];
    for (index_t e = 0; e < n; e += dot_columns) {
      T const* fetch[4];
      int fetched = 0;
      for (; fetched < std::min<index_t>(4, soon.share) && soon.next < soon.rows; ++fetched) fetch[fetched] = soon.row(soon.next++) + c;
      dot_block(depth, left, right + e * dot_stride<A>, block + e, fetch, fetched);
    }
    for (index_t r = 0; r < rows; ++r)
      for (index_t e = 0; e < n; e += V::width) {
        A* const to = out.row(i + r) + e0 + e;
        V const sum = V::load(block + r * dot_experts + e, n - e);
        (accumulate || c > 0 ? V::load(to, n - e) + sum : sum).store(to, n - e);
      }
  }
};

}  // namespace moe::inline MOE_ISA::detail
