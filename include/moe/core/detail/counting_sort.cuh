#pragma once
#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>

// A stable counting sort of integer keys on the device, in pieces that its users join: the rank of every item among those with its key, and from the
// counts the place of each key's first item. Integers only: the result has no order of summation.
namespace moe::inline MOE_ISA::detail {

inline constexpr int sort_tile = 256, sort_warps = 16;

struct rank_layout {
  ptx::vector16<int> key[sort_tile / 4];
};

/// How many keys of a tile equal `key`, in front of thread `me` and behind it.
struct equal_keys {
  int before = 0, behind = 0;
  __device__ equal_keys(rank_layout const& tile, int key, int me) {
    // All threads read the same 16 bytes at once, and whole warps agree on the side, but for the 32 keys that are theirs.
    for (int i = 0; i < sort_tile; i += 4) {
      ptx::vector16<int> const four = tile.key[i / 4];
      for (int j = 0; j < 4; ++j) {
        int const same = four.v[j] == key ? 1 : 0;
        before += i + j < me ? same : 0;
        behind += i + j > me ? same : 0;
      }
    }
  }
};

/// One block per chunk of items: rank[i] becomes the number of items of the chunk in front of i that have the key of i, count(c, key) their number in
/// chunk c. Tiles of the chunk follow one another, so a chunk may have any length; within a tile a thread compares its key with the 255 others, which
/// needs neither atomics nor a table in shared memory, and works for any number of keys.
template <class Key>
__global__ void __launch_bounds__(sort_tile) rank_kernel(index_t n, index_t chunk, Key key, int* rank, tensor<int, dyn, dyn> count) {
  rank_layout& tile = ptx::dynamic_shared<rank_layout>();
  int const me = static_cast<int>(threadIdx.x);
  index_t const keys = count.template extent<1>();
  for (index_t c = blockIdx.x; c < count.template extent<0>(); c += gridDim.x) {
    int* const counted = count.row(c);
    for (index_t e = me; e < keys; e += sort_tile) counted[e] = 0;
    index_t const end = (c + 1) * chunk < n ? (c + 1) * chunk : n;
    for (index_t first = c * chunk; first < end; first += sort_tile) {
      index_t const i = first + me;
      index_t const e = i < end ? key(i) : -1;
      bool const valid = e >= 0 && e < keys;
      __syncthreads();  // `counted` is that of the tiles before, and nobody reads their keys any more
      tile.key[me / 4].v[me % 4] = valid ? static_cast<int>(e) : -1;
      int const earlier = valid ? counted[e] : 0;
      __syncthreads();
      if (valid) {
        equal_keys const equal(tile, static_cast<int>(e), me);
        rank[i] = earlier + equal.before;
        if (equal.behind == 0) counted[e] = earlier + equal.before + 1;
      } else if (i < end) {
        rank[i] = -1;
      }
    }
  }
}

struct column_layout {
  ptx::shared_matrix<int, sort_warps, lanes> sum;
};

/// Turns count(c, key) into the number of items of the key in the chunks before c, and writes how many there are in all. A lane has a column, a warp
/// has a range of chunks.
template <int Warps>
__global__ void __launch_bounds__(lanes* Warps) column_kernel(tensor<int, dyn, dyn> count, tensor<index_t, dyn> total) {
  column_layout& shared = ptx::dynamic_shared<column_layout>();
  int const lane = static_cast<int>(threadIdx.x) % lanes, warp = static_cast<int>(threadIdx.x) / lanes;
  index_t const chunks = count.template extent<0>(), keys = count.template extent<1>(), share = (chunks + Warps - 1) / Warps;
  index_t const begin = warp * share < chunks ? warp * share : chunks, end = begin + share < chunks ? begin + share : chunks;
  for (index_t first = index_t{blockIdx.x} * lanes; first < keys; first += index_t{gridDim.x} * lanes) {
    index_t const e = first + lane;
    int sum = 0, next = 0;
    for (index_t c = begin; e < keys && c < end; ++c) sum += count(c, e);
    shared.sum(warp, lane) = sum;
    __syncthreads();
    for (int w = 0; w < warp; ++w) next += shared.sum(w, lane);
    for (index_t c = begin; e < keys && c < end; ++c) {
      int const here = count(c, e);
      count(c, e) = next;
      next += here;
    }
    if (e < keys && warp == Warps - 1) total(e) = next;
    __syncthreads();
  }
}

/// Ranks n items by key(i), an integer, for i in [0, n), n <= INT_MAX:
///   rank[i]         how many items of i's own chunk i / chunk, in front of i, have its key; -1 for a key outside [0, keys)
///   count(c, key)   how many items of the key are in the chunks before c      [chunks, keys]
///   total(key)      how many there are                                        [keys]
/// So item i comes at place count(i / chunk, key(i)) + rank[i] among those of its key. Work: n + chunks * keys, and n * 256 comparisons.
template <class Key>
void rank_by_key(char const* name, cuda const& space, index_t n, index_t chunk, Key const& key, int* rank, tensor<int, dyn, dyn> count,
                 tensor<index_t, dyn> total) {
  launch(name, rank_kernel<Key>, {.blocks = count.extent<0>(), .threads = sort_tile, .shared_bytes = sizeof(rank_layout)}, space, n, chunk, key, rank,
         count);
  launch(name, column_kernel<sort_warps>,
         {.blocks = (count.extent<1>() + lanes - 1) / lanes, .threads = lanes * sort_warps, .shared_bytes = sizeof(column_layout)}, space, count,
         total);
}

struct offsets_layout {
  index_t sum[sort_warps];
};

/// offsets(0) = 0, offsets(e + 1) = offsets(e) + min(total(e), limit). One block, tiles of keys one after another.
template <int Warps>
__global__ void __launch_bounds__(lanes* Warps) offsets_kernel(tensor<index_t const, dyn> total, index_t limit, tensor<index_t, dyn> offsets) {
  offsets_layout& shared = ptx::dynamic_shared<offsets_layout>();
  int const lane = static_cast<int>(threadIdx.x) % lanes, warp = static_cast<int>(threadIdx.x) / lanes;
  index_t const keys = total.template extent<0>();
  index_t carry = 0;
  if (threadIdx.x == 0) offsets(0) = 0;
  for (index_t first = 0; first < keys; first += lanes * Warps) {
    index_t const e = first + threadIdx.x, all = e < keys ? total(e) : 0;
    index_t sum = all < limit ? all : limit;
    for (int step = 1; step < lanes; step *= 2) {
      index_t const left = __shfl_up_sync(0xffffffffu, sum, step);
      sum += lane >= step ? left : 0;
    }
    if (lane == lanes - 1) shared.sum[warp] = sum;
    __syncthreads();
    for (int w = 0; w < Warps; ++w) {
      if (w < warp) sum += shared.sum[w];
    }
    if (e < keys) offsets(e + 1) = carry + sum;
    for (int w = 0; w < Warps; ++w) carry += shared.sum[w];
    __syncthreads();
  }
}

/// The first place of each key when at most `limit` of its items are kept, and behind them the end: offsets has one element more than total.
inline void offsets_of_keys(char const* name, cuda const& space, tensor<index_t const, dyn> total, index_t limit, tensor<index_t, dyn> offsets) {
  launch(name, offsets_kernel<sort_warps>, {.blocks = 1, .threads = lanes * sort_warps, .shared_bytes = sizeof(offsets_layout)}, space, total, limit,
         offsets);
}

}  // namespace moe::inline MOE_ISA::detail
