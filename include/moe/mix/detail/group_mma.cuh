#pragma once
#include <moe/mix/detail/group_fma.cuh>

namespace moe::inline MOE_ISA {

namespace detail {

inline constexpr int mix_threads = 128, mix_tile_columns = 128, mix_chunks = mix_tile_columns / 8;

/// Outputs of a block: a warp has 16. Its four warps are OutWarps by 4 / OutWarps, the columns dealt to the latter.
template <int OutWarps>
struct mix_warp {
  static constexpr int columns = mix_tile_columns * OutWarps / 4;
  int lane = static_cast<int>(threadIdx.x) % lanes, row = static_cast<int>(threadIdx.x) / lanes % OutWarps * 16,
      column = static_cast<int>(threadIdx.x) / lanes / OutWarps * columns;
};

/// Two tiles of a group's rows by 128 columns in pieces of 16 bytes, permuted so that the eight pieces which ldmatrix reads, or a store of sums
/// writes, lie in different banks. One is multiplied, and then holds the outputs on their way to memory, while the other one is filled.
template <int OutWarps, int DepthTiles>
struct mix_stages {
  static constexpr int depth = 16 * DepthTiles, rows = depth > 16 * OutWarps ? depth : 16 * OutWarps, rows_at_once = mix_threads / mix_chunks;
  ptx::shared_matrix<ptx::vector16<bf16>, 2 * rows, mix_chunks> chunk;

  __device__ ptx::vector16<bf16>* at(int stage, int row, int c) { return &chunk(stage * rows + row, c ^ row % 8); }

  /// Starts the copy of rows [k0, k) and columns [c, c1), zeros beyond.
  __device__ void load(int stage, spaced_rows<bf16 const> const& from, index_t k0, index_t k, index_t c, index_t c1) {
    bool const aligned = reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0 && from.stride % 8 == 0;
    int const part = static_cast<int>(threadIdx.x) % mix_chunks, first = static_cast<int>(threadIdx.x) / mix_chunks;
    int const left = c1 - c < mix_tile_columns ? static_cast<int>(c1 - c) - 8 * part : 8,
              n = left < 0   ? 0
                  : left < 8 ? left
                             : 8,
              filled = n == 0           ? 0
                       : k - k0 < depth ? static_cast<int>(k - k0)
                                        : depth;
    bf16 const* source = from.row(k0 + first) + c + 8 * part;
#pragma unroll
    for (int row = first; row < depth; row += rows_at_once) {
      bf16 const* const here = row < filled ? source : from.data;
      if (aligned) ptx::cp_async_16(at(stage, row, part), here, row < filled ? 2 * n : 0);
      else *at(stage, row, part) = load_vector(here, row < filled ? n : 0);
      source += rows_at_once * from.stride;
    }
  }

  /// Rows [m0, m) and columns [c, c1) to memory, 16 bytes at once.
  __device__ void store(int stage, spaced_rows<bf16> const& to, index_t m0, index_t m, index_t c, index_t c1) {
    int const part = static_cast<int>(threadIdx.x) % mix_chunks, first = static_cast<int>(threadIdx.x) / mix_chunks;
    index_t const left = c1 - c - 8 * part;
    bf16* row = to.row(m0 + first) + c + 8 * part;
#pragma unroll
    for (int i = first; i < 16 * OutWarps; i += rows_at_once) {
      if (m0 + i < m && left > 0) store_vector(row, *at(stage, i, part), left);
      row += rows_at_once * to.stride;
    }
  }
};

/// 16 weights of a warp's outputs as the first factor, for DepthTiles times 16 inputs: each as the sum of two bf16, which keeps 16 bits of it.
template <int DepthTiles>
struct mix_factors {
  std::uint32_t high[DepthTiles][4], low[DepthTiles][4];

  __device__ void load(int lane, device_group<bf16> const& g, index_t m0, index_t m, index_t k0, index_t k) {
#pragma unroll
    for (int b = 0; b < DepthTiles; ++b)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        bf16 h[2], l[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          index_t const row = m0 + lane / 4 + 8 * (r % 2), column = k0 + 16 * b + lane % 4 * 2 + i + 8 * (r / 2);
          float const w = row < m && column < k ? g.weight[row * g.m_step + column * g.k_step] : 0.0f;
          h[i] = bf16(w);
          l[i] = bf16(w - static_cast<float>(h[i]));
        }
        high[b][r] = h[0].bits | std::uint32_t{h[1].bits} << 16;
        low[b][r] = l[0].bits | std::uint32_t{l[1].bits} << 16;
      }
  }
};

struct alignas(4) bf16_neighbours {
  bf16 v[2];
};

/// The sums of a warp: 16 rows by its columns.
template <int OutWarps>
struct mix_tile {
  using warp_t = mix_warp<OutWarps>;
  float v[warp_t::columns / 8][4] = {};

  /// Ascending in steps of 16; in each the upper parts of the weights, then the lower.
  template <int DepthTiles>
  __device__ void add(mix_stages<OutWarps, DepthTiles>& shared, int stage, warp_t const& warp, mix_factors<DepthTiles> const& w) {
#pragma unroll
    for (int b = 0; b < DepthTiles; ++b)
#pragma unroll
      for (int n = 0; n < warp_t::columns / 8; n += 2) {
        std::uint32_t x[4];
        ptx::ldmatrix_x4<true>(x, shared.at(stage, 16 * b + warp.lane % 16, warp.column / 8 + n + warp.lane / 16));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          ptx::mma_m16n8k16(v[n + i], w.high[b], x[2 * i], x[2 * i + 1]);
          ptx::mma_m16n8k16(v[n + i], w.low[b], x[2 * i], x[2 * i + 1]);
        }
      }
  }
  template <int DepthTiles>
  __device__ void put(mix_stages<OutWarps, DepthTiles>& shared, int stage, warp_t const& warp) const {
#pragma unroll
    for (int n = 0; n < warp_t::columns / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto* const piece = shared.at(stage, warp.row + warp.lane / 4 + 8 * half, warp.column / 8 + n);
        *reinterpret_cast<bf16_neighbours*>(&piece->v[warp.lane % 4 * 2]) = {bf16(v[n][2 * half]), bf16(v[n][2 * half + 1])};
      }
  }
};

inline constexpr int mix_tiles = 4;  ///< tiles of columns that the weights of a block serve

}  // namespace detail

/// A block computes 16 * OutWarps outputs of a group, tile of columns by tile, and for each a part of the group's rows after the other; weights stay in
/// registers where one part is all.
template <int OutWarps, int DepthTiles>
__global__ void __launch_bounds__(detail::mix_threads, 4) mix_mma_kernel(detail::device_groups<bf16> p, detail::mix_items items) {
  using stages = detail::mix_stages<OutWarps, DepthTiles>;
  auto& shared = ptx::dynamic_shared<stages>();
  detail::mix_warp<OutWarps> const warp;
  index_t const count = items.count(p), k = p.k(), m = p.m(), passes = k > 0 ? (k + stages::depth - 1) / stages::depth : 1;
  for (index_t number = blockIdx.x; number < count; number += gridDim.x) {
    auto const item = items.item(p, number);
    auto const g = p.group(item.group);
    index_t const parts = (item.c1 - item.c0 + detail::mix_tile_columns - 1) / detail::mix_tile_columns * passes;
    auto const load = [&](index_t part) {
      if (part < parts)
        shared.load(static_cast<int>(part % 2), g.from, part % passes * stages::depth, k, item.c0 + part / passes * detail::mix_tile_columns,
                    item.c1);
      ptx::cp_async_commit();  // also of nothing: waiting counts groups
    };
    detail::mix_factors<DepthTiles> w;
    detail::mix_tile<OutWarps> sum;
    load(0);
    for (index_t part = 0; part < parts; ++part) {
      int const stage = static_cast<int>(part % 2);
      index_t const pass = part % passes, c = item.c0 + part / passes * detail::mix_tile_columns;
      load(part + 1);
      if (passes > 1 || part == 0) w.load(warp.lane, g, item.m0 + warp.row, m, pass * stages::depth, k);
      if (pass == 0) sum = {};
      ptx::cp_async_wait<1>();
      __syncthreads();
      sum.add(shared, stage, warp, w);
      if (pass + 1 == passes) {
        __syncthreads();  // the rows were read: outputs take their place
        sum.put(shared, stage, warp);
        __syncthreads();
        shared.store(stage, g.to, item.m0, m, c, item.c1);
      }
      __syncthreads();  // before this stage is filled again
    }
  }
}

namespace detail {
template <int OutWarps, int DepthTiles>
void mix_by_mma(char const* name, cuda const& space, device_groups<bf16> const& p) {
  mix_items const items{16 * OutWarps, mix_tiles * mix_tile_columns};
  launch(name, mix_mma_kernel<OutWarps, DepthTiles>,
         {.blocks = items.count(p), .threads = mix_threads, .shared_bytes = sizeof(mix_stages<OutWarps, DepthTiles>)}, space, p, items);
}
inline void mix_by_mma(char const* name, cuda const& space, device_groups<bf16> const& p) {
  if (p.m() <= 16 && p.k() <= 16) mix_by_mma<1, 1>(name, space, p);
  else if (p.m() <= 16) mix_by_mma<1, 2>(name, space, p);
  else if (p.k() <= 16) mix_by_mma<2, 1>(name, space, p);
  else mix_by_mma<2, 2>(name, space, p);
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
