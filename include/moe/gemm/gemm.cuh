#pragma once
#include <moe/gemm/detail/fma_tiles.cuh>
#include <moe/gemm/detail/mma_tiles.cuh>
#include <moe/gemm/detail/wgmma_tiles.cuh>
#include <moe/gemm/gemm.hpp>

namespace moe::inline MOE_ISA {

/// How fast, for each unit; results do not depend on it.
struct gemm_tuning {
  fma_tuning fma = {};
  mma_tuning mma = {};
  wgmma_tuning wgmma = {};
};

namespace detail {
/// All tiles of `products` by the unit that was asked for.
template <matrix_unit Unit, bool Accumulate, gemm_tuning P, class Products>
void multiply_tiles(char const* name, cuda const& space, Products const& products) {
  static_assert(Unit != matrix_unit::wgmma, "moe::gemm: matrix_unit::wgmma is of grouped_gemm only");
  constexpr bool tensor_cores =
      on_tensor_cores<typename Products::a_lines::value_type, typename Products::b_lines::value_type, typename Products::output>;
  if constexpr (Unit != matrix_unit::fma && Unit != matrix_unit::dot && tensor_cores) multiply_by_mma<Accumulate, P.mma>(name, space, products);
  else multiply_by_fma<Accumulate, P.fma>(name, space, products);
}

/// The lines of a matrix that stands as op(a) [m, k] (Left) or op(b) [k, n] in a product.
template <bool Left, bool Transposed, class V>
auto device_lines_of(V const& v) {
  return device_lines<typename V::value_type, Left != Transposed>{v.data(), v.row_stride()};
}
}  // namespace detail

/// The contract of gemm(cpu), with all views in device memory; asynchronous on `space.stream`, and needs no scratch.
///
/// Order   unit fma, and automatic unless a and b are bf16 and sums float: one chain of fused multiply-adds in ascending k, the bits of the CPU operator
///         where that one has fused multiply-adds. Unit mma, and automatic for the rest: steps of 16 along k in ascending order, zeros behind the last
///         element; each step is one m16n8k16 instruction, which adds its 16 products to the float sum in an order that is the hardware's and may differ
///         between generations, but not between outputs. Either way the sum starts from 0 or what c holds and is rounded to TC once, and depends on
///         nothing else: not on tiles, strides, or the other rows and columns.
/// Cost    with fma, lines whose every fourth element does not start where four can be moved at once go one by one; with mma, lines whose every eighth
///         element does not start at a multiple of 16 bytes. Small problems leave processors idle: a tile sums over all of k.
template <gemm_config C = gemm_config{}, gemm_tuning P = gemm_tuning{}, detail::matrix_like MA, detail::matrix_like MB, class TC, index_t M,
          index_t N>
void gemm(cuda const& space, MA const& a, MB const& b, tensor<TC, M, N> const& c, arena& /*scratch*/) {
  auto const [m, n, k] = detail::check_gemm<C>(a, b, c);
  auto const left = detail::device_lines_of<true, C.transpose_a>(a);
  auto const right = detail::device_lines_of<false, C.transpose_b>(b);
  using product = detail::dense_product<std::remove_const_t<decltype(left)>, std::remove_const_t<decltype(right)>, TC>;
  detail::multiply_tiles<C.unit, C.accumulate, P>("gemm", space, product{left, right, c.data(), c.row_stride(), m, n, k});
}

/// The CUDA operator needs none.
template <class TC>
std::size_t gemm_scratch_bytes(cuda const&, index_t /*m*/, index_t /*n*/, index_t /*k*/) {
  return 0;
}

}  // namespace moe::inline MOE_ISA
