#pragma once
#include <moe/gemm/gemm.cuh>
#include <moe/gemm/grouped_gemm.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline int const* index_or_null(in<int, dyn> gather) { return gather.template extent<0>() > 0 ? gather.data() : nullptr; }
/// The rows that exist for the kernel, whatever the offsets say.
inline index_t readable_rows(index_t rows, in<int, dyn> gather) {
  index_t const entries = gather.template extent<0>();
  return entries > 0 && entries < rows ? entries : rows;
}
}  // namespace detail

/// The contract of grouped_gemm(cpu), with all views in device memory; asynchronous on `space.stream`, and needs no scratch.
/// The launch depends on the extents alone, so a CUDA graph can capture it.
///
/// Edges   offsets and gather are on the device and not checked: with offsets out of range or not ascending, y holds unspecified values and nothing
///         outside y is written; an index of gather must be a row of x. With gather, rows behind its last entry are not touched.
/// Throws  unit wgmma, before any work: unsupported_machine unless the device runs code for sm_90a; bad_argument if TMA cannot address x or w, whose
///         data and rows must start at multiples of 16 bytes, or if there is a gather index. It never takes another unit instead.
/// Order   as gemm(cuda). Unit wgmma, which automatic never takes: stages of 64 along k in ascending order, zeros behind the last element, each four
///         steps of 16 in ascending order. A step is one m64nNk16 instruction, which adds its 16 products to the float sum in an order that is the
///         hardware's and taken to be the same for every N (a test compares them): so no sum depends on the tile, on strides, or on the other rows
///         and columns.
/// Cost    as gemm(cuda); a gathered row is read where it is. With wgmma, rows of y that do not start at multiples of 16 bytes are stored one by one.
template <grouped_gemm_config C = grouped_gemm_config{}, gemm_tuning P = gemm_tuning{}, class T, index_t YR, index_t YC>
void grouped_gemm(cuda const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, in<T, dyn, dyn, dyn> w, tensor<T, YR, YC> const& y,
                  arena& /*scratch*/, in<int, dyn> gather = {}) {
  auto const [experts, rows, n, k] = detail::check_grouped_gemm<C>(x, offsets, w, y, gather);
  if constexpr (C.unit == matrix_unit::wgmma) {
    expects(gather.template extent<0>() == 0, errc::bad_argument, "grouped_gemm: matrix_unit::wgmma takes no gather index, there is one of ",
            gather.template extent<0>(), " entries; gather the rows first or take matrix_unit::mma");
    detail::multiply_by_wgmma<C.transpose_w, C.accumulate, P.wgmma>("grouped_gemm", space, x, w,
                                                                    {y.data(), y.row_stride(), offsets.data(), experts, rows, n, k});
  } else {
    using lines = detail::device_lines<T, true>;
    using weights = detail::device_lines<T, C.transpose_w>;
    detail::ragged_rows<lines, weights, T> const products{{x.data(), x.row_stride(), detail::index_or_null(gather)},
                                                          {w.data(), w.row_stride()},
                                                          y.data(),
                                                          y.row_stride(),
                                                          w.template extent<1>(),
                                                          offsets.data(),
                                                          experts,
                                                          detail::readable_rows(rows, gather),
                                                          n,
                                                          k};
    detail::multiply_tiles<C.unit, C.accumulate, P>("grouped_gemm", space, products);
  }
}

/// The CUDA operator needs none.
template <class T>
std::size_t grouped_gemm_scratch_bytes(cuda const&, index_t /*experts*/, index_t /*n*/, index_t /*k*/) {
  return 0;
}

/// The contract of grouped_gemm_weight_gradient(cpu), with all views in device memory; asynchronous on `space.stream`, and needs no scratch.
/// The launch depends on the extents alone, so a CUDA graph can capture it.
///
/// Edges   offsets and the two indices are on the device and not checked: with wrong offsets d_w holds unspecified values and nothing outside d_w is
///         written; an index must name a row.
/// Order   each output is one chain over r ascending, as gemm(cuda).
/// Cost    as gemm(cuda). The tiles of an expert sum over all its rows: one expert with everything leaves the others' processors idle.
template <weight_gradient_config C = weight_gradient_config{}, gemm_tuning P = gemm_tuning{}, class T, class TW, index_t YR, index_t YC, index_t E,
          index_t O, index_t I>
void grouped_gemm_weight_gradient(cuda const& space, tensor<T, YR, YC> const& d_y, in<std::remove_const_t<T>, dyn, dyn> x, in<index_t, dyn> offsets,
                                  tensor<TW, E, O, I> const& d_w, arena& /*scratch*/, in<int, dyn> gather_d_y = {}, in<int, dyn> gather_x = {}) {
  auto const [experts, rows, m, n] = detail::check_weight_gradient<C>(d_y, x, offsets, d_w, gather_d_y, gather_x);
  using lines = detail::device_lines<std::remove_const_t<T>, false>;
  detail::ragged_depth<lines, lines, TW> const products{{d_y.data(), d_y.row_stride(), detail::index_or_null(gather_d_y)},
                                                        {x.data(), x.row_stride(), detail::index_or_null(gather_x)},
                                                        d_w.data(),
                                                        d_w.row_stride(),
                                                        offsets.data(),
                                                        experts,
                                                        detail::readable_rows(detail::readable_rows(rows, gather_d_y), gather_x),
                                                        m,
                                                        n};
  detail::multiply_tiles<C.unit, C.accumulate, P>("grouped_gemm_weight_gradient", space, products);
}

/// The CUDA operator needs none.
template <class TW>
std::size_t grouped_gemm_weight_gradient_scratch_bytes(cuda const&, index_t /*experts*/, index_t /*rows*/, index_t /*in_columns*/) {
  return 0;
}

}  // namespace moe::inline MOE_ISA
