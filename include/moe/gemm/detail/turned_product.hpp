#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/gemm/detail/panels.hpp>

namespace moe::inline MOE_ISA::detail {

/// Rows times a packed weight the other way round:  y[r, i] (+)= sum_o x[r, o] w[o, i],  one of several that share both extents of w. Panels of w hold its
/// outputs side by side, which are k here: so an element of w is what is broadcast, rows of x are what fills a vector, and nothing of w is turned.
template <class TA, class T, class TC>
struct turned_product {
  operand<TA> x;  ///< [rows, k], not transposed
  T const* w;
  index_t panel_size;
  TC* y;
  index_t y_stride, rows;
};
struct turned_extents {
  index_t products, n, k;  ///< n inputs of w, k outputs
};

inline constexpr index_t turned_rows = 4 * panel_columns;  ///< rows of x per work item at most
inline constexpr index_t turned_columns = 512;             ///< columns of y per work item at most
inline constexpr index_t turned_steps = 512;               ///< steps along k per pass

/// c[i, r] = (from_c ? c[i, r] : 0) + sum over steps of w[i, .] x[., r] for i < Rows, r < Vectors vectors: each element one chain in ascending k.
///   w  chunks of chunk_steps steps, `chunk` lanes apart, each [Rows, chunk_steps]
///   x  [steps, panel_columns]
template <class Step, int Rows, int Vectors>
MOE_NOINLINE void multiply_turned_block(index_t steps, typename Step::lane const* w, index_t chunk, typename Step::lane const* x,
                                        typename Step::lane* c, index_t c_stride, bool from_c, fetch_path next) {
  using V = simd<typename Step::lane>;
  constexpr index_t in_chunk = chunk_steps<Step>;
  V sum[Rows][Vectors];  // in registers only if every index is a constant, as in multiply_full_block
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i) MOE_UNROLL(4)
  for (int j = 0; j < Vectors; ++j) sum[i][j] = V::zero();
  if (from_c) {
    auto const* row = c;
    MOE_UNROLL(16)
    for (int i = 0; i < Rows; ++i) {
      MOE_UNROLL(4)
      for (int j = 0; j < Vectors; ++j) sum[i][j] = V::load(row + j * V::width);
      row = next_row(row, c_stride);
    }
  }
  for (index_t k = 0; k < steps; next.at += next.jump) {
    auto const* element = w;
    for (index_t const end = std::min(steps, k + in_chunk); k < end; ++k) {
      V row[Vectors];
      MOE_UNROLL(4)
      for (int j = 0; j < Vectors; ++j) row[j] = V::load(x + j * V::width);
      __builtin_prefetch(next.at, 0, 2);
      MOE_UNROLL(16)
      for (int i = 0; i < Rows; ++i) {
        V const e = V::all(element[i * in_chunk]);
        MOE_UNROLL(4)
        for (int j = 0; j < Vectors; ++j) sum[i][j] = Step::add(row[j], e, sum[i][j]);
      }
      ++element;
      x += panel_columns;
      next.at += next.step;
    }
    w += chunk;
  }
  MOE_UNROLL(16)
  for (int i = 0; i < Rows; ++i) {
    MOE_UNROLL(4)
    for (int j = 0; j < Vectors; ++j) sum[i][j].store(c + j * V::width);
    c = next_row(c, c_stride);
  }
}
/// For a number of rows known at run time, 1 <= rows <= block_rows: an odd one is taken as the even one above, so w and c have room for it.
template <class Step, int Vectors, int Rows = block_rows>
inline void multiply_turned_rows(index_t rows, index_t steps, typename Step::lane const* w, index_t chunk, typename Step::lane const* x,
                                 typename Step::lane* c, index_t c_stride, bool from_c, fetch_path next) {
  if constexpr (Rows >= 2) {
    if (rows <= Rows - 2) return multiply_turned_rows<Step, Vectors, Rows - 2>(rows, steps, w, chunk, x, c, c_stride, from_c, next);
    multiply_turned_block<Step, Rows, Vectors>(steps, w, chunk, x, c, c_stride, from_c, next);
  }
}

/// How a block of w is broadcast from: `rows` inputs from i on, `steps` along k from k0 on.
template <class Step, class T>
struct turned_weight {
  using A = typename Step::lane;
  static constexpr index_t in_chunk = chunk_steps<Step>;
  static constexpr bool in_place = std::is_same_v<A, T>;  ///< broadcast from where it lies, if it is not used often
  T const* data;
  index_t panel_size;

  struct block {
    A const* data;
    index_t chunk;
  };
  /// Inputs [i, i + inputs), k0 a multiple of panel_columns: where they lie if they are not used often (and are even in number), or copied to `to`, which
  /// has room for an even number; what stands in the place of one more input is anything.
  block take(A* to, index_t i, index_t inputs, index_t k0, index_t steps, bool seldom) const {
    index_t const room = inputs + inputs % 2;
    if constexpr (in_place)
      if (seldom && room == inputs) return {at(i, k0), panel_size};
    for (index_t k = 0; k < steps; k += in_chunk) {
      T const* const from = at(i, k0 + k * Step::depth);
      A* const chunk = to + k * room;
      if constexpr (in_place) {
        for (index_t j = 0; j < inputs * in_chunk; j += simd<A>::width) simd<A>::load(from + j).store(chunk + j);
      } else {
        for (index_t j = 0; j < inputs; j += 2) copy_pair(chunk + j * in_chunk, from + j * panel_columns);
      }
    }
    return {to, room * in_chunk};
  }
  /// Where the next block will be read from.
  fetch_path path(index_t i, index_t inputs, index_t k0) const {
    index_t const step = inputs * panel_columns * static_cast<index_t>(sizeof(T)) / in_chunk;
    return {reinterpret_cast<char const*>(at(i, k0)), step, panel_size * static_cast<index_t>(sizeof(T)) - step * in_chunk};
  }

 private:
  T const* at(index_t i, index_t k0) const { return data + k0 / panel_columns * panel_size + i * panel_columns; }
  /// from: for each output its elements of two inputs.
  static void copy_pair(A* to, bf16 const* from) {
    if constexpr (Step::depth == 2) {
      typedef std::uint16_t all_halves __attribute__((vector_size(vector_bytes)));
      using V = simd<float>;
      constexpr int width = V::width;
      float const* const pairs_of = reinterpret_cast<float const*>(from);
      for (index_t o = 0; o < in_chunk; o += width) {
        all_halves const a = __builtin_bit_cast(all_halves, V::load(pairs_of + 2 * o).v),
                         b = __builtin_bit_cast(all_halves, V::load(pairs_of + 2 * o + width).v);
        V{every_other<0>(a, b)}.store(to + o);
        V{every_other<1>(a, b)}.store(to + in_chunk + o);
      }
    } else {
      for (index_t o = 0; o < in_chunk; ++o) to[o] = static_cast<A>(from[2 * o]), to[in_chunk + o] = static_cast<A>(from[2 * o + 1]);
    }
  }
  template <int First, class H>
  static MOE_INLINE typename simd<float>::native every_other(H a, H b) {
    return [&]<int... I>(std::integer_sequence<int, I...>) {
      return __builtin_bit_cast(typename simd<float>::native, shuffled<(2 * I + First)...>(a, b));
    }
    (std::make_integer_sequence<int, 2 * simd<float>::width>());
  }
};

/// Squares of c, turned: y[r, i] = c[i, r] for i < inputs, r < rows; c has room for whole vectors. Or the way back.
template <class A, class TC>
void turn_out(A const* c, index_t c_stride, index_t inputs, index_t rows, TC* y, index_t y_stride) {
  using V = simd<A>;
  for (index_t r = 0; r < rows; r += V::width)
    for (index_t i = 0; i < inputs; i += V::width) {
      V square[V::width];
      MOE_UNROLL(16)
      for (int l = 0; l < V::width; ++l) square[l] = i + l < inputs ? V::load(c + (i + l) * c_stride + r) : V::zero();
      transpose(square);
      MOE_UNROLL(16)
      for (int l = 0; l < V::width; ++l)
        if (r + l < rows) square[l].store(y + (r + l) * y_stride + i, inputs - i);
    }
}
template <class A, class TC>
void turn_in(A* c, index_t c_stride, index_t inputs, index_t rows, TC const* y, index_t y_stride) {
  for (index_t r = 0; r < rows; ++r)
    for (index_t i = 0; i < inputs; ++i) c[i * c_stride + r] = static_cast<A>(y[r * y_stride + i]);
}

/// The memory of multiply_turned, which is also its size.
template <class A>
struct turned_scratch {
  A *panels, *block, *stage;
  index_t* first_tile;
  turned_scratch(arena& from, int threads, turned_extents const& e) {
    panels = from.take<A>(elements(threads, panel_size));
    block = from.take<A>(elements(threads, block_size));
    stage = from.take<A>(elements(threads, stage_size));
    first_tile = from.take<index_t>(elements(e.products) + 1);
  }
  /// The part of one thread.
  turned_scratch of(index_t thread) const {
    turned_scratch part = *this;
    part.panels += thread * panel_size, part.block += thread * block_size, part.stage += thread * stage_size;
    return part;
  }

 private:
  static constexpr index_t panel_size = turned_steps * turned_rows, block_size = block_rows * turned_steps,
                           stage_size = (turned_columns + 1) * turned_rows;  // a block of an odd number of inputs writes one row more
};
template <class A>
std::size_t turned_scratch_bytes(cpu const& space, turned_extents const& e) {
  arena measure;
  turned_scratch<A>(measure, thread_count(space), e);
  return measure.peak();
}

/// How the products are cut: large tiles, but enough for all threads to end together.
struct turned_shape {
  index_t rows = turned_rows, columns = turned_columns;
  template <class ProductOf>
  turned_shape(int threads, turned_extents const& e, ProductOf const& product_of) {
    auto const tiles = [&] {
      index_t count = 0;
      for (index_t g = 0; g < e.products; ++g) count += divide_up(product_of(g).rows, rows) * divide_up(e.n, columns);
      return count;
    };
    for (index_t const enough = 4 * threads; threads > 1 && tiles() < enough;) {
      if (rows > 2 * panel_columns) rows /= 2;
      else if (columns > 4 * panel_columns) columns /= 2;
      else break;
    }
  }
};

/// One pass along k of a block of inputs: c[i, r] for i < inputs and the rows of one panel of x that exist.
template <class Step>
inline void multiply_turned_panel(index_t inputs, index_t rows, index_t steps, typename Step::lane const* w, index_t chunk,
                                  typename Step::lane const* x, typename Step::lane* c, index_t c_stride, bool from_c, fetch_path next) {
  constexpr index_t width = simd<typename Step::lane>::width;
  for (index_t r = 0; r < rows; r += 2 * width) {
    if (rows - r > width) multiply_turned_rows<Step, 2>(inputs, steps, w, chunk, x + r, c + r, c_stride, from_c, next);
    else multiply_turned_rows<Step, 1>(inputs, steps, w, chunk, x + r, c + r, c_stride, from_c, next);
  }
}

/// One work item: rows [i0, i1), columns [j0, j1) of y. For each pass along k rows of x are packed, then blocks of inputs meet all of them. Sums stay in
/// `stage` [columns, rows], which is turned into y at the end.
template <class Step, class TA, class T, class TC>
void multiply_turned_tile(turned_product<TA, T, TC> const& p, tile const& t, index_t k, bool accumulate,
                          turned_scratch<typename Step::lane> const& s) {
  using A = typename Step::lane;
  index_t const rows = t.i1 - t.i0, padded = divide_up(rows, panel_columns) * panel_columns;
  even_parts const blocks(t.j1 - t.j0, 2, block_rows);
  turned_weight<Step, T> const w{p.w, p.panel_size};
  TC* const y = p.y + t.i0 * p.y_stride + t.j0;
  if (accumulate) turn_in(s.stage, padded, blocks.n, rows, y, p.y_stride);
  for (index_t k0 = 0; k0 < std::max<index_t>(k, 1); k0 += turned_steps * Step::depth) {
    index_t const depth = std::min(k - k0, turned_steps * Step::depth), steps = divide_up(depth, Step::depth);
    for (index_t r = 0; r < rows; r += panel_columns)
      packer<Step>::template along<TA>(s.panels + r * steps, panel_columns, std::min(panel_columns, rows - r), depth,
                                       [&](index_t line) { return p.x.line(t.i0 + r + line) + k0; });
    for (index_t b = 0; b < blocks.count; ++b) {
      index_t const first = blocks.begin(b), inputs = blocks.size(b);
      auto const from = w.take(s.block, t.j0 + first, inputs, k0, steps, rows <= panel_columns);
      for (index_t r = 0; r < rows; r += panel_columns) {
        bool const fetch = r == 0 && b + 1 < blocks.count;
        multiply_turned_panel<Step>(inputs, std::min(panel_columns, rows - r), steps, from.data, from.chunk, s.panels + r * steps,
                                    s.stage + first * padded + r, padded, accumulate || k0 > 0,
                                    fetch ? w.path(t.j0 + first + inputs, blocks.size(b + 1), k0) : fetch_path::nothing(s.block));
      }
    }
  }
  turn_out<A>(s.stage, padded, blocks.n, rows, y, p.y_stride);
}

/// All products: product_of(g) for g < products. Their tiles are dealt to the threads as they become free.
template <class Step, class ProductOf>
void multiply_turned(char const* op, cpu const& space, turned_extents const& e, bool accumulate, ProductOf const& product_of, arena& scratch) {
  using A = typename Step::lane;
  if (e.products == 0 || e.n == 0) return;
  check_scratch(op, scratch, turned_scratch_bytes<A>(space, e));
  arena::scope const scope(scratch);
  turned_scratch<A> const s(scratch, thread_count(space), e);
  turned_shape const shape(thread_count(space), e, product_of);
  auto const row_parts = [&](index_t g) { return even_parts(product_of(g).rows, panel_columns, shape.rows); };
  even_parts const columns(e.n, panel_columns, shape.columns);
  double flops = 0;
  s.first_tile[0] = 0;
  for (index_t g = 0; g < e.products; ++g) {
    s.first_tile[g + 1] = s.first_tile[g] + row_parts(g).count * columns.count;
    flops += 2.0 * static_cast<double>(product_of(g).rows * e.n) * static_cast<double>(e.k);
  }
  index_t const tiles = s.first_tile[e.products];
  parallel_for(space, tiles, flops / static_cast<double>(std::max<index_t>(tiles, 1)), [&](index_t item) {
    index_t const g = std::upper_bound(s.first_tile, s.first_tile + e.products + 1, item) - s.first_tile - 1;
    even_parts const rows = row_parts(g);
    index_t const within = item - s.first_tile[g], i = within % rows.count, j = within / rows.count;
    tile const t{rows.begin(i), rows.begin(i + 1), columns.begin(j), columns.begin(j + 1)};
    multiply_turned_tile<Step>(product_of(g), t, e.k, accumulate, s.of(thread_index()));
  });
}

}  // namespace moe::inline MOE_ISA::detail
