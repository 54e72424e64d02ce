#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/gemm/detail/pack.hpp>

namespace moe::inline MOE_ISA::detail {

/// One product c[m, n] (+)= a[m, k] b[k, n] out of several that share n.
template <class TA, class TB, class TC>
struct matrix_product {
  operand<TA> a;
  operand<TB> b;
  TC* c;
  index_t c_stride, m, k;
  index_t k_begin;  ///< sum of k over the products before this one
};

inline constexpr index_t tile_rows = 8 * block_rows;  ///< rows of c per work item at most
inline constexpr index_t tile_columns = 512;          ///< columns of c per work item
inline constexpr index_t tile_depth = 256;            ///< k per pass: a panel of b (32 KiB) stays in L1, the packed rows of a in L2

constexpr index_t divide_up(index_t n, index_t by) { return n / by + (n % by != 0); }

/// The memory of multiply_all, which is also its size: take it from a measuring arena.
template <class A, bool Staged>
struct product_scratch {
  A *b = nullptr, *a = nullptr, *c = nullptr;
  index_t* first_tile = nullptr;
  product_scratch(arena& from, int threads, index_t products, index_t total_k, index_t n) {
    b = from.take<A>(elements(total_k, chunks(n, block_columns<A>), block_columns<A>));
    a = from.take<A>(elements(threads, tile_rows, tile_depth));
    if constexpr (Staged) c = from.take<A>(elements(threads, tile_rows, tile_columns));
    first_tile = from.take<index_t>(elements(products) + 1);
  }
};

/// One work item: rows [i0, i1), columns [j0, j1) of a product. For a c that is not of the accumulator's type, sums are staged in `stage`, so that
/// they are rounded once.
template <class A, class P, class TC>
inline void multiply_tile(P const& p, A const* packed_b, A* packed_a, A* stage, index_t i0, index_t i1, index_t j0, index_t j1, bool accumulate) {
  constexpr index_t width = block_columns<A>;
  constexpr bool staged = !std::is_same_v<A, TC>;
  A* c;
  index_t c_stride;
  if constexpr (staged) {
    c = stage, c_stride = tile_columns;
    for (index_t i = i0; accumulate && i < i1; ++i)
      for (index_t j = j0; j < j1; ++j) c[(i - i0) * c_stride + j - j0] = static_cast<A>(p.c[i * p.c_stride + j]);
  } else {
    c = p.c + i0 * p.c_stride + j0, c_stride = p.c_stride;
  }
  for (index_t k0 = 0; k0 < std::max<index_t>(p.k, 1); k0 += tile_depth) {
    index_t const depth = std::min(p.k - k0, tile_depth);
    for (index_t i = i0; i < i1; i += block_rows)
      pack_rows(packed_a + (i - i0) * depth, p.a, i, std::min<index_t>(block_rows, i1 - i), k0, depth);
    for (index_t j = j0; j < j1; j += width)
      for (index_t i = i0; i < i1; i += block_rows)
        multiply_rows<A>(std::min<index_t>(block_rows, i1 - i), depth, packed_a + (i - i0) * depth, packed_b + j * p.k + k0 * width,
                         c + (i - i0) * c_stride + j - j0, c_stride, std::min(width, j1 - j), accumulate || k0 > 0);
  }
  if constexpr (staged)
    for (index_t i = i0; i < i1; ++i)
      for (index_t j = j0; j < j1; ++j) p.c[i * p.c_stride + j] = TC(c[(i - i0) * c_stride + j - j0]);
}

template <class TC>
std::size_t product_scratch_bytes(cpu const& space, index_t products, index_t total_k, index_t n) {
  arena measure;
  product_scratch<accumulator<TC>, !std::is_same_v<accumulator<TC>, TC>>(measure, thread_count(space), products, total_k, n);
  return measure.peak();
}

/// All products: product_of(g) for g < products. Panels of b are packed once, by all threads; then the tiles of all products are dealt to the threads
/// as they become free, so that one expert with everything is shared like many. No output depends on who computes it.
template <class TC, class ProductOf>
void multiply_all(cpu const& space, index_t products, index_t total_k, index_t n, bool accumulate, ProductOf const& product_of, arena& scratch) {
  using A = accumulator<TC>;
  constexpr index_t width = block_columns<A>;
  if (products == 0 || n == 0) return;
  check_scratch("gemm", scratch, product_scratch_bytes<TC>(space, products, total_k, n));
  arena::scope const scope(scratch);
  product_scratch<A, !std::is_same_v<A, TC>> const s(scratch, thread_count(space), products, total_k, n);

  index_t const panels = divide_up(n, width), column_tiles = divide_up(n, tile_columns);
  index_t depth = 0, rows = tile_rows;
  auto const deal = [&] {
    s.first_tile[0] = 0;
    for (index_t g = 0; g < products; ++g) {
      auto const p = product_of(g);
      s.first_tile[g + 1] = s.first_tile[g] + divide_up(p.m, rows) * column_tiles;
      depth = std::max(depth, p.k);
    }
    return s.first_tile[products];
  };
  for (int const threads = thread_count(space); deal() < 2 * threads && threads > 1 && rows > 2 * block_rows;) rows /= 2;  // so that all end together
  parallel_for(space, products * panels, static_cast<double>(total_k * width / products), [&](index_t item) {
    auto const p = product_of(item / panels);
    index_t const j = item % panels * width;
    if (p.m > 0) pack_columns(s.b + p.k_begin * panels * width + j * p.k, p.b, j, std::min(width, n - j), p.k);
  });
  double const work = 2.0 * static_cast<double>(rows * std::min(n, tile_columns)) * static_cast<double>(depth);
  parallel_for(space, s.first_tile[products], work, [&](index_t tile) {
    index_t const g = std::upper_bound(s.first_tile, s.first_tile + products + 1, tile) - s.first_tile - 1;
    auto const p = product_of(g);
    index_t const i = (tile - s.first_tile[g]) / column_tiles * rows, j = (tile - s.first_tile[g]) % column_tiles * tile_columns;
    A* const stage = s.c == nullptr ? nullptr : s.c + thread_index() * tile_rows * tile_columns;
    multiply_tile<A, decltype(p), TC>(p, s.b + p.k_begin * panels * width, s.a + thread_index() * tile_rows * tile_depth, stage, i,
                                      std::min(p.m, i + rows), j, std::min(n, j + tile_columns), accumulate);
  });
}

}  // namespace moe::inline MOE_ISA::detail
