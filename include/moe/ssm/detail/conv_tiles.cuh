#pragma once
#include <moe/core/vectors.cuh>
#include <moe/nn/activation.cuh>
#include <moe/ssm/detail/conv_tiles.hpp>

// causal_conv1d on CUDA: a thread has a few neighbouring channels and a tile of rows of one sequence, which it goes down with the window of the taps
// in registers. Neighbouring threads have neighbouring channels. No thread waits for another.
namespace moe::inline MOE_ISA::detail {

inline constexpr int conv_window_width = 8;  ///< taps up to which the window fits the registers
inline constexpr int conv_ahead = 4;         ///< rows that are fetched before the first of them is used

/// Channels of a thread: as many as fill 16 bytes, fewer where the weights in registers would take more than 64 bytes.
template <class T>
constexpr int conv_fitting_lanes(int width) {
  int n = pack_size<T>;
  while (n > 1 && n * width * static_cast<int>(sizeof(accumulator<T>)) > 64) n /= 2;
  return n;
}
template <class T, int W>
inline constexpr int conv_lanes = conv_fitting_lanes<T>(W);  // a constant: the function is the host's alone

/// N neighbouring elements, fetched at once where the address allows it.
template <int N, class T>
struct alignas(N * sizeof(T)) conv_vector {
  T v[N];
};
template <int N, class T>
__device__ pack<accumulator<T>, N> conv_load(T const* p, index_t n) {
  using vector = conv_vector<N, T>;
  pack<accumulator<T>, N> r;
  if (n >= N && reinterpret_cast<std::uintptr_t>(p) % sizeof(vector) == 0) {
    vector const x = *reinterpret_cast<vector const*>(p);
#pragma unroll
    for (int i = 0; i < N; ++i) r.v[i] = static_cast<accumulator<T>>(x.v[i]);
    return r;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) r.v[i] = i < n ? static_cast<accumulator<T>>(p[i]) : accumulator<T>(0);
  return r;
}
template <int N, class T>
__device__ void conv_store(T* p, pack<accumulator<T>, N> const& r, index_t n) {
  using vector = conv_vector<N, T>;
  if (n >= N && reinterpret_cast<std::uintptr_t>(p) % sizeof(vector) == 0) {
    vector x;
#pragma unroll
    for (int i = 0; i < N; ++i) x.v[i] = T(r.v[i]);
    *reinterpret_cast<vector*>(p) = x;
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < n) p[i] = T(r.v[i]);
}

inline constexpr int conv_threads = 128;

/// f(tile, number of the tile, first channel) for all tiles by N channels. F::blocks is how many blocks an SM is to hold at least: it bounds the
/// registers of a thread, which the compiler would else spill for more blocks.
template <int W, int N, class F>
__global__ void __launch_bounds__(conv_threads, F::blocks) conv_tiles_kernel(index_t tiles, index_t packs, sequence_rows sequences, F f) {
  index_t const of_tile = (packs + conv_threads - 1) / conv_threads;
  for (index_t b = blockIdx.x; b < tiles * of_tile; b += gridDim.x) {
    index_t const i = b / of_tile, p = (b - i * of_tile) * conv_threads + threadIdx.x;
    sequence_tile const tile = tile_of(sequences, i, conv_chunk<W>);
    if (p < packs && !tile.empty()) f(tile, i, p * N);
  }
}
template <int N, int W, class T, class F>
void for_each_conv_tile(char const* name, cuda const& space, conv_operands<W, T> const& o, F const& f) {
  if (o.sequences.count == 0) return;
  index_t const tiles = sequence_tiles(o.x.template extent<0>(), o.sequences.count, conv_chunk<W>), packs = chunks(o.x.template extent<1>(), N);
  launch(name, conv_tiles_kernel<W, N, F>, {.blocks = tiles * chunks(packs, conv_threads), .threads = conv_threads}, space, tiles, packs, o.sequences,
         f);
}

/// Weights and bias of N channels in registers.
template <int N, int W, class T>
struct conv_thread_weights {
  using A = accumulator<T>;
  pack<A, N> tap[W], bias;
  __device__ conv_thread_weights(conv_operands<W, T> const& o, index_t c, index_t n) {
    constexpr int size = pack_size<T>, all = N * W;
    if (all % size == 0 && o.weight.row_stride() == W) {  // as one piece: a load per tap and channel would take longer than the rows do
      constexpr int padded = (all + size - 1) / size * size;
      auto const flat = load_pack<padded>(o.weight.data() + c * W, n * W);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int k = 0; k < W; ++k) tap[k].v[i] = flat.v[i * W + k];
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int k = 0; k < W; ++k) tap[k].v[i] = i < n ? static_cast<A>(o.weight.row(c + i)[k]) : A(0);
    }
    bias = conv_load<N>(o.bias != nullptr ? o.bias + c : nullptr, o.bias != nullptr ? n : 0);
  }
  /// s of channel i; in[k] is what tap k looks at.
  __device__ A sum(pack<A, N> const* in, int i) const {
    A s = bias.v[i];
#pragma unroll
    for (int k = 0; k < W; ++k) s = madd(tap[k].v[i], in[k].v[i], s);
    return s;
  }
};

/// Row p of a sequence, or of the state before it; zeros where there is none.
template <int N, int W, class T>
__device__ pack<accumulator<T>, N> conv_input(conv_operands<W, T> const& o, sequence_tile const& tile, index_t p, index_t c, index_t n) {
  if (p < tile.rows && p >= 0) return conv_load<N>(o.x.row(tile.first + p) + c, n);
  bool const there = p < 0 && o.initial_state.data() != nullptr;
  return conv_load<N>(there ? o.initial_state.row((tile.s + 1) * (W - 1) + p) + c : nullptr, there ? n : 0);
}

/// Writes the final state; ascending, because it may be the initial state, which no other thread reads.
template <int N, int W, class T>
__device__ void conv_write_state(conv_operands<W, T> const& o, sequence_tile const& tile, tensor<T, dyn, dyn, dyn> const& state, index_t c,
                                 index_t n) {
  if (!tile.leads() || state.data() == nullptr) return;
  for (index_t j = 0; j < W - 1; ++j) conv_store<N>(state.row(tile.s * (W - 1) + j) + c, conv_input<N>(o, tile, tile.rows - (W - 1) + j, c, n), n);
}

template <bool Silu, int W, class T>
struct conv_forward_thread {
  using A = accumulator<T>;
  static constexpr int blocks = 4;
  conv_operands<W, T> o;
  tensor<T, dyn, dyn> y;
  tensor<T, dyn, dyn, dyn> final_state;

  __device__ void operator()(sequence_tile const& tile, index_t, index_t c) const {
    constexpr int N = conv_lanes<T, W>, R = conv_ahead;
    index_t const n = y.template extent<1>() - c;
    conv_thread_weights<N, W, T> const w(o, c, n);
    pack<A, N> in[W - 1 + R];
#pragma unroll
    for (int j = 0; j < W - 1; ++j) in[j] = conv_input<N>(o, tile, tile.begin - (W - 1) + j, c, n);
    for (index_t t = tile.begin; t < tile.end; t += R) {
#pragma unroll
      for (int r = 0; r < R; ++r) in[W - 1 + r] = conv_load<N>(o.x.row(tile.first + t + r) + c, t + r < tile.end ? n : 0);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (t + r >= tile.end) break;
        pack<A, N> s;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          s.v[i] = w.sum(in + r, i);
          if constexpr (Silu) s.v[i] = silu_scalar<A>::value(s.v[i]);
        }
        conv_store<N>(y.row(tile.first + t + r) + c, s, n);
      }
#pragma unroll
      for (int j = 0; j < W - 1; ++j) in[j] = in[j + R];
    }
    conv_write_state<N>(o, tile, final_state, c, n);
  }
};

/// d_x of a row, or d_initial_state: where it starts and where it goes.
template <int N, int W, class T>
struct conv_gradient_place {
  conv_gradients<T> g;
  sequence_tile tile;
  index_t c, n;
  __device__ pack<accumulator<T>, N> start(index_t p) const {
    index_t const j = p - (tile.rows - (W - 1));  // of the final state
    bool const there = j >= 0 && p < tile.rows && g.d_final_state.data() != nullptr;
    return conv_load<N>(there ? g.d_final_state.row(tile.s * (W - 1) + j) + c : nullptr, there ? n : 0);
  }
  __device__ void store(index_t p, pack<accumulator<T>, N> const& d) const {
    if (p >= tile.begin && p < tile.end) conv_store<N>(g.d_x.row(tile.first + p) + c, d, n);
    else if (p < 0 && g.d_initial_state.data() != nullptr) conv_store<N>(g.d_initial_state.row((tile.s + 1) * (W - 1) + p) + c, d, n);
  }
};

template <bool Silu, int W, class T>
struct conv_backward_thread {
  using A = accumulator<T>;
  static constexpr int blocks = 3;
  static constexpr int N = conv_lanes<T, W>, R = conv_ahead;
  conv_operands<W, T> o;
  conv_gradients<T> gradients;
  tensor<A, dyn, dyn> partials;

  /// Row t: g from d_y, which g[W - 1] holds; its part of the sums over rows; d_x of row t - (W - 1).
  __device__ static void row(conv_gradient_place<N, W, T> const& to, conv_thread_weights<N, W, T> const& w, index_t t, pack<A, N> const* in,
                             pack<A, N>* g, pack<A, N> (&sums)[W + 1]) {
    pack<A, N> d = to.start(t - (W - 1));
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (Silu) g[W - 1].v[i] = product(g[W - 1].v[i], silu_scalar<A>::derivative(w.sum(in, i)));
      if (t < to.tile.end) {
#pragma unroll
        for (int k = 0; k < W; ++k) sums[k].v[i] = madd(g[W - 1].v[i], in[k].v[i], sums[k].v[i]);
        sums[W].v[i] += g[W - 1].v[i];
      }
#pragma unroll
      for (int k = W - 1; k >= 0; --k) d.v[i] = madd(w.tap[k].v[i], g[W - 1 - k].v[i], d.v[i]);
    }
    to.store(t - (W - 1), d);
  }
  __device__ void operator()(sequence_tile const& tile, index_t number, index_t c) const {
    index_t const n = o.x.template extent<1>() - c, end = tile.end + W - 1;  // the rows behind the tile complete the gradients of its last rows
    conv_thread_weights<N, W, T> const w(o, c, n);
    conv_gradient_place<N, W, T> const to{gradients, tile, c, n};
    pack<A, N> in[W - 1 + R], g[W - 1 + R]{}, sums[W + 1]{};
#pragma unroll
    for (int j = 0; j < W - 1; ++j) in[j] = conv_input<N>(o, tile, tile.begin - (W - 1) + j, c, n);
    for (index_t t = tile.begin; t < end; t += R) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        index_t const wanted = t + r < tile.rows && t + r < end ? n : 0;
        in[W - 1 + r] = conv_load<N>(o.x.row(tile.first + t + r) + c, wanted);
        g[W - 1 + r] = conv_load<N>(gradients.d_y.row(tile.first + t + r) + c, wanted);
      }
#pragma unroll
      for (int r = 0; r < R; ++r)
        if (t + r < end) row(to, w, t + r, in + r, g + r, sums);
#pragma unroll
      for (int j = 0; j < W - 1; ++j) in[j] = in[j + R], g[j] = g[j + R];
    }
#pragma unroll
    for (int k = 0; k <= W; ++k) conv_store<N>(partials.row(number * (W + 1) + k) + c, sums[k], n);
  }
};

/// Adds the partial sums of tap k (W: the bias): those of a sequence first, then one sequence after the other.
template <int W, class A>
struct conv_add_partials_thread {
  sequence_rows sequences;
  tensor<A, dyn, dyn> partials;
  tensor<A, dyn, W> d_weight;
  tensor<A, dyn> d_bias;
  __device__ void operator()(index_t k, index_t c) const {
    if (k == W && d_bias.data() == nullptr) return;
    A& to = k < W ? d_weight.row(c)[k] : d_bias.data()[c];
    A total = to;
    for (index_t s = 0; s < sequences.count; ++s) {
      index_t const first = first_tile(sequences, s, conv_chunk<W>), end = first + (sequences.rows(s) + conv_chunk<W> - 1) / conv_chunk<W>;
      if (first == end) continue;
      A sum = partials(first * (W + 1) + k, c);
#pragma unroll 4
      for (index_t i = first + 1; i < end; ++i) sum += partials(i * (W + 1) + k, c);
      total += sum;
    }
    to = total;
  }
};

}  // namespace moe::inline MOE_ISA::detail
