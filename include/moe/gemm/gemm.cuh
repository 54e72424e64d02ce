#pragma once
#include <moe/gemm/detail/fma_tiles.cuh>
#include <moe/gemm/gemm.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// The lines of a matrix that stands as op(a) [m, k] (Left) or op(b) [k, n] in a product.
template <bool Left, bool Transposed, class V>
auto device_lines_of(V const& v) {
  return device_lines<typename V::value_type, Left != Transposed>{v.data(), v.row_stride()};
}
}  // namespace detail

/// The contract of gemm(cpu), with all views in device memory; asynchronous on `space.stream`, and needs no scratch.
///
/// Order   one chain of fused multiply-adds in ascending k: the bits of the CPU operator where that one has fused multiply-adds.
/// Cost    lines that do not start where four elements can be read at once are read one by one.
template <gemm_config C = gemm_config{}, fma_tuning P = fma_tuning{}, detail::matrix_like MA, detail::matrix_like MB, class TC, index_t M, index_t N>
void gemm(cuda const& space, MA const& a, MB const& b, tensor<TC, M, N> const& c, arena& /*scratch*/) {
  auto const [m, n, k] = detail::check_gemm<C>(a, b, c);
  auto const left = detail::device_lines_of<true, C.transpose_a>(a);
  auto const right = detail::device_lines_of<false, C.transpose_b>(b);
  using product = detail::dense_product<std::remove_const_t<decltype(left)>, std::remove_const_t<decltype(right)>, TC>;
  detail::multiply_by_fma<C.accumulate, P>("gemm", space, product{left, right, c.data(), c.row_stride(), m, n, k});
}

/// The CUDA operator needs none.
template <class TC>
std::size_t gemm_scratch_bytes(cuda const&, index_t /*m*/, index_t /*n*/, index_t /*k*/) {
  return 0;
}

}  // namespace moe::inline MOE_ISA
