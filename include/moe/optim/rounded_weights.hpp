#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/optim/group_adamw.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline void round_span(cpu const& space, bf16_layout layout, float const* w, bf16* rounded, index_t n) {
  parallel_chunks(space, n, 16384, 1.0, [=](index_t, index_t begin, index_t end) {
    index_t i = round_updated<false>(layout, rounded, begin, end, [w](index_t at, auto) { return simd<float>::load(w + at); });
    for (; i < end; ++i) rounded[i] = bf16(w[i]);
  });
}
/// Other spaces multiply row-major weights.
template <class Space>
void round_span(Space const& space, bf16_layout layout, float const* w, bf16* rounded, index_t n) {
  expects(layout == bf16_layout::plain, errc::bad_argument,
          "round_weights: a span is to be rounded in pairs of rows, which the products of this space do not read");
  index_t const columns = n % 16 == 0 ? 16 : n;
  if (n > 0) convert<float>(space, mat(w, n / columns, columns), mat(rounded, n / columns, columns));
}
}  // namespace detail

/// The bf16 copy of a model's float weights that its layers read, each span in its layout: what a step of adamw_by_group with `rounded` leaves, for
/// weights that came from elsewhere (initialised, or read from a file).
///
///   spans    as adamw_by_group; what lies between them is not written
///   w        [n]  in
///   rounded  [n]  out  to nearest, ties to even, a NaN stays one; must not overlap
///
/// Throws  shape_mismatch if the lengths differ, a span reaches beyond n, or one in pairs of rows has no multiple of 64 elements; bad_argument for
///         pairs of rows in a space whose products read rows.
/// Cost    reads 4 and writes 2 bytes per element.
template <execution_space Space>
void round_weights(Space const& space, std::span<parameter_span const> spans, in<float, dyn> w, vector_view<bf16> rounded) {
  expects(rounded.size() == w.size(), errc::shape_mismatch, "round_weights: rounded has ", rounded.size(), " elements, needs ", w.size());
  for (parameter_span const& s : spans) {
    expects(s.begin >= 0 && s.begin <= s.end && s.end <= w.size(), errc::shape_mismatch, "round_weights: a span is elements [", s.begin, ", ", s.end,
            ") of ", w.size());
    expects((s.end - s.begin) % rounded_block(s.layout) == 0, errc::shape_mismatch, "round_weights: a span in pairs of rows has ", s.end - s.begin,
            " elements, needs a multiple of ", rounded_block(s.layout));
  }
  for (parameter_span const& s : spans) detail::round_span(space, s.layout, w.data() + s.begin, rounded.data() + s.begin, s.end - s.begin);
}

}  // namespace moe::inline MOE_ISA
