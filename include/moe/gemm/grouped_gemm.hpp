#pragma once
#include <moe/gemm/gemm.hpp>

namespace moe::inline MOE_ISA {

struct grouped_gemm_config {
  bool transpose_w = true;  ///< y = x w^T, the layer's forward with weights [out, in]; false: y = x w, its input gradient
  bool accumulate = false;  ///< add to y: each sum starts from what y holds
  matrix_unit unit = matrix_unit::automatic;
};

struct weight_gradient_config {
  bool accumulate = false;  ///< add to d_w: each sum starts from what d_w holds
  matrix_unit unit = matrix_unit::automatic;
};

namespace detail {
inline void check_offset_count(char const* who, in<index_t, dyn> offsets, index_t experts) {
  expects(offsets.template extent<0>() == experts + 1, errc::shape_mismatch, who, ": offsets has ", offsets.template extent<0>(), " entries, ",
          experts, " experts need ", experts + 1);
}
/// The values: for spaces whose memory the host can read.
inline void check_offsets(char const* who, in<index_t, dyn> offsets, index_t experts, index_t rows) {
  expects(offsets(0) == 0, errc::bad_argument, who, ": offsets[0] is ", offsets(0), ", must be 0");
  for (index_t e = 0; e < experts; ++e)
    expects(offsets(e) <= offsets(e + 1), errc::bad_argument, who, ": offsets[", e + 1, "] = ", offsets(e + 1), " is below offsets[", e,
            "] = ", offsets(e));
  expects(offsets(experts) <= rows, errc::bad_argument, who, ": offsets end at ", offsets(experts), ", there are ", rows, " rows");
}
inline void check_line_count(char const* who, char const* what, in<int, dyn> gather, index_t rows, index_t sources) {
  expects(gather.template extent<0>() > 0 || sources == rows, errc::shape_mismatch, who, ": ", what, " has ", sources, " rows, ", rows,
          " are needed");
}
/// The rows that a product over `used` rows reads must exist: directly, or through the index.
inline void check_lines(char const* who, char const* what, in<int, dyn> gather, index_t used, index_t sources) {
  if (gather.template extent<0>() == 0) return;
  expects(gather.template extent<0>() >= used, errc::shape_mismatch, who, ": the gather index of ", what, " has ", gather.template extent<0>(),
          " entries for ", used, " rows");
  for (index_t r = 0; r < used; ++r)
    expects(gather(r) >= 0 && gather(r) < sources, errc::bad_argument, who, ": the gather index of ", what, " names row ", gather(r), " of ", sources,
            " at position ", r);
}

/// The extents of grouped_gemm: each expert's rows (to `n` outputs, sums over `k`).
struct grouped_extents {
  index_t experts, rows, n, k;
};
template <grouped_gemm_config C>
grouped_extents check_grouped_gemm(auto const& x, in<index_t, dyn> offsets, auto const& w, auto const& y, in<int, dyn> gather) {
  check_unit<C.unit>(x, w, y);
  index_t const experts = w.template extent<0>(), rows = y.template extent<0>(), n = y.template extent<1>(), k = x.template extent<1>();
  index_t const w_in = C.transpose_w ? w.template extent<2>() : w.template extent<1>();
  index_t const w_out = C.transpose_w ? w.template extent<1>() : w.template extent<2>();
  expects(w_in == k, errc::shape_mismatch, "grouped_gemm: x has ", k, " columns, w sums over ", w_in);
  expects(w_out == n, errc::shape_mismatch, "grouped_gemm: y has ", n, " columns, w gives ", w_out);
  check_offset_count("grouped_gemm", offsets, experts);
  check_line_count("grouped_gemm", "x", gather, rows, x.template extent<0>());
  return {experts, rows, n, k};
}
/// The extents of grouped_gemm_weight_gradient: n x k outputs per expert, sums over its part of `rows`.
template <weight_gradient_config C>
grouped_extents check_weight_gradient(auto const& d_y, auto const& x, in<index_t, dyn> offsets, auto const& d_w, in<int, dyn> gather_d_y,
                                      in<int, dyn> gather_x) {
  check_unit<C.unit>(d_y, x, d_w);
  char const* const who = "grouped_gemm_weight_gradient";
  index_t const experts = d_w.template extent<0>(), n = d_w.template extent<1>(), k = d_w.template extent<2>();
  bool const direct_d_y = gather_d_y.template extent<0>() == 0, direct_x = gather_x.template extent<0>() == 0;
  index_t const rows = direct_d_y ? d_y.template extent<0>() : direct_x ? x.template extent<0>() : gather_d_y.template extent<0>();
  expects(d_y.template extent<1>() == n, errc::shape_mismatch, who, ": d_y has ", d_y.template extent<1>(), " columns, d_w has ", n, " rows");
  expects(x.template extent<1>() == k, errc::shape_mismatch, who, ": x has ", x.template extent<1>(), " columns, d_w has ", k);
  check_offset_count(who, offsets, experts);
  check_line_count(who, "d_y", gather_d_y, rows, d_y.template extent<0>());
  check_line_count(who, "x", gather_x, rows, x.template extent<0>());
  return {experts, rows, n, k};
}
/// What grouped_gemm_weight_gradient reads of offsets and indices.
inline void check_gradient_rows(in<index_t, dyn> offsets, index_t experts, index_t rows, in<int, dyn> gather_d_y, index_t d_y_rows,
                                in<int, dyn> gather_x, index_t x_rows) {
  char const* const who = "grouped_gemm_weight_gradient";
  check_offsets(who, offsets, experts, rows);
  check_lines(who, "d_y", gather_d_y, offsets(experts), d_y_rows);
  check_lines(who, "x", gather_x, offsets(experts), x_rows);
}
template <class T>
operand<T> lines_from(in<T, dyn, dyn> x, index_t first, bool transposed, in<int, dyn> gather) {
  if (gather.template extent<0>() > 0) return {x.data(), x.row_stride(), transposed, gather.data() + first};
  return {x.row(first), x.row_stride(), transposed};
}
}  // namespace detail

/// One product per expert over ragged rows:  y[r] (+)= x[r] w[e]^T  for offsets[e] <= r < offsets[e + 1]  (transpose_w false: x[r] w[e]).
///
///   x        [rows, in]            in   sorted by expert; with `gather`, row r is read from x[gather[r]] and x need not be sorted
///   offsets  [experts + 1]         in   offsets[0] == 0, ascending, offsets[experts] <= rows; rows behind the last offset are not touched
///   w        [experts, out, in]    in   (transpose_w false: x is [rows, out], y is [rows, in])
///   y        [rows, out]           out  must not overlap x or w
///   gather   [rows]                in   optional: an empty view stands for the identity
///
/// Edges   any row count per expert, also 0 and all; rows == 0 writes nothing.
/// Throws  shape_mismatch for extents that disagree; bad_argument for offsets that are not ascending or out of range, or a gather index out of range;
///         out_of_memory if scratch holds less than grouped_gemm_scratch_bytes.
/// Order   each output is one chain in ascending k (`in`), as gemm's: independent of threads, of the other rows, and of the other experts.
/// Cost    2 rows in out flops; the weights of an expert with rows are copied into scratch, tile by tile.
/// Source  Gale et al. 2022, MegaBlocks, arXiv:2211.15841, for the dropless formulation.
template <grouped_gemm_config C = grouped_gemm_config{}, class T, index_t YR, index_t YC>
void grouped_gemm(cpu const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, in<T, dyn, dyn, dyn> w, tensor<T, YR, YC> const& y, arena& scratch,
                  in<int, dyn> gather = {}) {
  auto const [experts, rows, n, k] = detail::check_grouped_gemm<C>(x, offsets, w, y, gather);
  detail::check_offsets("grouped_gemm", offsets, experts, rows);
  detail::check_lines("grouped_gemm", "x", gather, offsets(experts), x.template extent<0>());
  using step = detail::step_of<C.unit, T, T, T>;
  auto const product_of = [&, k = k](index_t e) {  // clang 14 captures no structured binding
    index_t const first = offsets(e);
    detail::plain_factor<step, T> const b{{w.data() + e * w.template extent<1>() * w.row_stride(), w.row_stride(), C.transpose_w}};
    return detail::matrix_product<T, detail::plain_factor<step, T>, T>{
        detail::lines_from<T>(x, first, false, gather), b, y.row(first), y.row_stride(), offsets(e + 1) - first, k};
  };
  detail::multiply_all<step, T>("grouped_gemm", space, {experts, n, detail::panel_lanes(experts * k, n)}, C.accumulate, product_of, scratch);
}

/// Bytes of scratch for grouped_gemm with sums over k elements and n outputs.
template <class T>
std::size_t grouped_gemm_scratch_bytes(cpu const& space, index_t experts, index_t n, index_t k) {
  using A = accumulator<T>;
  return detail::product_scratch_bytes<A, T>(space, {experts, n, detail::panel_lanes(detail::elements(experts, k), n)});
}

/// One product per expert over ragged depth:  d_w[e][o, i] (+)= sum_r d_y[r, o] x[r, i]  for offsets[e] <= r < offsets[e + 1].
///
///   d_y      [rows, out]           in   with `gather_d_y`, row r is read from d_y[gather_d_y[r]]
///   x        [rows, in]            in   with `gather_x`, row r is read from x[gather_x[r]]
///   offsets  [experts + 1]         in   as for grouped_gemm
///   d_w      [experts, out, in]    out  of type TW: may be float where x and d_y are bf16
///
/// Edges   an expert without rows gets exact zeros (accumulate: is left as it is).
/// Throws  as grouped_gemm.
/// Order   each output is one chain in ascending r, as gemm's over k.
/// Cost    2 rows in out flops; x and d_y are copied into scratch, tile by tile.
template <weight_gradient_config C = weight_gradient_config{}, class T, class TW, index_t YR, index_t YC, index_t E, index_t O, index_t I>
void grouped_gemm_weight_gradient(cpu const& space, tensor<T, YR, YC> const& d_y, in<std::remove_const_t<T>, dyn, dyn> x, in<index_t, dyn> offsets,
                                  tensor<TW, E, O, I> const& d_w, arena& scratch, in<int, dyn> gather_d_y = {}, in<int, dyn> gather_x = {}) {
  using S = std::remove_const_t<T>;
  auto const [experts, rows, m, n] = detail::check_weight_gradient<C>(d_y, x, offsets, d_w, gather_d_y, gather_x);
  detail::check_gradient_rows(offsets, experts, rows, gather_d_y, d_y.template extent<0>(), gather_x, x.template extent<0>());
  using step = detail::step_of<C.unit, S, S, TW>;
  auto const product_of = [&, m = m](index_t e) {
    index_t const first = offsets(e), count = offsets(e + 1) - first;
    bool const nothing = count == 0 && C.accumulate;
    return detail::matrix_product<S, detail::plain_factor<step, S>, TW>{detail::lines_from<S>(d_y, first, true, gather_d_y),
                                                                        {detail::lines_from<S>(x, first, false, gather_x)},
                                                                        d_w.data() + e * m * d_w.row_stride(),
                                                                        d_w.row_stride(),
                                                                        nothing ? 0 : m,
                                                                        count};
  };
  bool const stream = detail::worth_streaming(d_w.data(), d_w.row_stride(), experts * m * n);
  detail::multiply_all<step, TW>("grouped_gemm_weight_gradient", space,
                                 {experts, n, detail::gradient_lanes(experts, rows, n), detail::gradient_rows, stream}, C.accumulate, product_of,
                                 scratch);
}

/// Bytes of scratch for grouped_gemm_weight_gradient over `rows` rows with `in` input columns.
template <class TW>
std::size_t grouped_gemm_weight_gradient_scratch_bytes(cpu const& space, index_t experts, index_t rows, index_t in_columns) {
  using A = accumulator<TW>;
  return detail::product_scratch_bytes<A, TW>(space, {experts, in_columns, detail::gradient_lanes(experts, rows, in_columns), detail::gradient_rows});
}

namespace detail {
/// y[r] (+)= x[r] w[e]^T with packed weights, all arguments checked; `after` and what is returned as in multiply_all.
template <bool Accumulate, class T, class After = nothing_after>
bool multiply_panels(char const* op, cpu const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, packed_weights<T const> w, tensor<T, dyn, dyn> y,
                     arena& scratch, in<int, dyn> gather, After const& after = {}) {
  using step = step_of<matrix_unit::automatic, T, T, T>;
  using factor = panel_factor<step, T>;
  auto const product_of = [&](index_t e) {
    index_t const first = offsets(e);
    return matrix_product<T, factor, T>{
        lines_from<T>(x, first, false, gather), factor{w.matrix(e), w.panel_size()}, y.row(first), y.row_stride(), offsets(e + 1) - first, w.in()};
  };
  index_t const copied = copied_lanes<step, T>(w.count(), y.rows(), w.out(), w.in());
  bool const staged = !std::is_same_v<accumulator<T>, T> && w.in() > tile_steps * step::depth;  // tiles of their own width
  bool const whole_rows = !staged && !std::is_same_v<After, nothing_after>;
  return multiply_all<step, T>(op, space, {.products = w.count(), .n = w.out(), .packed_lanes = copied, .whole_rows = whole_rows}, Accumulate,
                               product_of, scratch, after);
}
}  // namespace detail

/// grouped_gemm with weights that lie in panels: where the panels are what the unit reads, nothing of w is packed with transpose_w (bf16 without
/// the unit dot: it is converted tile by tile); without, rows of x take the place of w in vectors, and elements of w are broadcast from a copy of a few
/// inputs at a time. The same bits as with plain weights and matrix_unit::automatic.
///
///   w        [experts, out, in]    in   panel_layout<T>, padding 0
///   others   as grouped_gemm; y may be columns of a wider matrix
///
/// Throws  as grouped_gemm; out_of_memory if scratch holds less than packed_gemm_scratch_bytes.
template <grouped_gemm_config C = grouped_gemm_config{}, class T, index_t YR, index_t YC>
void grouped_gemm(cpu const& space, in<T, dyn, dyn> x, in<index_t, dyn> offsets, std::type_identity_t<packed_weights<T const>> w,
                  tensor<T, YR, YC> const& y, arena& scratch, in<int, dyn> gather = {}) {
  static_assert(C.unit == matrix_unit::automatic,
                "moe::grouped_gemm: packed weights are multiplied by the unit they are packed for, matrix_unit::automatic");
  auto const [experts, rows, n, k] = detail::check_grouped_gemm<C>(x, offsets, w, y, gather);
  detail::check_offsets("grouped_gemm", offsets, experts, rows);
  detail::check_lines("grouped_gemm", "x", gather, offsets(experts), x.template extent<0>());
  if constexpr (C.transpose_w) {
    detail::multiply_panels<C.accumulate, T>("grouped_gemm", space, x, offsets, w, y, scratch, gather);
  } else {
    using step = detail::step_of<C.unit, T, T, T>;
    auto const product_of = [&](index_t e) {
      index_t const first = offsets(e);
      return detail::turned_product<T, T, T>{
          detail::lines_from<T>(x, first, false, gather), w.matrix(e), w.panel_size(), y.row(first), y.row_stride(), offsets(e + 1) - first};
    };
    detail::multiply_turned<step>("grouped_gemm", space, {experts, n, k}, C.accumulate, product_of, scratch);
  }
}

/// grouped_gemm_weight_gradient into panels: d_w of the layout that weights of type TW have.
template <weight_gradient_config C = weight_gradient_config{}, class T, class TW, index_t YR, index_t YC>
requires(!std::same_as<TW, bf16>) void grouped_gemm_weight_gradient(cpu const& space, tensor<T, YR, YC> const& d_y,
                                                                    in<std::remove_const_t<T>, dyn, dyn> x, in<index_t, dyn> offsets,
                                                                    packed_weights<TW> d_w, arena& scratch, in<int, dyn> gather_d_y = {},
                                                                    in<int, dyn> gather_x = {}) {
  using S = std::remove_const_t<T>;
  auto const [experts, rows, n, m] = detail::check_weight_gradient<C>(d_y, x, offsets, d_w, gather_d_y, gather_x);
  detail::check_gradient_rows(offsets, experts, rows, gather_d_y, d_y.template extent<0>(), gather_x, x.template extent<0>());
  using step = detail::step_of<C.unit, S, S, TW>;
  auto const product_of = [&, m = m](index_t e) {  // rows of a panel are inputs, its columns outputs
    index_t const first = offsets(e), count = offsets(e + 1) - first;
    bool const nothing = count == 0 && C.accumulate;
    return detail::matrix_product<S, detail::plain_factor<step, S>, TW>{detail::lines_from<S>(x, first, true, gather_x),
                                                                        {detail::lines_from<S>(d_y, first, false, gather_d_y)},
                                                                        d_w.matrix(e),
                                                                        panel_layout<TW>::columns,
                                                                        nothing ? 0 : m,
                                                                        count,
                                                                        d_w.panel_size()};
  };
  bool const stream = detail::worth_streaming(d_w.data(), panel_layout<TW>::columns, experts * d_w.matrix_size());
  detail::multiply_all<step, TW>("grouped_gemm_weight_gradient", space,
                                 {experts, n, detail::gradient_lanes(experts, rows, n), detail::gradient_rows, stream}, C.accumulate, product_of,
                                 scratch);
}

/// Bytes of scratch for the products of `experts` packed weights [out, in] with `rows` rows in all: forward, input gradient and weight gradient.
template <class T>
std::size_t packed_gemm_scratch_bytes(cpu const& space, index_t experts, index_t rows, index_t out, index_t in_columns) {
  using A = accumulator<T>;
  using step = detail::step_of<matrix_unit::automatic, T, T, T>;
  index_t const copied = detail::copied_lanes<step, T>(experts, rows, out, in_columns);
  return std::max({detail::product_scratch_bytes<A, T>(space, {experts, out, copied}),
                   detail::turned_scratch_bytes<A>(space, {experts, in_columns, out}),
                   detail::product_scratch_bytes<A, A>(space, {experts, out, detail::gradient_lanes(experts, rows, out), detail::gradient_rows})});
}

}  // namespace moe::inline MOE_ISA
