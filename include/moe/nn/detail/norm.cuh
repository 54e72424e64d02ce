#pragma once
#include <limits>

#include <moe/core/vectors.cuh>
#include <moe/nn/detail/vectors.hpp>

// What the norms share on CUDA. Forward: a warp per row. Backward: a warp per row for the means over it; then a thread per 16 bytes of columns and
// chunk of tokens for d_x and the sums of the chunk, so that x and d_y are fetched twice, once per kernel; then the chunks are joined.
namespace moe::inline MOE_ISA::detail {

/// Calls f(c, n) for the packs of a row that are this lane's: N elements from column c on, of which the row has n.
template <int N, class F>
__device__ void lane_packs(index_t d, int lane, F const& f) {
  for (index_t c = index_t{lane} * N; c < d; c += lanes * N) f(c, d - c < N ? static_cast<int>(d - c) : N);
}

/// What numeric_limits<A>::max() says: a host function to nvcc.
template <class A>
inline constexpr A largest = std::numeric_limits<A>::max();

/// A row whose squares overflow is summed again with its elements scaled by this power of two: they then neither overflow nor vanish.
template <class A>
inline constexpr A down_scale = sizeof(A) == sizeof(float) ? A(0x1p-100) : A(0x1p-800);

/// 1 / sqrt(squares / d + eps) for the sum of the squares of scaled elements.
template <class A>
__device__ A rstd_of(A squares, index_t d, A eps, A scale) {
  return scale / std::sqrt(madd(eps * scale, scale, squares / static_cast<A>(d > 0 ? d : 1)));
}

/// Calls f(t, a, b) for the tokens of a chunk in ascending order, with the N elements of the rows a(t) and b(t) from column c on. Four rows are
/// fetched before the first call: the compiler may not do that, because f may store to a.
template <int N, class T, class F>
__device__ void chunk_rows(index_t chunk, tensor<T const, dyn, dyn> const& a, tensor<T const, dyn, dyn> const& b, index_t c, F const& f) {
  constexpr int ahead = 4;
  index_t const begin = chunk * norm_chunk, all = a.template extent<0>(), n = a.template extent<1>() - c;
  index_t const end = begin + norm_chunk < all ? begin + norm_chunk : all;
  for (index_t t = begin; t < end; t += ahead) {
    ptx::vector16<T> from_a[ahead], from_b[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      index_t const wanted = t + i < end ? n : 0;
      from_a[i] = load_vector(a.row(t + i) + c, wanted);
      from_b[i] = load_vector(b.row(t + i) + c, wanted);
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (t + i < end) f(t + i, from_a[i], from_b[i]);
  }
}

/// to[c] += the sum over the rows of `partials`, in ascending order.
template <class A>
struct add_row_sums_element {
  tensor<A const, dyn, dyn> partials;
  tensor<A, dyn> to;
  __device__ void operator()(index_t, index_t c) const {
    A total = 0;
#pragma unroll 4
    for (index_t r = 0; r < partials.template extent<0>(); ++r) total += partials(r, c);
    to(c) += total;
  }
};
template <class A>
void add_row_sums(char const* name, cuda const& space, matrix_view<A> partials, vector_view<A> to) {
  for_each_element(name, space, 1, to.size(), add_row_sums_element<A>{partials, to});
}

}  // namespace moe::inline MOE_ISA::detail
