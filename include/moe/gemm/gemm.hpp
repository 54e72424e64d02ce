#pragma once
#include <moe/core/space.hpp>
#include <moe/gemm/detail/product.hpp>
#include <moe/gemm/detail/turned_product.hpp>

namespace moe::inline MOE_ISA {

/// What sums a product. Other units round in another order, so this is part of what is computed.
enum class matrix_unit {
  automatic,  ///< where both factors are bf16 with sums in float, mma on a GPU and dot on a CPU, if it has it; else fma
  fma,        ///< one chain of fused multiply-adds in ascending k: the same bits in every space
  dot,        ///< pairs along k (VDPBF16PS, in builds for avx512_bf16): one chain in which a step adds two products. Elsewhere fma
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
}
&&V::rank == 2;

template <bool Transposed, class V>
auto operand_of(V const& v) {
  return operand<typename V::value_type>{v.data(), v.row_stride(), Transposed};
}

/// What tensor cores multiply: bf16 by bf16, with sums in float.
template <class TA, class TB, class TC>
inline constexpr bool on_tensor_cores = std::is_same_v<TA, bf16>&& std::is_same_v<TB, bf16>&& std::is_same_v<accumulator<TC>, float>;
template <matrix_unit Unit, class A, class B, class C>
constexpr void check_unit(A const&, B const&, C const&) {
  static_assert(Unit != matrix_unit::dot || on_tensor_cores<typename A::value_type, typename B::value_type, typename C::value_type>,
                "moe::gemm: matrix_unit::dot multiplies bf16 by bf16 and sums in float");
  static_assert(Unit != matrix_unit::mma || on_tensor_cores<typename A::value_type, typename B::value_type, typename C::value_type>,
                "moe::gemm: matrix_unit::mma multiplies bf16 by bf16 and sums in float");
  static_assert(Unit != matrix_unit::wgmma || on_tensor_cores<typename A::value_type, typename B::value_type, typename C::value_type>,
                "moe::gemm: matrix_unit::wgmma multiplies bf16 by bf16 and sums in float");
}

/// The steps along k that a CPU takes for these types.
#if defined(MOE_AVX512_BF16)
template <matrix_unit Unit, class TA, class TB, class TC>
using step_of =
    std::conditional_t<(Unit == matrix_unit::automatic || Unit == matrix_unit::dot) && on_tensor_cores<TA, TB, TC>, pairs, chain<accumulator<TC>>>;
#else
template <matrix_unit Unit, class TA, class TB, class TC>
using step_of = chain<accumulator<TC>>;
#endif

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
/// A packed weight as the matrix [out, in] that it is.
template <class T>
struct weight_shape {
  using value_type = std::remove_const_t<T>;
  index_t size[2];
  template <int D>
  index_t extent() const {
    return size[D];
  }
};
template <class T>
weight_shape<T> one_weight(char const* op, packed_weights<T> const& w) {
  expects(w.count() == 1, errc::bad_argument, op, ": ", w.count(), " packed weights, needs one (grouped_gemm multiplies several)");
  return {{w.out(), w.in()}};
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
/// Order   each output is one chain in ascending k, so it does not depend on threads, blocking, strides or the other rows and columns: of madd, or,
///         where matrix_unit::dot applies, of steps that add two products each (bf16 by bf16 in builds for avx512_bf16). gemm.cuh says what the units
///         are on a GPU.
/// Cost    2 m n k flops; a and b are copied tile by tile into scratch in the order the registers want them.
/// Source  Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication", for the blocking.
template <gemm_config C = gemm_config{}, detail::matrix_like MA, detail::matrix_like MB, class TC, index_t M, index_t N>
void gemm(cpu const& space, MA const& a, MB const& b, tensor<TC, M, N> const& c, arena& scratch) {
  using TB = typename MB::value_type;
  using step = detail::step_of<C.unit, typename MA::value_type, TB, TC>;
  auto const [m, n, k] = detail::check_gemm<C>(a, b, c);
  detail::matrix_product<typename MA::value_type, detail::plain_factor<step, TB>, TC> const p{
      detail::operand_of<C.transpose_a>(a), {detail::operand_of<C.transpose_b>(b)}, c.data(), c.row_stride(), m, k};
  detail::multiply_all<step, TC>(
      "gemm", space, {1, n, detail::shared_lanes(m, k, n)}, C.accumulate, [&](index_t) { return p; }, scratch);
}

/// The product with one weight w [out, in] that lies in panels:  c = a w^T with transpose_b, c = a w without.
/// Where the panels are what the unit reads, nothing of w is packed with transpose_b (bf16 without the unit dot: it is converted tile by tile); without,
/// rows of a take the place of w in vectors, and elements of w are broadcast from a copy of a few inputs at a time. The same bits as with a plain w.
///
/// Throws  as gemm, for scratch of packed_gemm_scratch_bytes (with transpose_b, where a and w differ in type or the unit is not automatic, that of
///         gemm_scratch_bytes); bad_argument if w is not exactly one weight.
template <gemm_config C = gemm_config{}, detail::matrix_like MA, class TB, class TC, index_t M, index_t N>
void gemm(cpu const& space, MA const& a, packed_weights<TB> w, tensor<TC, M, N> const& c, arena& scratch) {
  using T = std::remove_const_t<TB>;
  static_assert(!C.transpose_a, "moe::gemm: a packed weight is the right factor of rows: transpose_a is not for it");
  static_assert(std::same_as<T, bf16> || std::same_as<T, accumulator<TC>>, "moe::gemm: a packed weight is bf16, or of the type that sums have");
  using TA = typename MA::value_type;
  using step = detail::step_of<C.unit, TA, T, TC>;
  auto const [m, n, k] = detail::check_gemm<C>(a, detail::one_weight("gemm", w), c);
  if constexpr (C.transpose_b) {
    using factor = detail::panel_factor<step, T>;
    detail::matrix_product<TA, factor, TC> const p{detail::operand_of<false>(a), factor{w.data(), w.panel_size()}, c.data(), c.row_stride(), m, k};
    detail::multiply_all<step, TC>(
        "gemm", space, {1, n, detail::copied_lanes<step, T>(1, m, n, k)}, C.accumulate, [&](index_t) { return p; }, scratch);
  } else {
    detail::turned_product<TA, T, TC> const p{detail::operand_of<false>(a), w.data(), w.panel_size(), c.data(), c.row_stride(), m};
    detail::multiply_turned<step>("gemm", space, {1, n, k}, C.accumulate, [&](index_t) { return p; }, scratch);
  }
}

/// The gradient of a packed weight:  g[out, in] (+)= sum_r a[r, out] b[r, in], in panels. C.transpose_a is part of what it is, so it must be said.
/// Throws  as gemm, for scratch of packed_gemm_scratch_bytes; bad_argument if g is not exactly one weight.
template <gemm_config C, detail::matrix_like MA, detail::matrix_like MB, class TC>
void gemm(cpu const& space, MA const& a, MB const& b, packed_weights<TC> g, arena& scratch) {
  static_assert(C.transpose_a && !C.transpose_b, "moe::gemm: a packed result is the gradient of a weight, a^T b");
  static_assert(!std::same_as<TC, bf16>, "moe::gemm: the gradient of a packed weight is float or double");
  using TA = typename MA::value_type;
  using TB = typename MB::value_type;
  using step = detail::step_of<C.unit, TA, TB, TC>;
  auto const [out, in_columns, rows] = detail::check_gemm<C>(a, b, detail::one_weight("gemm", g));
  index_t const panel = panel_layout<TC>::columns;
  detail::matrix_product<TB, detail::plain_factor<step, TA>, TC> const p{
      // rows of a panel are inputs, its columns outputs
      detail::operand_of<true>(b), {detail::operand_of<false>(a)}, g.data(), panel, in_columns, rows, g.panel_size()};
  bool const stream = detail::worth_streaming(g.data(), panel, g.matrix_size());
  detail::multiply_all<step, TC>(
      "gemm", space, {1, out, detail::panel_lanes(rows, out), detail::gradient_rows, stream}, C.accumulate, [&](index_t) { return p; }, scratch);
}

/// Bytes of scratch gemm needs for outputs stored as TC.
template <class TC>
std::size_t gemm_scratch_bytes(cpu const& space, index_t m, index_t n, index_t k) {
  using A = accumulator<TC>;
  return detail::product_scratch_bytes<A, TC>(space, {1, n, detail::shared_lanes(m, k, n)});
}

}  // namespace moe::inline MOE_ISA
