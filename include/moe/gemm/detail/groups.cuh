#pragma once
#include <cuda_runtime.h>

#include <moe/core/tensor.hpp>

// The three products as lists of products of one matrix by one matrix, whose sizes only the device knows, and the tiles they are cut into. Kernels ask
// for their tile by number; so a launch depends on extents alone.
namespace moe::inline MOE_ISA::detail {

/// A factor as it lies in memory: lines of contiguous elements, `stride` apart; with `index`, line l of the product is line index[l] of the memory.
/// AlongK: a line runs along the summed index, and there is one per row (of b: per column) of c. Else a line holds one k of all of them.
template <class T, bool AlongK>
struct device_lines {
  using value_type = T;
  static constexpr bool along_k = AlongK;
  T const* data;
  index_t stride;
  int const* index = nullptr;

  __device__ T const* line(index_t l) const { return data + (index != nullptr ? index_t{index[l]} : l) * stride; }
  __device__ device_lines from(index_t l) const {
    return {index != nullptr ? data : data + l * stride, stride, index != nullptr ? index + l : nullptr};
  }
};

/// c[m, n] (+)= a[m, k] b[k, n], and where a tile of it begins. No tile: row is -1.
template <class LA, class LB, class T>
struct device_tile {
  LA a;
  LB b;
  T* c;
  index_t c_stride, m, n, k, row = -1, column = 0;
};

struct tile_place {
  index_t row, column;
};
MOE_HD inline index_t tiles_over(index_t n, index_t size) { return (n + size - 1) / size; }

/// The t-th tile of rows x columns tiles: bands of 8 rows, column by column inside, so that tiles computed at the same time share lines in the cache.
__device__ inline tile_place place_of(index_t t, index_t rows, index_t columns) {
  index_t const band = t / (8 * columns), inside = t - band * 8 * columns;
  index_t const height = rows - 8 * band < 8 ? rows - 8 * band : 8;
  return {8 * band + inside % height, inside / height};
}

/// One product, with sizes known on the host.
template <class LA, class LB, class T>
struct dense_product {
  using a_lines = LA;
  using b_lines = LB;
  using output = T;
  LA a;
  LB b;
  T* c;
  index_t c_stride, m, n, k;

  index_t most_tiles(index_t height, index_t width) const { return tiles_over(m, height) * tiles_over(n, width); }

  __device__ device_tile<LA, LB, T> tile(index_t t, index_t height, index_t width) const {
    index_t const rows = tiles_over(m, height), columns = tiles_over(n, width);
    if (t >= rows * columns) return {};
    tile_place const at = place_of(t, rows, columns);
    return {a, b, c, c_stride, m, n, k, at.row * height, at.column * width};
  }
};

/// Rows [first, end) of an expert. Offsets live on the device and nobody checked them: whatever they hold, the rows are inside [0, rows).
struct expert_rows {
  index_t first, end;
};
__device__ inline expert_rows rows_of_expert(index_t const* offsets, index_t e, index_t rows) {
  index_t const first = offsets[e] > 0 ? offsets[e] : 0, end = offsets[e + 1] < rows ? offsets[e + 1] : rows;
  return {first, end > first ? end : first};
}

/// Per expert, its rows of x by its matrix w.
template <class LA, class LB, class T>
struct ragged_rows {
  using a_lines = LA;
  using b_lines = LB;
  using output = T;
  LA x;
  LB w;
  T* y;
  index_t y_stride, w_lines;  ///< w_lines: lines of w per expert
  index_t const* offsets;
  index_t experts, rows, n, k;

  /// Each expert with rows adds at most one incomplete row of tiles.
  index_t most_tiles(index_t height, index_t width) const { return (rows / height + (experts < rows ? experts : rows)) * tiles_over(n, width); }

  /// All lanes of the warp call it: each looks at one of 32 experts at a time.
  __device__ device_tile<LA, LB, T> tile(index_t t, index_t height, index_t width) const {
    int const lane = static_cast<int>(threadIdx.x) % 32;
    index_t const columns = tiles_over(n, width);
    for (index_t e0 = 0; e0 < experts; e0 += 32) {
      expert_rows const mine = e0 + lane < experts ? rows_of_expert(offsets, e0 + lane, rows) : expert_rows{0, 0};
      index_t const own = tiles_over(mine.end - mine.first, height) * columns;
      index_t sum = own;  // of lanes 0 .. lane
      for (int step = 1; step < 32; step *= 2) {
        index_t const below = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += below;
      }
      unsigned const behind = __ballot_sync(0xffffffffu, t < sum);
      if (behind != 0) {
        int const found = __ffs(static_cast<int>(behind)) - 1;
        t -= __shfl_sync(0xffffffffu, sum - own, found);
        return tile_of(e0 + found, t, height, width);
      }
      t -= __shfl_sync(0xffffffffu, sum, 31);
    }
    return {};
  }

 private:
  __device__ device_tile<LA, LB, T> tile_of(index_t e, index_t t, index_t height, index_t width) const {
    expert_rows const r = rows_of_expert(offsets, e, rows);
    index_t const m = r.end - r.first;
    tile_place const at = place_of(t, tiles_over(m, height), tiles_over(n, width));
    return {x.from(r.first), w.from(e * w_lines), y + r.first * y_stride, y_stride, m, n, k, at.row * height, at.column * width};
  }
};

/// Per expert, the sum over its rows of d_y[r]^T x[r].
template <class LA, class LB, class T>
struct ragged_depth {
  using a_lines = LA;
  using b_lines = LB;
  using output = T;
  LA d_y;
  LB x;
  T* d_w;
  index_t d_w_stride;
  index_t const* offsets;
  index_t experts, rows, m, n;

  index_t most_tiles(index_t height, index_t width) const { return experts * tiles_over(m, height) * tiles_over(n, width); }

  __device__ device_tile<LA, LB, T> tile(index_t t, index_t height, index_t width) const {
    index_t const row_tiles = tiles_over(m, height), columns = tiles_over(n, width), e = t / (row_tiles * columns);
    if (e >= experts) return {};
    expert_rows const r = rows_of_expert(offsets, e, rows);
    tile_place const at = place_of(t - e * row_tiles * columns, row_tiles, columns);
    return {d_y.from(r.first), x.from(r.first), d_w + e * m * d_w_stride, d_w_stride, m, n, r.end - r.first, at.row * height, at.column * width};
  }
};

}  // namespace moe::inline MOE_ISA::detail
