#pragma once
#include <moe/core/space.hpp>
#include <moe/gemm/detail/product.hpp>

namespace moe::inline MOE_ISA {

/// What sums a product. Other units round in another order, so this is part of what is computed.
enum class matrix_unit {
  automatic,  ///< tensor cores where the space has them and both factors are bf16 with sums in float; else fma
  fma,        ///< one chain of fused multiply-adds in ascending k: the same bits in every space
  mma,        ///< tensor cores in steps of 16 along k (16 x 8 x 16, sm_80 and later); the CPU has none, and uses fma
  wgmma,      ///< tensor cores by warpgroups (64 x n x 16, sm_90a alone), in stages of 64 along k; of grouped_gemm only. The CPU uses fma
};

struct gemm_config {
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;  ///< add to c: each sum starts from what c holds
  matrix_unit unit = matrix_unit::automatic;
};

namespace detail {
template <class V>
concept matrix_like = requires(V const& v) {
  typename V::value_type;
  v.row_stride();
} && V::rank == 2;

template <bool Transposed, class V>
auto operand_of(V const& v) {
  return operand<typename V::value_type>{v.data(), v.row_stride(), Transposed};
}

/// What tensor cores multiply: bf16 by bf16, with sums in float.
template <class TA, class TB, class TC>
inline constexpr bool on_tensor_cores = std::is_same_v<TA, bf16> && std::is_same_v<TB, bf16> && std::is_same_v<accumulator<TC>, float>;
template <matrix_unit Unit, class A, class B, class C>
constexpr void check_unit(A const&, B const&, C const&) {
  static_assert(Unit != matrix_unit::mma || on_tensor_cores<typename A::value_type, typename B::value_type, typename C::value_type>,
                "moe::gemm: matrix_unit::mma multiplies bf16 by bf16 and sums in float");
  static_assert(Unit != matrix_unit::wgmma || on_tensor_cores<typename A::value_type, typename B::value_type, typename C::value_type>,
                "moe::gemm: matrix_unit::wgmma multiplies bf16 by bf16 and sums in float");
}

struct gemm_extents {
  index_t m, n, k;
};
template <gemm_config C>
gemm_extents check_gemm(auto const& a, auto const& b, auto const& c) {
  check_unit<C.unit>(a, b, c);
  index_t const m = c.template extent<0>(), n = c.template extent<1>();
  index_t const k = C.transpose_a ? a.template extent<0>() : a.template extent<1>();
  index_t const a_rows = C.transpose_a ? a.template extent<1>() : a.template extent<0>();
  index_t const b_rows = C.transpose_b ? b.template extent<1>() : b.template extent<0>();
  index_t const b_columns = C.transpose_b ? b.template extent<0>() : b.template extent<1>();
  expects(a_rows == m, errc::shape_mismatch, "gemm: a has ", a_rows, " rows (transposed: columns), c has ", m);
  expects(b_columns == n, errc::shape_mismatch, "gemm: b has ", b_columns, " columns (transposed: rows), c has ", n);
  expects(b_rows == k, errc::shape_mismatch, "gemm: a sums over ", k, " elements, b over ", b_rows);
  return {m, n, k};
}
}  // namespace detail

/// Product of matrices:  c[m, n] (+)= sum_k op(a)[m, k] op(b)[k, n],  op(x) = x or its transpose.
///
///   a  [m, k], or [k, m] if transpose_a      in   any storage type
///   b  [k, n], or [n, k] if transpose_b      in   any storage type (a weight [out, in] is used with transpose_b)
///   c  [m, n]                                out  accumulator<TC> sums, rounded to TC once; must not overlap a or b
///
/// Edges   m == 0 or n == 0 writes nothing; k == 0 writes zeros (accumulate: nothing changes). NaN and infinity propagate as in IEEE arithmetic.
/// Throws  shape_mismatch if the extents disagree; out_of_memory if scratch holds less than gemm_scratch_bytes.
/// Order   each output is one chain of madd in ascending k, so it does not depend on threads, blocking, strides or the other rows and columns.
///         gemm_config::unit changes nothing here; gemm.cuh says what it does on a GPU.
/// Cost    2 m n k flops; b is copied once into scratch in the order the registers want it.
/// Source  Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication", for the blocking.
template <gemm_config C = gemm_config{}, detail::matrix_like MA, detail::matrix_like MB, class TC, index_t M, index_t N>
void gemm(cpu const& space, MA const& a, MB const& b, tensor<TC, M, N> const& c, arena& scratch) {
  using product = detail::matrix_product<typename MA::value_type, typename MB::value_type, TC>;
  auto const [m, n, k] = detail::check_gemm<C>(a, b, c);
  product const p{detail::operand_of<C.transpose_a>(a), detail::operand_of<C.transpose_b>(b), c.data(), c.row_stride(), m, k, 0};
  detail::multiply_all<TC>(space, 1, k, n, C.accumulate, [&](index_t) { return p; }, scratch);
}

/// Bytes of scratch gemm needs for outputs stored as TC.
template <class TC>
std::size_t gemm_scratch_bytes(cpu const& space, index_t /*m*/, index_t n, index_t k) {
  return detail::product_scratch_bytes<TC>(space, 1, k, n);
}

}  // namespace moe::inline MOE_ISA
