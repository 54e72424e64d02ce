#pragma once
#include <moe/ssm/detail/scan_forward.hpp>
#include <moe/ssm/detail/scan_lanes.cuh>

// Tiles of rows: their time steps and products dt u are formed by all threads into shared memory; then the warps go down the rows, each for its
// channels; then all threads turn y into out. The sum over the states of a channel is one chain through its lanes: a lane is one row behind the lane
// before it, from which it takes the sum so far.
namespace moe::inline MOE_ISA::detail {

template <int N, class A>
struct scan_forward_shape {
  using split = scan_split<N>;
  static constexpr int threads = 128, channels = threads / split::parts;
  static constexpr int rows = split::parts < 4 ? 16 * split::parts : static_cast<int>(scan_chunk);  // of a tile: they divide a chunk
  static constexpr int pitch = channels + (split::parts > 1 ? split::channels : 0);  // lanes of a channel read neighbouring rows: other banks
  struct layout {
    ptx::shared_matrix<A, rows, pitch> dt, du;  // y takes the place of du
    scan_shared_rows<rows, N, A> b, c;
  };
};

/// One tile of one block.
template <int N, bool Softplus, class T>
struct scan_forward_tile {
  using A = accumulator<T>;
  using shape = scan_forward_shape<N, A>;
  scan_forward_problem<T> const& p;
  scan_work const& work;
  typename shape::layout& shared;
  index_t first;  // row of the batch
  int rows;

  /// Calls f(row, channel of the block, channel) for the elements that are this thread's.
  template <class F>
  __device__ void each(F const& f) const {
    for (int e = static_cast<int>(threadIdx.x); e < rows * shape::channels; e += shape::threads)
      f(e / shape::channels, e % shape::channels, work.channel + e % shape::channels);
  }
  __device__ void before() const {
    each([&](int row, int c, int channel) {
      bool const has = c < work.channels;
      A const dt =
          has ? scan_time_step<Softplus>(static_cast<A>(p.in.delta.row(first + row)[channel]), scan_optional(p.in.delta_bias, channel)) : A(0);
      shared.dt(row, c) = dt;
      shared.du(row, c) = has ? product(dt, static_cast<A>(p.in.u.row(first + row)[channel])) : A(0);
    });
    shared.b.fetch(p.in.b, first, rows, work.group * N, shape::threads);
    shared.c.fetch(p.in.c, first, rows, work.group * N, shape::threads);
  }
  __device__ void sweep(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A* h) const {
    constexpr int parts = shape::split::parts;
    A sum = 0;
    for (int i = 0; i < rows + parts - 1; ++i) {
      A y = parts > 1 ? __shfl_up_sync(0xffffffffu, sum, shape::split::channels) : A(0);
      int const row = i - lane.part;
      if (row < 0 || row >= rows) continue;
      if (lane.part == 0) y = 0;
      A b[shape::split::states], c[shape::split::states];
      shared.b.read(lane, p.in.b, first, row, work.group * N, b);
      shared.c.read(lane, p.in.c, first, row, work.group * N, c);
      scan_step(lane, rates, shared.dt(row, lane.channel), shared.du(row, lane.channel), b, h, static_cast<A*>(nullptr));
#pragma unroll
      for (int k = 0; k < shape::split::states; ++k)
        if (lane.has(k)) y = madd(c[k], h[k], y);
      sum = y;
      if (lane.part == parts - 1) shared.du(row, lane.channel) = y;
    }
  }
  __device__ void after() const {
    each([&](int row, int c, int channel) {
      if (c >= work.channels) return;
      A y = shared.du(row, c);
      if (p.in.skip.data() != nullptr) y = madd(p.in.skip.data()[channel], static_cast<A>(p.in.u.row(first + row)[channel]), y);
      if (p.in.z.data() != nullptr) y = product(y, scan_gate(static_cast<A>(p.in.z.row(first + row)[channel])));
      p.out.row(first + row)[channel] = T(y);
    });
  }
};

template <int N, bool Softplus, class T>
__global__ void __launch_bounds__(128, 4) scan_forward_kernel(scan_forward_problem<T> p, index_t groups, index_t items) {
  using A = accumulator<T>;
  using shape = scan_forward_shape<N, A>;
  auto& shared = ptx::dynamic_shared<typename shape::layout>();
  scan_lane<N> const lane;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    scan_work const work(p.sequences, p.in.channels(), groups, shape::channels, item);
    bool const has = lane.channel < work.channels;
    int const channel = work.channel + lane.channel;
    scan_rates<N, A> const rates(lane, p.in.a, channel, has);
    A h[shape::split::states];
    scan_load_states(lane, p.initial_state, work.s, channel, has, h);
    for (index_t begin = 0; begin < work.rows; begin += shape::rows) {
      if (begin > 0 && begin % scan_chunk == 0 && has && p.checkpoints.states.data() != nullptr) {
        index_t const row = scan_checkpoint_row<T>(p.sequences, work.s, begin / scan_chunk, N);
#pragma unroll
        for (int k = 0; k < shape::split::states; ++k)
          if (lane.has(k)) p.checkpoints.states.row(row + lane.state(k))[channel] = h[k];
      }
      index_t const left = work.rows - begin;
      scan_forward_tile<N, Softplus, T> const tile{p, work, shared, work.first_row + begin,
                                                   static_cast<int>(left < shape::rows ? left : shape::rows)};
      tile.before();  // without a barrier behind the last tile: what it overwrites was read last by this very thread
      __syncthreads();
      tile.sweep(lane, rates, h);
      __syncthreads();
      tile.after();
    }
    scan_store_states(lane, h, p.final_state, work.s, channel, has);
  }
}

}  // namespace moe::inline MOE_ISA::detail
