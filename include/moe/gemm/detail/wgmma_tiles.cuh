#pragma once
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>
#include <moe/gemm/detail/groups.cuh>

namespace moe::inline MOE_ISA {

/// A block computes 128 by `columns` outputs, columns 64, 128 or 256. Results do not depend on it.
struct wgmma_tuning {
  int columns = 256;
  int stages = 4;  ///< parts of 64 along the summed index in shared memory
};

namespace detail {

inline constexpr int wgmma_rows = 128, wgmma_depth = 64;
inline constexpr int wgmma_threads = 384;  ///< a warpgroup that loads, and two that multiply 64 rows each
inline constexpr int wgmma_consumers = 8;  ///< warps of the two

/// Stages as TMA writes them and wgmma reads them, and 16 rows by 64 outputs of each multiplying warp on their way to memory.
template <int N, int Stages>
struct wgmma_layout {
  alignas(1024) bf16 x[Stages][wgmma_rows * wgmma_depth];
  alignas(1024) bf16 w[Stages][N * wgmma_depth];
  ptx::shared_matrix<ptx::vector16<bf16>, 16 * wgmma_consumers, 8> out;
  std::uint64_t full[Stages], empty[Stages];
};

/// y[r] (+)= x[r] w[e]^T or x[r] w[e]; the tensor maps hold x and w.
struct wgmma_product {
  bf16* y;
  index_t y_stride;
  index_t const* offsets;
  index_t experts, rows, n, k;

  index_t most_tiles(index_t width) const { return (rows / wgmma_rows + (experts < rows ? experts : rows)) * tiles_over(n, width); }
};

/// Finds tiles by numbers that only grow: over all numbers it looks at each expert once.
struct wgmma_cursor {
  index_t const* offsets;
  index_t experts, rows, columns;  ///< columns of tiles
  index_t expert = 0, before = 0;  ///< tiles of the experts before this one
  expert_rows range;

  __device__ wgmma_cursor(wgmma_product const& p, int width)
      : offsets(p.offsets), experts(p.experts), rows(p.rows), columns(tiles_over(p.n, width)), range(rows_of_expert(offsets, 0, rows)) {}
  /// Whether there is a tile of that number.
  __device__ bool seek(index_t number) {
    for (;;) {
      index_t const own = tiles_over(range.end - range.first, wgmma_rows) * columns;
      if (number < before + own) return true;
      before += own;
      if (++expert >= experts) return false;
      range = rows_of_expert(offsets, expert, rows);
    }
  }
  /// Row and column where the tile that was found begins.
  __device__ tile_place place(index_t number, int width) const {
    tile_place const at = place_of(number - before, tiles_over(range.end - range.first, wgmma_rows), columns);
    return {range.first + at.row * wgmma_rows, at.column * width};
  }
};

/// Which stage comes next, and the parity of its phase.
template <int Stages>
struct wgmma_stage {
  int index = 0;
  unsigned parity = 0;
  __device__ void advance() {
    if (++index == Stages) index = 0, parity ^= 1;
  }
};

/// One thread: starts the copies of every stage of every tile of this block, as soon as the stage is free.
template <int N, int Stages, ptx::major W>
__device__ void wgmma_load(wgmma_layout<N, Stages>& shared, CUtensorMap const& x, CUtensorMap const& w, wgmma_product const& p) {
  if (p.k == 0) return;  // nor are there maps
  ptx::prefetch_tensor_map(x), ptx::prefetch_tensor_map(w);
  wgmma_cursor cursor(p, N);
  wgmma_stage<Stages> stage;
  for (index_t number = blockIdx.x; cursor.seek(number); number += gridDim.x) {
    tile_place const at = cursor.place(number, N);
    int const row = static_cast<int>(at.row), column = static_cast<int>(at.column), expert = static_cast<int>(cursor.expert);
    for (index_t k0 = 0; k0 < p.k; k0 += wgmma_depth, stage.advance()) {
      int const s = stage.index, k = static_cast<int>(k0);
      ptx::mbarrier_wait(&shared.empty[s], stage.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(&shared.full[s], sizeof shared.x[s] + sizeof shared.w[s]);
      ptx::tma_load(shared.x[s], x, &shared.full[s], k, row);  // rows of the next experts may come along: nobody stores what they give
      if constexpr (W == ptx::major::k) ptx::tma_load(shared.w[s], w, &shared.full[s], k, column, expert);
      else
        for (int slab = 0; slab < N; slab += 64) ptx::tma_load(&shared.w[s][slab * wgmma_depth], w, &shared.full[s], column + slab, k, expert);
    }
  }
}

/// This warp has read the stage: each waits for its own quarter of a product, so each says so.
template <class Layout>
__device__ void wgmma_release(Layout& shared, int stage) {
  if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(&shared.empty[stage]);
}

/// Continues the sums of 64 rows over all of k, a product in flight while the next stage is waited for.
template <int N, int Stages, ptx::major W>
__device__ __forceinline__ void wgmma_sum(wgmma_layout<N, Stages>& shared, wgmma_stage<Stages>& stage, index_t k, int rows_before,
                                          float (&sum)[N / 2]) {
  ptx::wgmma_pin(sum);
  int previous = -1;
  for (index_t k0 = 0; k0 < k; k0 += wgmma_depth, stage.advance()) {
    int const s = stage.index;
    ptx::mbarrier_wait(&shared.full[s], stage.parity);
    auto const x = ptx::wgmma_descriptor<ptx::major::k>(ptx::shared_address(&shared.x[s][rows_before * wgmma_depth]));
    auto const w = ptx::wgmma_descriptor<W>(ptx::shared_address(shared.w[s]), 64 * wgmma_depth * sizeof(bf16));
    ptx::wgmma_fence();
#pragma unroll
    for (unsigned step = 0; step < wgmma_depth / 16; ++step)
      ptx::wgmma<N, ptx::major::k, W>(sum, x + step * ptx::wgmma_step<ptx::major::k>, w + step * ptx::wgmma_step<W>, true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (previous >= 0) wgmma_release(shared, previous);
    previous = s;
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(sum);
  if (previous >= 0) wgmma_release(shared, previous);
}

/// A tile's outputs of one warp: 16 rows from `row`, N columns from `column`; what lies at `end` or behind, or at n or behind, does not exist.
struct wgmma_part {
  index_t row, end, column;
};

/// The sums start from what y holds.
template <int N>
__device__ __forceinline__ void wgmma_start(wgmma_product const& p, wgmma_part const& t, float (&sum)[N / 2]) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    index_t const r = t.row + lane / 4 + 8 * (i / 2 % 2), c = t.column + 8 * (i / 4) + lane % 4 * 2 + i % 2;
    sum[i] = r < t.end && c < p.n ? static_cast<float>(p.y[r * p.y_stride + c]) : 0.0f;
  }
}

__device__ inline std::uint32_t bf16_pair(float low, float high) { return bf16(low).bits | std::uint32_t{bf16(high).bits} << 16; }

/// Rounds the sums and stores them, 64 columns at a time by way of shared memory, so that lanes store 16 bytes beside each other where memory
/// allows it.
template <int N, class Layout>
__device__ __forceinline__ void wgmma_store(Layout& shared, wgmma_product const& p, wgmma_part const& t, float const (&sum)[N / 2]) {
  int const lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x - 128) / 32 * 16;
  bool const fits = reinterpret_cast<std::uintptr_t>(p.y) % 16 == 0 && p.y_stride % 8 == 0;
#pragma unroll
  for (int part = 0; part < N / 64; ++part) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // 16 columns: four matrices of 8 x 8
      float const* const d = &sum[32 * part + 8 * j];
      std::uint32_t const r[4] = {bf16_pair(d[0], d[1]), bf16_pair(d[2], d[3]), bf16_pair(d[4], d[5]), bf16_pair(d[6], d[7])};
      ptx::stmatrix_x4(&shared.out(first + lane % 16, (2 * j + lane / 16) ^ lane % 8), r);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const line = 4 * i + lane / 8, chunk = lane % 8;
      index_t const r = t.row + line, c = t.column + 64 * part + 8 * chunk;
      if (r >= t.end || c >= p.n) continue;
      ptx::vector16<bf16> const v = shared.out(first + line, chunk ^ line % 8);
      bf16* const to = p.y + r * p.y_stride + c;
      if (fits && p.n - c >= 8) ptx::store_16(to, v);
      else {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (c + e < p.n) to[e] = v.v[e];
      }
    }
    __syncwarp();  // before the next columns overwrite these
  }
}

/// 128 threads: multiply and store 64 rows of every tile of this block.
template <bool Accumulate, int N, int Stages, ptx::major W>
__device__ __forceinline__ void wgmma_multiply(wgmma_layout<N, Stages>& shared, wgmma_product const& p) {
  int const warp = static_cast<int>(threadIdx.x - 128) / 32, rows_before = warp / 4 * 64;
  wgmma_cursor cursor(p, N);
  wgmma_stage<Stages> stage;
  for (index_t number = blockIdx.x; cursor.seek(number); number += gridDim.x) {
    tile_place const at = cursor.place(number, N);
    if (at.row + rows_before >= cursor.range.end) {  // none of its 64 rows exists
      for (index_t k0 = 0; k0 < p.k; k0 += wgmma_depth, stage.advance()) {
        ptx::mbarrier_wait(&shared.full[stage.index], stage.parity);
        __syncwarp();  // a lane that came later could miss the whole phase; the products hold a warp together elsewhere
        wgmma_release(shared, stage.index);
      }
      continue;
    }
    wgmma_part const part{at.row + 16 * warp, cursor.range.end, at.column};
    float sum[N / 2] = {};
    if constexpr (Accumulate) wgmma_start<N>(p, part, sum);
    wgmma_sum<N, Stages, W>(shared, stage, p.k, rows_before, sum);
    wgmma_store<N>(shared, p, part, sum);
  }
}

}  // namespace detail

/// Persistent: block b computes the tiles b, b + gridDim.x, ... of all experts, and loads of the next tile are under way while one is stored.
template <bool Accumulate, int N, int Stages, bool TransposeW>
__global__ void __launch_bounds__(detail::wgmma_threads, 1)
    wgmma_tiles_kernel(CUtensorMap const __grid_constant__ x, CUtensorMap const __grid_constant__ w, detail::wgmma_product p) {
  if constexpr (ptx::sm90a) {
    constexpr ptx::major major = TransposeW ? ptx::major::k : ptx::major::mn;
    auto& shared = ptx::dynamic_shared<detail::wgmma_layout<N, Stages>>();
    if (threadIdx.x == 0) {
      for (int s = 0; s < Stages; ++s) ptx::mbarrier_init(&shared.full[s], 1), ptx::mbarrier_init(&shared.empty[s], detail::wgmma_consumers);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      ptx::setmaxnreg_dec<40>();
      if (threadIdx.x == 0) detail::wgmma_load<N, Stages, major>(shared, x, w, p);
    } else {
      ptx::setmaxnreg_inc<232>();
      detail::wgmma_multiply<Accumulate, N, Stages, major>(shared, p);
    }
  }
}

namespace detail {

/// The maps of x and w. Throws, naming the requirement, for what TMA cannot address.
struct wgmma_maps {
  CUtensorMap x, w;
};
template <bool TransposeW, int N>
wgmma_maps wgmma_maps_of(char const* name, in<bf16, dyn, dyn> x, in<bf16, dyn, dyn, dyn> w) {
  index_t const rows = x.template extent<0>(), k = x.template extent<1>(), experts = w.template extent<0>(), lines = w.template extent<1>(),
                length = w.template extent<2>(), stride = w.row_stride();
  for (index_t const size : {rows, k, experts, lines, length})
    expects(size < (index_t{1} << 31) - 256, errc::bad_argument, name, ": matrix_unit::wgmma has coordinates of 32 bits, for an extent of ", size);
  box_of_tensor<2> const x_box{{k, rows}, {x.row_stride()}, {wgmma_depth, wgmma_rows}};
  box_of_tensor<3> const w_box{{length, lines, experts}, {stride, lines * stride}, {64, TransposeW ? N : wgmma_depth, 1}};
  return {encode_tensor_map(name, "x", x.data(), x_box), encode_tensor_map(name, "w", w.data(), w_box)};
}

/// Throws if the operands or the device do not fit; y may lie anywhere.
template <bool TransposeW, bool Accumulate, wgmma_tuning P>
void multiply_by_wgmma(char const* name, cuda const& space, in<bf16, dyn, dyn> x, in<bf16, dyn, dyn, dyn> w, wgmma_product const& p) {
  static_assert(P.columns == 64 || P.columns == 128 || P.columns == 256, "moe::gemm: wgmma_tuning::columns must be 64, 128 or 256");
  using layout = wgmma_layout<P.columns, P.stages>;
  static_assert(P.stages >= 2 && sizeof(layout) <= 232448, "moe::gemm: wgmma_tuning::stages must be at least 2, and fit 227 KiB of shared memory");
  index_t const tiles = p.most_tiles(P.columns);
  if (tiles == 0 || (Accumulate && p.k == 0)) return;  // nothing to write, nothing to add
  index_t const processors = current_device(name).multiprocessors;
  expects(ptx::runs_sm90a_code(), errc::unsupported_machine, name,
          ": matrix_unit::wgmma needs a device of compute capability 9.0 and -gencode arch=compute_90a,code=sm_90a; matrix_unit::mma runs on others");
  wgmma_maps const maps = p.k > 0 ? wgmma_maps_of<TransposeW, P.columns>(name, x, w) : wgmma_maps{};
  launch(name, wgmma_tiles_kernel<Accumulate, P.columns, P.stages, TransposeW>,
         {.blocks = tiles < processors ? tiles : processors, .threads = wgmma_threads, .shared_bytes = sizeof(layout)}, space, maps.x, maps.w, p);
}

}  // namespace detail

}  // namespace moe::inline MOE_ISA
