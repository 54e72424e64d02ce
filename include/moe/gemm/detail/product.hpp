#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/gemm/detail/panels.hpp>

namespace moe::inline MOE_ISA::detail {

/// One product c[m, n] (+)= a[m, k] b[k, n] out of several that share n. Element (i, j) of c is c[i * c_stride + j / 32 * c_panel + j % 32].
template <class TA, class B, class TC>
struct matrix_product {
  operand<TA> a;
  B b;
  TC* c;
  index_t c_stride, m, k;
  index_t c_panel = panel_columns;
};

inline constexpr index_t tile_rows = 8 * block_rows;     ///< rows of c per work item at most: packed, they stay in L2
inline constexpr index_t gradient_rows = 2 * tile_rows;  ///< the same for the gradient of a weight: k is short, panels are packed for each tile
inline constexpr index_t smallest_tile_rows = 2 * block_rows;
inline constexpr index_t tile_columns = 512;  ///< columns of c per work item at most
inline constexpr index_t tile_steps = 512;    ///< steps along k per pass

/// What several products have in common, and how their work is cut.
struct product_extents {
  index_t products, n;
  index_t packed_lanes;      ///< of scratch for panels that several tiles share
  index_t rows = tile_rows;  ///< of a tile at most
  bool stream = false;       ///< c is large, of whole cache lines, and not read soon
  bool whole_rows = false;   ///< tiles should have all columns, for what is done with them afterwards
};

/// Columns that tiles of whole rows may have: more do not stay in the cache with their rows until something else is done with them.
inline constexpr index_t most_whole_columns = 4096;

/// What is done with whole rows of a product as soon as their sums are complete, by the thread that has them in its cache: after(product, begin, end).
struct nothing_after {
  void operator()(index_t /*product*/, index_t /*begin*/, index_t /*end*/) const {}
};

/// Lanes that the packed rows of a tile take.
constexpr index_t packed_rows(index_t rows) { return rows * tile_steps + 16 * divide_up(rows, block_rows); }

/// Whether `elements` of c are better written past the caches: a gradient larger than they are, of whole cache lines.
template <class TC>
bool worth_streaming(TC const* c, index_t c_stride, index_t elements) {
  auto const bytes = static_cast<index_t>(sizeof(TC));
  return c_stride * bytes % static_cast<index_t>(alignment) == 0 && streams(c, elements * bytes);
}

/// The memory of multiply_all, which is also its size: take it from a measuring arena.
template <class A, bool Staged>
struct product_scratch {
  A *shared, *own, *rows, *stage = nullptr;
  index_t *first_tile, *place;
  product_scratch(arena& from, int threads, product_extents const& e) {
    shared = from.take<A>(e.packed_lanes);
    own = from.take<A>(elements(threads, tile_steps, panel_columns));
    rows = from.take<A>(elements(threads, packed_rows(e.rows)));
    if constexpr (Staged) stage = from.take<A>(elements(threads, e.rows, tile_columns));
    first_tile = from.take<index_t>(elements(e.products) + 1);
    place = from.take<index_t>(elements(e.products) + 1);
  }
};
template <class A, class TC>
std::size_t product_scratch_bytes(cpu const& space, product_extents const& e) {
  arena measure;
  product_scratch<A, !std::is_same_v<A, TC>>(measure, thread_count(space), e);
  return measure.peak();
}

/// Lanes that panels of [k, n] take, k summed over the products. Steps that are deeper than one need less.
inline index_t panel_lanes(index_t total_k, index_t n) { return elements(total_k, chunks(n, panel_columns), panel_columns); }
/// The same where `rows` rows in all meet these panels: they are shared only if there are more than a tile has.
inline index_t shared_lanes(index_t rows, index_t total_k, index_t n) { return rows > smallest_tile_rows ? panel_lanes(total_k, n) : 0; }
/// The same for packed weights whose panels are not what the step's lanes are: they have to be copied. Of several, only those of experts with more than
/// two tiles of rows are expected to be worth it, and `rows` rows are enough for so many of them; what finds no room is copied for each tile.
template <class Step, class T>
index_t copied_lanes(index_t experts, index_t rows, index_t n, index_t k) {
  if (panels_are_lanes<Step, T>) return 0;
  return experts == 1 ? shared_lanes(rows, k, n) : panel_lanes(elements(std::min(experts, rows / (2 * tile_rows)), k), n);
}
/// The same for gradients, where k is rows: those of several weights have few tiles each, and packing rows as they lie costs less than the memory.
inline index_t gradient_lanes(index_t experts, index_t rows, index_t n) { return experts == 1 ? panel_lanes(rows, n) : 0; }

/// Rows of c below a block, over and over: reading and writing them is what takes long where sums are short, and shows where they are not.
template <class TC>
fetch_path block_below(TC* c, index_t c_stride, index_t chunk) {
  index_t const bytes = c_stride * static_cast<index_t>(sizeof(TC));
  return {reinterpret_cast<char const*>(c), bytes, -chunk * bytes};
}

/// One pass over k of a tile: rows of a are packed, then each panel meets all of them.
///   c  element (i, j) of the tile at c[i * c_stride + j / 32 * c_panel + j % 32]
///   shared  panels of the whole product, or null: then a panel is found ready, or packed into `own`
template <class Step, class P, class TC>
inline void multiply_pass(P const& p, tile const& t, index_t k0, index_t depth, typename Step::lane const* shared, typename Step::lane* own,
                          typename Step::lane* rows, TC* c, index_t c_stride, index_t c_panel, writing how) {
  using A = typename Step::lane;
  index_t const steps = divide_up(depth, Step::depth), all_steps = divide_up(p.k, Step::depth);
  even_parts const blocks(t.i1 - t.i0, 1, block_rows);
  auto const order = pack_rows<Step>(rows, p.a, t.i0, blocks, k0, depth);
  for (index_t j = t.j0; j < t.j1; j += panel_columns) {
    index_t const columns = std::min(panel_columns, t.j1 - j);
    A const* const ready = shared != nullptr ? shared + j * all_steps + k0 / Step::depth * panel_columns : p.b.ready(j, k0);
    A const* const b = ready != nullptr ? ready : own;
    if (ready == nullptr) p.b.pack(own, j, columns, k0, depth);
    for (index_t i = 0; i < blocks.count; ++i) {
      TC* const to = c + blocks.begin(i) * c_stride + (j - t.j0) / panel_columns * c_panel;
      index_t const count = blocks.size(i);
      fetch_path next = fetch_path::nothing(b);
      if (i == 0 && b == ready) next = {reinterpret_cast<char const*>(b) + (blocks.n > 1 ? 8192 : 2048), 2 * alignment, 0};
      else if (i == 0 && j + panel_columns < t.j1 && steps >= 4 * chunk_steps<Step>) next = p.b.path(j + panel_columns, k0);
      else if (how != writing::stream) next = block_below(to + count * c_stride, c_stride, chunk_steps<Step>);
      multiply_rows<Step>(count, steps, rows + order.place(i), order.step(i), b, to, c_stride, columns, how, next);
    }
  }
}

/// One work item. Where c is not of the type that sums have and k takes several passes, sums are staged, so that they are rounded once.
template <class Step, class P, class TC>
inline void multiply_tile(P const& p, TC* c_of_product, tile const& t, typename Step::lane const* shared, typename Step::lane* own,
                          typename Step::lane* rows, typename Step::lane* stage, writing how) {
  using A = typename Step::lane;
  constexpr index_t depth = tile_steps * Step::depth;
  TC* const c = c_of_product + t.i0 * p.c_stride + t.j0 / panel_columns * p.c_panel;
  writing const first = p.k > depth && how == writing::stream ? writing::overwrite : how;  // what is read again is not sent past the caches
  auto const pass = [&](index_t k0, auto* to, index_t stride, index_t panel) {
    multiply_pass<Step>(p, t, k0, std::min(p.k - k0, depth), shared, own, rows, to, stride, panel, k0 > 0 ? writing::add : first);
  };
  if (std::is_same_v<A, TC> || p.k <= depth) {
    for (index_t k0 = 0; k0 < std::max<index_t>(p.k, 1); k0 += depth) pass(k0, c, p.c_stride, p.c_panel);
    return;
  }
  index_t const columns = t.j1 - t.j0;
  auto const c_at = [&](index_t i, index_t j) -> TC& { return c[i * p.c_stride + j / panel_columns * p.c_panel + j % panel_columns]; };
  for (index_t i = 0; how == writing::add && i < t.i1 - t.i0; ++i)
    for (index_t j = 0; j < columns; ++j) stage[i * tile_columns + j] = static_cast<A>(c_at(i, j));
  for (index_t k0 = 0; k0 < p.k; k0 += depth) pass(k0, stage, tile_columns, panel_columns);
  for (index_t i = 0; i < t.i1 - t.i0; ++i)
    for (index_t j = 0; j < columns; ++j) c_at(i, j) = TC(stage[i * tile_columns + j]);
}

/// How the products are cut into tiles: large ones, but enough for all threads to end together.
struct tile_shape {
  index_t rows, columns = tile_columns;
  template <class ProductOf>
  tile_shape(int threads, product_extents const& e, ProductOf const& product_of) : rows(e.rows) {
    auto const tiles = [&] {
      index_t count = 0;
      for (index_t g = 0; g < e.products; ++g) count += divide_up(product_of(g).m, rows) * divide_up(e.n, columns);
      return count;
    };
    index_t const enough = threads > 1 ? 8 * threads : 1;
    if (e.whole_rows && e.n <= most_whole_columns) {
      columns = std::max(e.n, tile_columns);
      while (tiles() < enough && rows > e.rows / 2) rows /= 2;
      if (tiles() < enough) rows = e.rows, columns = tile_columns;  // there are not so many rows
    }
    while (tiles() < enough) {
      if (columns > 2 * panel_columns && columns > 4 * rows) columns /= 2;  // rows are packed for each tile, panels mostly not
      else if (rows > smallest_tile_rows) rows /= 2;
      else break;
    }
  }
};

/// Where the tiles of each product begin, and its shared panels in scratch (-1: none).
template <class Step, class ProductOf>
struct product_plan {
  product_extents const& e;
  tile_shape shape;
  ProductOf const& product_of;
  index_t *first_tile, *place;
  double flops = 0, shared_lanes = 0;

  product_plan(int threads, product_extents const& extents, ProductOf const& f, index_t* tiles, index_t* places)
      : e(extents), shape(threads, extents, f), product_of(f), first_tile(tiles), place(places) {
    first_tile[0] = 0;
    for (index_t g = 0, end = 0; g < e.products; ++g) {
      auto const p = product_of(g);
      first_tile[g + 1] = first_tile[g] + row_parts(p.m).count * column_parts().count;
      flops += 2.0 * static_cast<double>(p.m * e.n) * static_cast<double>(p.k);
      index_t const size = divide_up(p.k, Step::depth) * divide_up(e.n, panel_columns) * panel_columns;
      bool const shared = p.m > shape.rows && p.b.worth_sharing(p.k) && end + size <= e.packed_lanes;
      place[g] = shared ? end : -1;
      if (shared) end += size, shared_lanes += static_cast<double>(size);
    }
  }
  even_parts row_parts(index_t m) const { return {m, block_rows, shape.rows}; }
  even_parts column_parts() const { return {e.n, panel_columns, shape.columns}; }
  index_t tiles() const { return first_tile[e.products]; }
  index_t product_with(index_t item) const { return std::upper_bound(first_tile, first_tile + e.products + 1, item) - first_tile - 1; }
  /// Neighbours share their panels: rows first.
  tile tile_at(index_t within, index_t m) const {
    even_parts const rows = row_parts(m), columns = column_parts();
    index_t const i = within % rows.count, j = within / rows.count;
    return {rows.begin(i), rows.begin(i + 1), columns.begin(j), columns.begin(j + 1)};
  }
};

/// Panels that several row tiles need, packed once by all threads.
template <class Step, class ProductOf>
void pack_shared(cpu const& space, product_plan<Step, ProductOf> const& plan, typename Step::lane* to) {
  index_t const panels = divide_up(plan.e.n, panel_columns), items = plan.e.products * panels;
  if (plan.shared_lanes == 0) return;
  parallel_for(space, items, plan.shared_lanes / static_cast<double>(items), [&](index_t item) {
    index_t const g = item / panels, j = item % panels * panel_columns;
    if (plan.place[g] < 0) return;
    auto const p = plan.product_of(g);
    p.b.pack(to + plan.place[g] + j * divide_up(p.k, Step::depth), j, std::min(panel_columns, plan.e.n - j), 0, p.k);
  });
}

/// All products: product_of(g) for g < products. The tiles of all products are dealt to the threads as they become free, so that one expert with
/// everything is shared like many. No output depends on who computes it. Returns whether tiles had all columns, and `after` was called for them.
template <class Step, class TC, class ProductOf, class After = nothing_after>
bool multiply_all(char const* op, cpu const& space, product_extents const& e, bool accumulate, ProductOf const& product_of, arena& scratch,
                  After const& after = {}) {
  using A = typename Step::lane;
  writing const how = accumulate ? writing::add : e.stream ? writing::stream : writing::overwrite;
  if (e.products == 0 || e.n == 0) return true;
  check_scratch(op, scratch, product_scratch_bytes<A, TC>(space, e));
  arena::scope const scope(scratch);
  product_scratch<A, !std::is_same_v<A, TC>> const s(scratch, thread_count(space), e);
  product_plan<Step, ProductOf> const plan(thread_count(space), e, product_of, s.first_tile, s.place);
  bool const whole_rows = plan.column_parts().count == 1;
  pack_shared(space, plan, s.shared);
  parallel_for(space, plan.tiles(), plan.flops / static_cast<double>(std::max<index_t>(plan.tiles(), 1)), [&](index_t item) {
    index_t const g = plan.product_with(item), me = thread_index();
    auto const p = product_of(g);
    tile const t = plan.tile_at(item - s.first_tile[g], p.m);
    multiply_tile<Step>(p, p.c, t, s.place[g] < 0 ? nullptr : s.shared + s.place[g], s.own + me * tile_steps * panel_columns,
                        s.rows + me * packed_rows(e.rows), s.stage == nullptr ? nullptr : s.stage + me * e.rows * tile_columns, how);
    if (how == writing::stream) fence_streams();
    if (whole_rows) after(g, t.i0, t.i1);
  });
  return whole_rows;
}

}  // namespace moe::inline MOE_ISA::detail
