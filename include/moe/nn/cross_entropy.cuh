#pragma once
#include <moe/core/block.cuh>
#include <moe/core/vectors.cuh>
#include <moe/gemm/gemm.cuh>
#include <moe/nn/cross_entropy.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// Tokens whose logits exist at a time: enough tiles for a large GPU in d_x, the smallest of the three products. No result depends on it.
inline constexpr index_t cuda_cross_entropy_chunk = 1024;
inline constexpr int cross_entropy_threads = 256;

/// Device memory of a call. Rows of logits start at multiples of 16 bytes, and so do their gradients, which take the place of the logits or, where
/// they are rounded, have one of their own.
template <class T>
struct cuda_cross_entropy_scratch {
  using A = accumulator<T>;
  index_t stride;
  matrix_view<A> padded;     // [chunk, stride]
  vector_view<double> nats;  // [tokens]
  vector_view<A> scale;      // [1]  of the gradients, divided by the number of targets if the config says so
  matrix_view<T> gradients;  // [chunk, stride]
  cuda_cross_entropy_scratch(arena& a, index_t tokens, index_t vocab)
      : stride(packs<T>(vocab) * pack_size<T>), padded(a.mat<A>(std::min(tokens, cuda_cross_entropy_chunk), stride)), nats(a.vec<double>(tokens)),
        scale(a.vec<A>(1)) {
    if constexpr (std::is_same_v<A, T>) gradients = padded;
    else gradients = a.mat<T>(std::min(tokens, cuda_cross_entropy_chunk), stride);
  }
  matrix_view<A> logits(index_t tokens, index_t vocab) const { return mat(padded.data(), tokens, vocab).with_row_stride(stride); }
  matrix_view<T> d_logits(index_t tokens, index_t vocab) const { return mat(gradients.data(), tokens, vocab).with_row_stride(stride); }
};

/// loss(1) = number of targets that are not negative; factor = scale, divided by that number (at least 1) if Mean. One block.
template <bool Mean, class A>
__global__ void __launch_bounds__(cross_entropy_threads)
    count_targets_kernel(tensor<int const, dyn> target, A scale, tensor<double, 2> loss, tensor<A, dyn> factor) {
  index_t mine = 0;
  for (index_t t = threadIdx.x; t < target.extent<0>(); t += cross_entropy_threads) mine += target(t) >= 0;
  auto& partials = ptx::dynamic_shared<warp_partials<index_t, cross_entropy_threads>>();
  auto const count = static_cast<double>(block_sum<cross_entropy_threads>(mine, partials));
  if (threadIdx.x != 0) return;
  loss(1) = count;
  factor(0) = Mean ? static_cast<A>(static_cast<double>(scale) / (count > 1.0 ? count : 1.0)) : scale;
}

/// loss(0) = the sum of nats, t ascending. For one warp: its lanes read ahead, and all of them form the one chain of sums.
struct nats_to_loss {
  tensor<double const, dyn> nats;
  tensor<double, 2> loss;
  __device__ void operator()(index_t, int lane) const {
    index_t const tokens = nats.extent<0>();
    double total = 0;
    for (index_t first = 0; first < tokens; first += lanes) {
      double const mine = first + lane < tokens ? nats(first + lane) : 0.0;
      int const count = tokens - first < lanes ? static_cast<int>(tokens - first) : lanes;
      for (int i = 0; i < count; ++i) total += __shfl_sync(0xffffffffu, mine, i);
    }
    if (lane == 0) loss(0) = total;
  }
};

template <class A>
struct softmax_layout {
  warp_partials<A, cross_entropy_threads> top, sum;
};

/// Calls f(c, n) for the runs of a row that belong to this thread of the block, 16 bytes of type T long: n <= pack_size elements from column c on.
template <class T, class F>
__device__ void row_packs(index_t columns, F const& f) {
  constexpr index_t N = pack_size<T>;
  for (index_t c = threadIdx.x * N; c < columns; c += N * cross_entropy_threads) f(c, columns - c < N ? columns - c : N);
}
// What is done with such a run.
template <class A>
struct largest_of {
  A const* row;
  A& top;
  __device__ void operator()(index_t c, index_t n) const {
    auto const x = load_vector(row + c, n);
#pragma unroll
    for (int i = 0; i < pack_size<A>; ++i)
      if (i < n) top = top != top || top > x.v[i] ? top : x.v[i];
  }
};
template <class A>
struct add_exponentials {
  A const* row;
  A top;
  A& sum;
  __device__ void operator()(index_t c, index_t n) const {
    auto const x = load_vector(row + c, n);
#pragma unroll
    for (int i = 0; i < pack_size<A>; ++i)
      if (i < n) sum += exp_scalar(x.v[i] - top);
  }
};
template <class A, class T>
struct logits_to_gradient {
  A const* row;
  T* d_row;  // may be the row
  A top, factor, scale;
  index_t target;
  __device__ void operator()(index_t c, index_t n) const {
    constexpr int N = pack_size<T>;
    auto x = load_pack<N>(row + c, n);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      A const e = exp_scalar(x.v[i] - top);  // again, which is cheaper than to write it and read it back
      x.v[i] = c + i == target ? madd(e, factor, -scale) : e * factor;
    }
    store_pack(d_row + c, x, n);
  }
};
template <class T>
struct zero_run {
  T* row;
  __device__ void operator()(index_t c, index_t n) const { store_vector(row + c, ptx::vector16<T>{}, n); }
};

/// nats[t] = -log softmax(row t)[target[t]]; if Gradient, d_logits[t] = scale * (softmax - one_hot(target)), which may be row t itself. One block per
/// row. A target that is not below the number of columns, which nobody could check before, makes both NaN.
template <bool Gradient, class A, class T>
__global__ void __launch_bounds__(cross_entropy_threads)
    softmax_rows_kernel(tensor<A const, dyn, dyn> logits, tensor<T, dyn, dyn> d_logits, tensor<int const, dyn> target,
                        tensor<A const, dyn> scale, tensor<double, dyn> nats) {
  auto& shared = ptx::dynamic_shared<softmax_layout<A>>();
  index_t const vocab = logits.template extent<1>();
  for (index_t t = blockIdx.x; t < logits.template extent<0>(); t += gridDim.x) {
    A const* const row = logits.row(t);
    T* const d_row = d_logits.row(t);
    index_t const wanted = target(t);
    if (wanted < 0) {
      if constexpr (Gradient) row_packs<T>(vocab, zero_run<T>{d_row});
      if (threadIdx.x == 0) nats(t) = 0;
      continue;
    }
    A const infinity = __builtin_inff(), nan = __builtin_nanf("");
    bool const valid = wanted < vocab;
    A const at_target = threadIdx.x == 0 && valid ? row[wanted] : nan;  // before another thread replaces it
    A top = -infinity, sum = 0;
    row_packs<A>(vocab, largest_of<A>{row, top});
    top = block_max<cross_entropy_threads>(top, shared.top);
    row_packs<A>(vocab, add_exponentials<A>{row, top, sum});
    sum = block_sum<cross_entropy_threads>(sum, shared.sum);
    if constexpr (Gradient) {
      A const s = valid ? scale(0) : nan;
      row_packs<T>(vocab, logits_to_gradient<A, T>{row, d_row, top, s / sum, s, wanted});
    }
    if (threadIdx.x == 0) nats(t) = log_scalar(static_cast<double>(sum)) + (static_cast<double>(top) - static_cast<double>(at_target));
  }
}

/// Logits of tokens [begin, end) and their nats; if Gradient, their gradients too, which it returns.
template <bool Gradient, class T>
matrix_view<T> softmax_chunk(cuda const& space, matrix_view<T const> x, matrix_view<T const> w, vector_view<int const> target, index_t begin,
                             index_t end, cuda_cross_entropy_scratch<T> const& s, arena& scratch) {
  using A = accumulator<T>;
  auto const logits = s.logits(end - begin, w.template extent<0>());
  auto const d_logits = s.d_logits(end - begin, w.template extent<0>());
  gemm<gemm_config{.transpose_b = true}>(space, rows_of(x, begin, end), w, logits, scratch);
  launch("cross_entropy", softmax_rows_kernel<Gradient, A, T>,
         {.blocks = end - begin, .threads = cross_entropy_threads, .shared_bytes = sizeof(softmax_layout<A>)}, space, logits, d_logits,
         vec(target.data() + begin, end - begin), s.scale, vec(s.nats.data() + begin, end - begin));
  return d_logits;
}

template <bool Mean, class A>
void count_targets(cuda const& space, vector_view<int const> target, A scale, tensor<double, 2> loss, vector_view<A> factor) {
  launch("cross_entropy", count_targets_kernel<Mean, A>,
         {.blocks = 1, .threads = cross_entropy_threads, .shared_bytes = sizeof(warp_partials<index_t, cross_entropy_threads>)}, space, target, scale,
         loss, factor);
}
}  // namespace detail

/// Bytes of scratch of cross_entropy(cuda) and cross_entropy_loss(cuda): logits of 1024 tokens, and for bf16 their gradients beside them.
template <class T>
std::size_t cross_entropy_scratch_bytes(cuda const& space, index_t tokens, index_t d, index_t vocab) {
  arena measure;
  detail::cuda_cross_entropy_scratch<T>(measure, tokens, vocab);
  return measure.peak() + detail::cross_entropy_gemm_bytes<T>(space, std::min(tokens, detail::cuda_cross_entropy_chunk), d, vocab);
}

/// The contract of cross_entropy(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   a target that is not below vocab, which is not looked at before, makes the loss and its row of d_x NaN, and so all of d_w; nothing
///         outside the outputs is touched. It counts as a target.
/// Order   logits, d_x, d_w and the loss as on the CPU. The exponentials of a row: one chain per thread of a block of 256, each over runs of 16
///         bytes, trees of halves within the warps, and the eight warps in ascending order. Where those sums are exact, the bits of the CPU operator
///         (if that one has fused multiply-adds), in double up to the exponential, in bf16 up to the units that sum products of it (see gemm).
/// Cost    the logits of 1024 tokens are read three times and written once beside the products; no scratch for packing.
template <cross_entropy_config C = cross_entropy_config{}, class T>
void cross_entropy(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> w, in<int, dyn> target, std::type_identity_t<accumulator<T>> scale,
                   tensor<double, 2> loss, tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn, dyn> d_w, arena& scratch) {
  using A = accumulator<T>;
  index_t const tokens = x.template extent<0>(), vocab = w.template extent<0>();
  bool const weights = d_w.size() != 0;
  detail::check_cross_entropy<T>("cross_entropy", x, w, target);
  detail::check_cross_entropy_gradients<T>(x, w, d_x, d_w);
  detail::check_scratch("cross_entropy", scratch, cross_entropy_scratch_bytes<T>(space, tokens, x.template extent<1>(), vocab));
  arena::scope const scope(scratch);
  detail::cuda_cross_entropy_scratch<T> const s(scratch, tokens, vocab);
  detail::count_targets<C.mean, A>(space, target, scale, loss, s.scale);
  for (index_t begin = 0; begin < tokens; begin += detail::cuda_cross_entropy_chunk) {
    index_t const end = std::min(tokens, begin + detail::cuda_cross_entropy_chunk);
    auto const d_logits = detail::softmax_chunk<true, T>(space, x, w, target, begin, end, s, scratch);
    gemm(space, d_logits, w, rows_of(d_x, begin, end), scratch);
    if (weights) gemm<gemm_config{.transpose_a = true, .accumulate = true}>(space, d_logits, rows_of(x, begin, end), d_w, scratch);
  }
  for_each_row("cross_entropy", space, 1, detail::nats_to_loss{s.nats, loss});
}

/// The contract of cross_entropy_loss(cpu), with what cross_entropy(cuda) says of edges and order; asynchronous on `space.stream`.
template <class T>
void cross_entropy_loss(cuda const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> w, in<int, dyn> target, tensor<double, 2> loss, arena& scratch) {
  using A = accumulator<T>;
  index_t const tokens = x.template extent<0>();
  detail::check_cross_entropy<T>("cross_entropy_loss", x, w, target);
  detail::check_scratch("cross_entropy_loss", scratch, cross_entropy_scratch_bytes<T>(space, tokens, x.template extent<1>(), w.template extent<0>()));
  arena::scope const scope(scratch);
  detail::cuda_cross_entropy_scratch<T> const s(scratch, tokens, w.template extent<0>());
  detail::count_targets<false, A>(space, target, A(0), loss, s.scale);
  for (index_t begin = 0; begin < tokens; begin += detail::cuda_cross_entropy_chunk)
    detail::softmax_chunk<false, T>(space, x, w, target, begin, std::min(tokens, begin + detail::cuda_cross_entropy_chunk), s, scratch);
  for_each_row("cross_entropy", space, 1, detail::nats_to_loss{s.nats, loss});
}
/// T is that of x.
template <detail::matrix_like X>
void cross_entropy_loss(cuda const& space, X const& x, in<typename X::value_type, dyn, dyn> w, in<int, dyn> target, tensor<double, 2> loss,
                        arena& scratch) {
  cross_entropy_loss<typename X::value_type>(space, x, w, target, loss, scratch);
}

}  // namespace moe::inline MOE_ISA
