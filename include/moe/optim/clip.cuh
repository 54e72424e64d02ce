#pragma once
#include <moe/core/block.cuh>
#include <moe/core/vectors.cuh>
#include <moe/optim/clip.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline constexpr int norm_threads = 256;
using norm_partials = warp_partials<double, norm_threads>;

/// partial[chunk] = sum of the squares of a chunk of norm_block elements. One block per chunk.
template <class T>
__global__ void __launch_bounds__(norm_threads) sum_of_squares_kernel(tensor<T const, dyn> g, tensor<double, dyn> partial) {
  constexpr int N = pack_size<T>;
  auto& shared = ptx::dynamic_shared<norm_partials>();
  for (index_t chunk = blockIdx.x; chunk < partial.template extent<0>(); chunk += gridDim.x) {
    index_t const begin = chunk * norm_block, left = g.template extent<0>() - begin, n = left < norm_block ? left : norm_block;
    double sum = 0;
    for (index_t i = threadIdx.x * N; i < n; i += norm_threads * N) {
      auto const x = load_vector(g.data() + begin + i, n - i);  // zeros behind the end add nothing
#pragma unroll
      for (int j = 0; j < N; ++j) sum = madd(static_cast<double>(x.v[j]), static_cast<double>(x.v[j]), sum);
    }
    sum = block_sum<norm_threads>(sum, shared);
    if (threadIdx.x == 0) partial(chunk) = sum;
    __syncthreads();  // before the next chunk uses the shared memory again
  }
}

/// norm(0) = sqrt(sum of partial). One block of Threads threads.
template <int Threads>
__global__ void __launch_bounds__(Threads) norm_kernel(tensor<double const, dyn> partial, tensor<double, 1> norm) {
  double sum = 0;
  for (index_t c = threadIdx.x; c < partial.extent<0>(); c += Threads) sum += partial(c);
  sum = block_sum<Threads>(sum, ptx::dynamic_shared<warp_partials<double, Threads>>());
  if (threadIdx.x == 0) norm(0) = std::sqrt(sum);
}

struct clip_element {
  tensor<double const, 1> norm;
  double max_norm;
  tensor<double, 1> scale;
  __device__ void operator()(index_t, index_t) const { scale(0) = clip_factor(norm(0), max_norm); }
};
}  // namespace detail

/// Bytes of scratch of global_norm(cuda).
inline std::size_t global_norm_scratch_bytes(cuda const& /*space*/, index_t n) { return global_norm_scratch_bytes(cpu{.threads = 1}, n); }

/// The contract of global_norm(cpu) with a view for the result, with all views in device memory; asynchronous on `space.stream`.
///
/// Order   in double; chunks of 16384 elements: one chain per thread of a block of 256, each over runs of 16 bytes, trees of halves within the warps, the
///         eight warps in ascending order. The sums of the chunks likewise, each thread's chain over every 256th.
template <class T>
void global_norm(cuda const& space, in<T, dyn> g, tensor<double, 1> norm, arena& scratch) {
  detail::check_scratch("global_norm", scratch, global_norm_scratch_bytes(space, g.size()));
  arena::scope const scope(scratch);
  auto const partial = scratch.vec<double>(detail::chunks(g.size(), detail::norm_block));
  launch("global_norm", detail::sum_of_squares_kernel<T>,
         {.blocks = partial.size(), .threads = detail::norm_threads, .shared_bytes = sizeof(detail::norm_partials)}, space, g, partial);
  launch("global_norm", detail::norm_kernel<detail::norm_threads>,
         {.blocks = 1, .threads = detail::norm_threads, .shared_bytes = sizeof(detail::norm_partials)}, space, partial, norm);
}
/// T is that of the view.
template <class V>
  requires(V::rank == 1)
void global_norm(cuda const& space, V const& g, tensor<double, 1> norm, arena& scratch) {
  global_norm<typename V::value_type>(space, g, norm, scratch);
}

/// The contract of clip_scale(cpu) with views, in device memory; asynchronous on `space.stream`. The bits of the CPU.
inline void clip_scale(cuda const& space, in<double, 1> norm, double max_norm, tensor<double, 1> scale) {
  detail::check_max_norm(max_norm);
  for_each_element("clip_scale", space, 1, 1, detail::clip_element{norm, max_norm, scale});
}

}  // namespace moe::inline MOE_ISA
