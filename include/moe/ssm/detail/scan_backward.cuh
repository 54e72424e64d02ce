#pragma once
#include <moe/ssm/detail/scan_backward.hpp>
#include <moe/ssm/detail/scan_lanes.cuh>

// A block goes up its sequence chunk by chunk. First the states of the chunk again, down from the checkpoint, of which every few rows are kept in
// shared memory; then strips of so few rows, from the last: their states and decays once more, in registers, and the adjoint up. Sums over states and
// channels are joined within the warp. What sums over channels goes to scratch, a row per token and block, and is added up by a kernel of its own.
namespace moe::inline MOE_ISA::detail {

template <int N, class A>
struct scan_backward_shape {
  using split = scan_split<N>;
  static constexpr bool few = split::states <= 4, single = sizeof(A) == 4;
  static constexpr int most = !few ? 64 : single ? 256 : 128, fitting = (single ? 64 : 32) * split::parts;
  static constexpr int threads = fitting < most ? fitting : most, channels = threads / split::parts, warps = threads / lanes;
  static constexpr int rows = static_cast<int>(scan_chunk), strip = few && single ? 5 : 4;  // rows whose states are in registers
  static constexpr int sums = 2 * split::parts * split::states;                             // over channels: of each part b, then c
  struct layout {
    ptx::shared_matrix<A, rows, channels> dt, du, d_y;
    scan_shared_rows<rows, N, A> b, c;
    ptx::shared_matrix<A, (rows - 1) / strip * split::states, threads> edge;  // h before each strip but the first
    ptx::shared_matrix<A, 3 * strip, channels> through;                       // sums over states: of l b, of l a q, of c h
    ptx::shared_matrix<A, warps * strip, sums> by_warp;
  };
};

/// Sums over lanes of Count numbers each: a tree of halves over 2 Half neighbours `Unit` lanes apart, of which this one is `index`. Where Count is
/// even, a lane keeps one half of the numbers and gives the other away.
template <int Count, int Half>
inline constexpr int scan_sums_left = scan_sums_left<Count % 2 == 0 ? Count / 2 : Count, Half / 2>;
template <int Count>
inline constexpr int scan_sums_left<Count, 0> = Count;

struct scan_sum_place {
  int first = 0;     ///< of the numbers that this lane is left with
  bool owns = true;  ///< where several lanes have the same numbers, one of them
};
template <int Count, int Half, int Unit, class A>
__device__ void scan_sum_lanes(A* v, int index, scan_sum_place& place) {
  if constexpr (Half > 0) {
    bool const upper = (index & Half) != 0;
    if constexpr (Count % 2 == 0) {
#pragma unroll
      for (int i = 0; i < Count / 2; ++i) {
        A const kept = upper ? v[i + Count / 2] : v[i], given = upper ? v[i] : v[i + Count / 2];
        v[i] = kept + __shfl_xor_sync(0xffffffffu, given, Half * Unit);
      }
      place.first += upper ? Count / 2 : 0;
      scan_sum_lanes<Count / 2, Half / 2, Unit>(v, index, place);
    } else {
#pragma unroll
      for (int i = 0; i < Count; ++i) v[i] += __shfl_xor_sync(0xffffffffu, v[i], Half * Unit);
      place.owns = place.owns && !upper;
      scan_sum_lanes<Count, Half / 2, Unit>(v, index, place);
    }
  }
}

/// The scratch of selective_scan_backward.
template <int N, class A>
struct scan_device_scratch {
  using shape = scan_backward_shape<N, A>;
  matrix_view<A> by_block;  ///< [blocks of channels * tokens, shape::sums]
  matrix_view<A> d_a;       ///< [sequences * N, channels]
  matrix_view<A> ends;      ///< [sequences * 2, channels]  d_skip, d_delta_bias
  scan_device_scratch(arena& memory, index_t tokens, index_t channels, index_t groups, index_t sequences)
      : by_block(memory.mat<A>(elements(scan_channel_blocks(channels, groups, shape::channels), tokens), shape::sums)),
        d_a(memory.mat<A>(elements(sequences, N), channels)), ends(memory.mat<A>(elements(sequences, 2), channels)) {}
};

/// One chunk of one block.
template <int N, bool Softplus, class T>
struct scan_backward_chunk {
  using A = accumulator<T>;
  using shape = scan_backward_shape<N, A>;
  using split = typename shape::split;
  static constexpr int K = split::states, Q = shape::strip;
  scan_backward_problem<T> const& p;
  scan_device_scratch<N, A> const& scratch;
  scan_work const& work;
  typename shape::layout& shared;
  index_t number, first;  // the chunk; its first row in the batch
  int rows;

  /// Calls f(row, channel of the block, channel) for the elements of rows [from, to) that are this thread's, the last first.
  template <class F>
  __device__ void each(int from, int to, F const& f) const {
    constexpr int step = shape::threads / shape::channels;
    int const c = static_cast<int>(threadIdx.x) % shape::channels, at = static_cast<int>(threadIdx.x) / shape::channels;
    for (int row = from + (to - from + step - 1) / step * step - step + at; row >= from; row -= step)
      if (row < to && c < work.channels) f(row, c, work.channel + c);
  }
  __device__ A at(matrix_view<T const> const& m, int row, int channel) const { return static_cast<A>(m.row(first + row)[channel]); }

  __device__ void before() const {
    constexpr int step = shape::threads / shape::channels;
    int const c = static_cast<int>(threadIdx.x) % shape::channels;
    bool const has = c < work.channels;
    int const channel = work.channel + c;
    for (int row = static_cast<int>(threadIdx.x) / shape::channels; row < rows; row += step) {
      A const dt = has ? scan_time_step<Softplus>(at(p.in.delta, row, channel), scan_optional(p.in.delta_bias, channel)) : A(0);
      A d_y = has ? at(p.d_out, row, channel) : A(0);
      if (has && p.in.z.data() != nullptr) d_y = product(d_y, scan_gate(at(p.in.z, row, channel)));
      shared.dt(row, c) = dt, shared.d_y(row, c) = d_y;
      shared.du(row, c) = has ? product(dt, at(p.in.u, row, channel)) : A(0);
    }
    shared.b.fetch(p.in.b, first, rows, work.group * N, shape::threads);
    shared.c.fetch(p.in.c, first, rows, work.group * N, shape::threads);
  }
  __device__ void first_states(scan_lane<N> const& lane, bool has, int channel, A* h) const {
    if (number == 0) return scan_load_states(lane, p.initial_state, work.s, channel, has, h);
    index_t const row = scan_checkpoint_row<T>(p.sequences, work.s, number, N);
#pragma unroll
    for (int k = 0; k < K; ++k) h[k] = has && lane.has(k) ? p.checkpoints.states.row(row + lane.state(k))[channel] : A(0);
  }
  /// The states before each strip.
  __device__ void edges(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A* h) const {
    for (int row = 0; row < (rows - 1) / Q * Q; ++row) {
      A b[K];
      shared.b.read(lane, p.in.b, first, row, work.group * N, b);
      scan_step(lane, rates, shared.dt(row, lane.channel), shared.du(row, lane.channel), b, h, static_cast<A*>(nullptr));
      if ((row + 1) % Q != 0) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) shared.edge((row + 1) / Q * K - K + k, static_cast<int>(threadIdx.x)) = h[k];
    }
  }
  /// Row `row` of the chunk, r of its strip: h before and after it, and the decays into it.
  __device__ void row_backward(scan_lane<N> const& lane, int row, int r, A const* a, A const* before, A const* after, A const* decay, A* l,
                               A* d_a) const {
    A b[K], c[K], v[2 * K] = {}, through[4] = {};
    shared.b.read(lane, p.in.b, first, row, work.group * N, b);
    shared.c.read(lane, p.in.c, first, row, work.group * N, c);
    A const dt = shared.dt(row, lane.channel), du = shared.du(row, lane.channel), d_y = shared.d_y(row, lane.channel);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (!lane.has(k)) continue;
      A const adjoint = madd(d_y, c[k], l[k]);
      through[0] = madd(adjoint, b[k], through[0]);
      l[k] = product(decay[k], adjoint);
      A const w = product(l[k], before[k]);  // l q
      d_a[k] = madd(dt, w, d_a[k]);
      through[1] = madd(w, a[k], through[1]);
      through[2] = madd(c[k], after[k], through[2]);
      v[k] = product(adjoint, du);
      v[K + k] = product(d_y, after[k]);
    }
    join(lane, r, v, through);
  }
  /// Sums over the channels of the warp, and over the states of a channel, into shared memory.
  __device__ void join(scan_lane<N> const& lane, int r, A (&v)[2 * K], A (&through)[4]) const {
    int const warp = static_cast<int>(threadIdx.x) / lanes;
    scan_sum_place of_channels, of_parts;
    scan_sum_lanes<2 * K, split::channels / 2, 1>(v, lane.in_warp, of_channels);
    scan_sum_lanes<4, split::parts / 2, split::channels>(through, lane.part, of_parts);
#pragma unroll
    for (int i = 0; i < scan_sums_left<2 * K, split::channels / 2>; ++i)
      if (of_channels.owns) shared.by_warp(warp * Q + r, lane.part * 2 * K + of_channels.first + i) = v[i];
#pragma unroll
    for (int i = 0; i < scan_sums_left<4, split::parts / 2>; ++i)
      if (of_parts.owns && of_parts.first + i < 3) shared.through((of_parts.first + i) * Q + r, lane.channel) = through[i];
  }
  /// The strip from row `from` on; h: the states before it.
  __device__ void strip(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A const* a, int from, A const* h, A* l, A* d_a) const {
    A states[Q + 1][K], decays[Q][K];
#pragma unroll
    for (int k = 0; k < K; ++k) states[0][k] = h[k];
#pragma unroll
    for (int r = 0; r < Q; ++r) {
#pragma unroll
      for (int k = 0; k < K; ++k) states[r + 1][k] = states[r][k];
      if (from + r >= rows) continue;
      A b[K];
      shared.b.read(lane, p.in.b, first, from + r, work.group * N, b);
      scan_step(lane, rates, shared.dt(from + r, lane.channel), shared.du(from + r, lane.channel), b, states[r + 1], decays[r]);
    }
#pragma unroll
    for (int r = Q - 1; r >= 0; --r)
      if (from + r < rows) row_backward(lane, from + r, r, a, states[r], states[r + 1], decays[r], l, d_a);
  }
  /// What the rows of a strip write.
  __device__ void after(int from, int block, A (&ends)[2]) const {
    int const to = from + Q < rows ? from + Q : rows;
    for (int e = static_cast<int>(threadIdx.x); e < (to - from) * shape::sums; e += shape::threads) {
      int const r = e / shape::sums, column = e % shape::sums;
      A sum = shared.by_warp(r, column);
      for (int w = 1; w < shape::warps; ++w) sum += shared.by_warp(w * Q + r, column);
      scratch.by_block.row(index_t{block} * p.in.tokens() + first + from + r)[column] = sum;
    }
    each(from, to, [&](int row, int c, int channel) {
      int const r = row - from;
      A const u = at(p.in.u, row, channel), d_y = shared.d_y(row, c), through_b = shared.through(r, c);
      A d_u = product(shared.dt(row, c), through_b), d_delta = madd(through_b, u, shared.through(Q + r, c)), y = shared.through(2 * Q + r, c);
      if constexpr (Softplus)
        d_delta = product(d_delta, softplus_slope_scalar(scan_biased(at(p.in.delta, row, channel), scan_optional(p.in.delta_bias, channel))));
      if (p.in.skip.data() != nullptr) d_u = madd(p.in.skip.data()[channel], d_y, d_u), y = madd(p.in.skip.data()[channel], u, y);
      if (p.in.z.data() != nullptr) {
        A const z = at(p.in.z, row, channel), gate = sigmoid_scalar(z), slope = product(gate, madd(z, A(1) - gate, A(1)));
        p.g.d_z.row(first + row)[channel] = T(product(product(at(p.d_out, row, channel), slope), y));
      }
      p.g.d_u.row(first + row)[channel] = T(d_u);
      p.g.d_delta.row(first + row)[channel] = T(d_delta);
      ends[0] = madd(d_y, u, ends[0]);
      ends[1] += d_delta;
    });
  }
  __device__ void run(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A const* a, bool has, int block, A* l, A (&ends)[2]) const {
    int const channel = work.channel + lane.channel;
    A h[K], d_a[K] = {};
    before();
    first_states(lane, has, channel, h);
    __syncthreads();
    edges(lane, rates, h);
    for (int from = (rows - 1) / Q * Q; from >= 0; from -= Q) {
      if (from == 0) first_states(lane, has, channel, h);
      else
#pragma unroll
        for (int k = 0; k < K; ++k) h[k] = shared.edge(from / Q * K - K + k, static_cast<int>(threadIdx.x));
      strip(lane, rates, a, from, h, l, d_a);
      __syncthreads();
      after(from, block, ends);
      __syncthreads();  // the next strip writes where this one's sums were read
    }
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (has && lane.has(k)) scratch.d_a.row(work.s * N + lane.state(k))[channel] += d_a[k];
  }
};

/// d_skip and d_delta_bias of a sequence: the sums of the threads of a channel, in ascending order.
template <int N, class T>
__device__ void scan_store_sums(scan_device_scratch<N, accumulator<T>> const& scratch, scan_work const& work,
                                typename scan_backward_shape<N, accumulator<T>>::layout& shared, accumulator<T> const (&ends)[2]) {
  using shape = scan_backward_shape<N, accumulator<T>>;
  int const thread = static_cast<int>(threadIdx.x), c = thread % shape::channels;
  __syncthreads();
  shared.dt(thread / shape::channels, c) = ends[0], shared.du(thread / shape::channels, c) = ends[1];
  __syncthreads();
  for (int i = 0; i < 2 && thread < work.channels; ++i) {
    auto& sums = i == 0 ? shared.dt : shared.du;
    accumulator<T> sum = sums(0, c);
    for (int j = 1; j < shape::threads / shape::channels; ++j) sum += sums(j, c);
    scratch.ends.row(work.s * 2 + i)[work.channel + c] = sum;
  }
  __syncthreads();
}

template <int N, bool Softplus, class T>
__global__ void __launch_bounds__(scan_backward_shape<N, accumulator<T>>::threads, sizeof(accumulator<T>) == 4 ? 2 : 1)
    scan_backward_kernel(scan_backward_problem<T> p, scan_device_scratch<N, accumulator<T>> scratch, index_t groups, index_t items) {
  using A = accumulator<T>;
  using shape = scan_backward_shape<N, A>;
  auto& shared = ptx::dynamic_shared<typename shape::layout>();
  scan_lane<N> const lane;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    scan_work const work(p.sequences, p.in.channels(), groups, shape::channels, item);
    bool const has = lane.channel < work.channels;
    int const channel = work.channel + lane.channel, block = static_cast<int>(item % (items / p.sequences.count));
    scan_rates<N, A> const rates(lane, p.in.a, channel, has);
    A a[shape::split::states], ends[2] = {};
#pragma unroll
    for (int k = 0; k < shape::split::states; ++k) a[k] = has && lane.has(k) ? p.in.a.row(channel)[lane.state(k)] : A(0);
    A l[shape::split::states];
    scan_load_states(lane, p.d_final_state, work.s, channel, has, l);
#pragma unroll
    for (int k = 0; k < shape::split::states; ++k)
      if (has && lane.has(k)) scratch.d_a.row(work.s * N + lane.state(k))[channel] = 0;
    for (index_t number = (work.rows + shape::rows - 1) / shape::rows - 1; number >= 0; --number) {
      index_t const begin = number * shape::rows, left = work.rows - begin;
      int const rows = static_cast<int>(left < shape::rows ? left : shape::rows);
      scan_backward_chunk<N, Softplus, T> const chunk{p, scratch, work, shared, number, work.first_row + begin, rows};
      chunk.run(lane, rates, a, has, block, l, ends);
    }
    scan_store_states(lane, l, p.d_initial_state, work.s, channel, has);
    scan_store_sums<N, T>(scratch, work, shared, ends);
  }
}

/// d_b and d_c of one row: what the blocks of the group left, in ascending order.
template <int N, class T>
struct scan_add_blocks {
  using A = accumulator<T>;
  using shape = scan_backward_shape<N, A>;
  matrix_view<A const> by_block;
  matrix_view<T> d_b, d_c;
  index_t per_group;
  __device__ void operator()(index_t t, index_t column) const {
    constexpr int K = shape::split::states;
    index_t const tokens = d_b.template extent<0>(), group = column / (2 * N);
    int const i = static_cast<int>(column - group * (2 * N)), n = i % N, at = n / K * 2 * K + (i < N ? 0 : K) + n % K;
    A sum = 0;
#pragma unroll 4
    for (index_t block = group * per_group; block < (group + 1) * per_group; ++block) sum += by_block.row(block * tokens + t)[at];
    (i < N ? d_b : d_c).row(t)[group * N + n] = T(sum);
  }
};
/// Adds the sums of the sequences, one after the other: row n < N of d_a, then d_skip and d_delta_bias.
template <int N, class T>
struct scan_add_sequences {
  using A = accumulator<T>;
  matrix_view<A const> d_a, ends;
  selective_scan_gradients<T> g;
  index_t sequences;
  __device__ void operator()(index_t n, index_t c) const {
    auto const& to_end = n == N ? g.d_skip : g.d_delta_bias;
    if (n >= N && to_end.data() == nullptr) return;
    A& to = n < N ? g.d_a.row(c)[n] : to_end.data()[c];
    A sum = to;
#pragma unroll 4
    for (index_t s = 0; s < sequences; ++s) sum += n < N ? d_a.row(s * N + n)[c] : ends.row(s * 2 + n - N)[c];
    to = sum;
  }
};

}  // namespace moe::inline MOE_ISA::detail
