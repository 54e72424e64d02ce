#pragma once
#include <moe/core/detail/streaming.hpp>
#include <moe/nn/detail/vectors.hpp>
#include <moe/ssm/detail/sequence_tiles.hpp>

// How causal_conv1d goes over its operands on the CPU: a tile of rows of one sequence by a block of channels at a time. A few rows are formed
// together, so that one load of a row serves several of the outputs that look at it; channels lie in the lanes of vectors. Memory is read in rows of
// a block, long enough for the prefetchers of the hardware; walking down the rows of one vector of channels, with the window in registers, is not.
namespace moe::inline MOE_ISA::detail {

/// Channels of a block: their weights take half of L1, or one vector of channels.
template <class A>
constexpr index_t conv_block(int width) {
  index_t const fitting = 16384 / (width * static_cast<index_t>(sizeof(A))) / simd<A>::width * simd<A>::width;
  return fitting < simd<A>::width ? simd<A>::width : fitting > 1024 ? 1024 : fitting;
}
inline constexpr int conv_rows = 4;  ///< that are formed together

template <class T>
inline constexpr T conv_zeros[1024] = {};

/// Weights and bias of a block of channels, a row per tap.
template <int W, class T>
struct conv_weights {
  using A = accumulator<T>;
  alignas(64) A tap[W][static_cast<std::size_t>(conv_block<A>(W))];
  alignas(64) A bias[static_cast<std::size_t>(conv_block<A>(W))];

  conv_weights(tensor<T const, dyn, W> const& weight, T const* from, index_t first, index_t n) {
    for (index_t c = 0; c < n; ++c)
      for (int k = 0; k < W; ++k) tap[k][c] = A(weight.row(first + c)[k]);
    for (index_t c = 0; c < n; ++c) bias[c] = from != nullptr ? A(from[first + c]) : A(0);
  }
};

/// s of R rows: in[r + k] is what tap k of row r looks at.
template <int R, int W, class T, class N>
MOE_INLINE void conv_sums(T const* const* in, conv_weights<W, T> const& w, index_t c, N n, simd<accumulator<T>> (&s)[R]) {
  using V = simd<accumulator<T>>;
  MOE_UNROLL(8)
  for (int r = 0; r < R; ++r) s[r] = V::load(w.bias + c);
  MOE_UNROLL(8)
  for (int k = 0; k < W; ++k) {
    V const tap = V::load(w.tap[k] + c);
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) s[r] = madd(tap, V::load(in[r + k] + c, n), s[r]);
  }
}

template <bool Stream, class T, class N>
MOE_INLINE void conv_store(simd<accumulator<T>> v, T* p, N n) {
  if constexpr (!Stream) {
    v.store(p, n);
  } else if constexpr (std::is_same_v<T, bf16>) {
    halves h;
    v.store(reinterpret_cast<bf16*>(&h));
    stream(h, p);
  } else {
    stream(v.v, p);
  }
}

/// Fetches the vectors at c of the next R rows. In bf16 alone, where it saves a sixth: rows of float are long enough for the prefetchers, and fetched
/// twice they push each other out of L1.
template <int R, class T>
MOE_INLINE void conv_fetch(T const* const* rows, index_t c) {
  if constexpr (sizeof(T) > 2) return;
  MOE_UNROLL(8)
  for (int r = 0; r < R; ++r) __builtin_prefetch(rows[r] + c);
}

/// y of R rows. in[R + W - 1] and the R - 1 pointers behind it are what is fetched meanwhile.
template <bool Silu, bool Stream, int R, int W, class T>
void conv_forward_rows(T const* const* in, conv_weights<W, T> const& w, T* const* y, index_t channels) {
  using A = accumulator<T>;
  using V = simd<A>;
  row_vectors<A>(channels, [&](index_t c, auto n) {
    V s[R];
    conv_fetch<R>(in + R + W - 1, c);
    conv_sums(in, w, c, n, s);
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) conv_store<Stream>(Silu ? s[r] * sigmoid(s[r]) : s[r], y[r] + c, n);
  });
}

/// What the backward carries from rows to the rows that follow, for a block of channels: g of the last W - 1 rows, and the sums over rows.
template <int W, class A>
struct conv_carry {
  static constexpr int before = W > 1 ? W - 1 : 1;
  alignas(64) A g[before][static_cast<std::size_t>(conv_block<A>(W))];
  A* sums[W + 1];  ///< of the gradients of the taps and of the bias
};

/// Adds what R rows give to the sums over rows, in ascending order.
template <int R, int W, class T, class A, class N>
MOE_INLINE void conv_add_sums(T const* const* in, simd<A> const (&g)[W - 1 + R], conv_carry<W, A>& carry, index_t c, N n) {
  using V = simd<A>;
  MOE_UNROLL(8)
  for (int k = 0; k < W; ++k) {
    V sum = V::load(carry.sums[k] + c, n);
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) sum = madd(g[W - 1 + r], V::load(in[r + k] + c, n), sum);
    sum.store(carry.sums[k] + c, n);
  }
  V sum = V::load(carry.sums[W] + c, n);
  MOE_UNROLL(8)
  for (int r = 0; r < R; ++r) sum = sum + g[W - 1 + r];
  sum.store(carry.sums[W] + c, n);
}

/// g of R rows, their part of the sums over rows, and d_x of the R rows that lie W - 1 rows earlier.
///   in, d_y  what the taps look at, as in the forward, and d_y of the rows; of both, as much again is fetched
///   start    what d_x of those rows starts from, or null: zeros
template <bool Silu, bool Stream, bool Sum, int R, int W, class T>
void conv_backward_rows(T const* const* in, T const* const* d_y, T const* const* start, T* const* d_x, conv_weights<W, T> const& w,
                        conv_carry<W, accumulator<T>>& carry, index_t channels) {
  using A = accumulator<T>;
  using V = simd<A>;
  row_vectors<A>(channels, [&](index_t c, auto n) {
    V s[R], g[W - 1 + R], d[R];
    conv_fetch<R>(in + R + W - 1, c);
    conv_fetch<R>(d_y + R, c);
    conv_sums(in, w, c, n, s);
    MOE_UNROLL(8)
    for (int j = 0; j < W - 1; ++j) g[j] = V::load(carry.g[j] + c);
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      V const one = V::all(A(1)), v = V::load(d_y[r] + c, n), gate = Silu ? sigmoid(s[r]) : one;
      g[W - 1 + r] = Silu ? v * (gate * madd(s[r], one - gate, one)) : v;
    }
    if constexpr (Sum) conv_add_sums<R>(in, g, carry, c, n);
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) d[r] = start != nullptr ? V::load(start[r] + c, n) : V::zero();
    MOE_UNROLL(8)
    for (int k = W - 1; k >= 0; --k) {
      V const tap = V::load(w.tap[k] + c);
      MOE_UNROLL(8)
      for (int r = 0; r < R; ++r) d[r] = madd(tap, g[r + W - 1 - k], d[r]);
    }
    MOE_UNROLL(8)
    for (int r = 0; r < R; ++r) conv_store<Stream>(d[r], d_x[r] + c, n);
    MOE_UNROLL(8)
    for (int j = 0; j < W - 1; ++j) g[j + R].store(carry.g[j] + c);
  });
}

}  // namespace moe::inline MOE_ISA::detail
