#pragma once
#include <moe/core/elements.cuh>
#include <moe/core/ptx.cuh>
#include <moe/nn/activation.cuh>
#include <moe/ssm/detail/scan_math.hpp>
#include <moe/ssm/selective_scan_operands.hpp>

// The scan on CUDA: a block has neighbouring channels of one sequence and goes down its rows, the states in registers. A few lanes of a warp share a
// channel, each with some of its states: lane l has channel l mod (32 / parts) of the warp, and part l / (32 / parts).
namespace moe::inline MOE_ISA::detail {

constexpr int scan_parts_for(int states) {
  int parts = 1;
  while (parts < 32 && 4 * parts < states) parts *= 2;
  return parts;
}
/// How N states are spread: `states` of each lane, `parts` lanes of a channel, `channels` of a warp.
template <int N>
struct scan_split {
  static constexpr int parts = scan_parts_for(N), states = (N + parts - 1) / parts, channels = 32 / parts;
  static constexpr bool full = parts * states == N;
};
template <int N>
struct scan_lane {
  using split = scan_split<N>;
  int part, in_warp, channel;  // channel: of the block
  __device__ scan_lane() {
    int const thread = static_cast<int>(threadIdx.x), lane = thread % lanes;
    part = lane / split::channels, in_warp = lane % split::channels, channel = thread / lanes * split::channels + in_warp;
  }
  __device__ int state(int k) const { return part * split::states + k; }
  __device__ bool has(int k) const { return split::full || state(k) < N; }
};

/// The channels of a block, of one group, and its sequence.
struct scan_work {
  index_t s, first_row, rows;
  int group, channel, channels;  // as int, for the registers of the backward: nobody has 2^31 channels
  __device__ scan_work(sequence_rows const& sequences, index_t all, index_t groups, index_t width, index_t item) {
    index_t const each = all / groups, per_group = (each + width - 1) / width, b = item % (groups * per_group), offset = b % per_group * width;
    s = item / (groups * per_group), first_row = sequences.first(s), rows = sequences.first(s + 1) - first_row;
    group = static_cast<int>(b / per_group), channel = static_cast<int>(group * each + offset);
    channels = static_cast<int>(each - offset < width ? each - offset : width);
  }
};
/// Blocks of `width` channels.
inline index_t scan_channel_blocks(index_t channels, index_t groups, index_t width) { return groups * chunks(channels / groups, width); }

/// exp2_scalar where |x| <= 125.
__device__ inline float exp2_near(float x) {
  float const t = x + rounding_magic, r = x - (t - rounding_magic);
  float p = madd(exp2_fifth, r, exp2_fourth);
  p = madd(p, r, exp2_third);
  p = madd(p, r, exp2_second);
  p = madd(p, r, exp2_first);
  p = madd(p, r, 1.0f);
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, p) + (__builtin_bit_cast(std::uint32_t, t) << 23));
}

/// The decay rates of a lane's states.
template <int N, class A>
struct scan_rates {
  static constexpr int K = scan_split<N>::states;
  A rate[K];
  A bound = 0;  // of their sizes; infinite where one is not a number
  __device__ scan_rates(scan_lane<N> const& lane, matrix_view<A const> const& a, index_t channel, bool has) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      rate[k] = has && lane.has(k) ? scan_rate(a.row(channel)[lane.state(k)]) : A(0);
      A const size = rate[k] < 0 ? -rate[k] : rate[k];
      if (!(size <= bound)) bound = size == size ? size : A(__builtin_inff());
    }
  }
  /// Whether the decays of this step, in float, are far from the ends of the numbers: then exp2_near will do.
  __device__ bool near(A dt) const { return product(dt < 0 ? -dt : dt, bound) <= 125; }
  template <bool Near>
  __device__ A decay(int k, A dt) const {
    if constexpr (Near) return exp2_near(product(dt, rate[k]));
    else return decay_scalar(dt, rate[k]);
  }
};

/// h moves on by one row; the decays where they are wanted.
template <bool Near, int N, class A>
__device__ void scan_step_as(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A dt, A du, A const* b, A* h, A* decays) {
#pragma unroll
  for (int k = 0; k < scan_split<N>::states; ++k) {
    if (!lane.has(k)) continue;
    A const decay = rates.template decay<Near>(k, dt);
    h[k] = madd(decay, h[k], product(du, b[k]));
    if (decays != nullptr) decays[k] = decay;
  }
}
template <int N, class A>
__device__ void scan_step(scan_lane<N> const& lane, scan_rates<N, A> const& rates, A dt, A du, A const* b, A* h, A* decays) {
  if constexpr (std::is_same_v<A, float>)
    if (rates.near(dt)) return scan_step_as<true>(lane, rates, dt, du, b, h, decays);
  scan_step_as<false>(lane, rates, dt, du, b, h, decays);
}

/// The rows of b or c that a tile needs: in shared memory where they fit, else where they are.
template <int Rows, int N, class A>
struct scan_shared_rows {
  static constexpr bool staged = Rows * N * static_cast<int>(sizeof(A)) <= 16 * 1024;
  ptx::shared_matrix<A, staged ? Rows : 1, staged ? N : 1> m;

  /// All threads of the block; a barrier must follow.
  template <class T>
  __device__ void fetch(matrix_view<T const> const& from, index_t first_row, int rows, index_t column, int threads) {
    if constexpr (staged)
      for (int e = static_cast<int>(threadIdx.x); e < rows * N; e += threads)
        m(e / N, e % N) = static_cast<A>(from.row(first_row + e / N)[column + e % N]);
  }
  /// The lane's states of a row.
  template <class T>
  __device__ void read(scan_lane<N> const& lane, matrix_view<T const> const& from, index_t first_row, int row, index_t column, A* to) {
#pragma unroll
    for (int k = 0; k < scan_split<N>::states; ++k) {
      to[k] = 0;
      if (!lane.has(k)) continue;
      if constexpr (staged) to[k] = m(row, lane.state(k));
      else to[k] = static_cast<A>(from.row(first_row + row)[column + lane.state(k)]);
    }
  }
};

/// The lane's states of a channel, before the first or after the last row of a sequence. No data: zeros.
template <int N, class A>
__device__ void scan_load_states(scan_lane<N> const& lane, scan_states<A const> const& states, index_t s, index_t channel, bool has, A* h) {
#pragma unroll
  for (int k = 0; k < scan_split<N>::states; ++k) h[k] = has && lane.has(k) && states.data() != nullptr ? states(s, channel, lane.state(k)) : A(0);
}
template <int N, class A>
__device__ void scan_store_states(scan_lane<N> const& lane, A const* h, scan_states<A> const& states, index_t s, index_t channel, bool has) {
  if (!has || states.data() == nullptr) return;
#pragma unroll
  for (int k = 0; k < scan_split<N>::states; ++k)
    if (lane.has(k)) states(s, channel, lane.state(k)) = h[k];
}
/// Where the states before a chunk stand: a row per state.
template <class T>
__device__ index_t scan_checkpoint_row(sequence_rows const& sequences, index_t s, index_t chunk, int d_state) {
  return selective_scan_checkpoints<T>::slot(sequences, s, chunk) * d_state;
}

/// delta + delta_bias. As a fused operation: nvcc makes other code of the sum with -fmad=true, for what it selects the bias by.
template <class A>
__device__ A scan_biased(A delta, A bias) {
  return madd(A(1), bias, delta);
}
__device__ inline float scan_softplus(float x) { return softplus_scalar(x); }
/// ln(1 + e^x), x itself above 20: by 2 atanh(t / (2 + t)), t = e^-|x|, within 2e-16. The toolkit's log1p leaves its bits to -fmad.
__device__ inline double scan_softplus(double x) {
  double const t = exp_scalar(x > 0 ? -x : x), s = t / (2.0 + t), w = product(s, s), twice = s + s;
  double r = 0;
#pragma unroll
  for (int j = 16; j > 0; --j) r = madd(r, w, 1.0 / (2 * j + 1));
  return x > 20 ? x : (x > 0 ? x : 0.0) + madd(twice, product(r, w), twice);
}
/// dt.
template <bool Softplus, class A>
__device__ A scan_time_step(A delta, A bias) {
  A const x = scan_biased(delta, bias);
  if constexpr (Softplus) return scan_softplus(x);
  else return x;
}
/// The gate of an output: every product of these kernels is rounded on its own.
template <class A>
__device__ A scan_gate(A z) {
  return product(z, sigmoid_scalar(z));
}
/// Element i of a vector that may be absent.
template <class A>
__device__ A scan_optional(vector_view<A const> const& v, index_t i) {
  return v.data() != nullptr ? v.data()[i] : A(0);
}

}  // namespace moe::inline MOE_ISA::detail
