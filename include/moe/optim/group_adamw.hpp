#pragma once
#include <concepts>
#include <span>
#include <vector>

#include <moe/core/space.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/group_schedule.hpp>

namespace moe::inline MOE_ISA {

/// Elements [begin, end) of a model's buffer: neighbouring parameters that are treated alike. Vectors (norms, biases) do not decay, whatever their
/// group.
struct parameter_span {
  parameter_group group{};
  index_t begin = 0, end = 0;
  bool decays = true;
  bf16_layout layout = bf16_layout::plain;  ///< of the span's part of a rounded copy of the weights
  friend bool operator==(parameter_span const&, parameter_span const&) = default;
};

/// What parameter_spans needs to know of a parameter; nn::parameter_info says it.
template <class P>
concept grouped_parameter = requires(P const& p) {
  { p.group } -> std::convertible_to<parameter_group>;
  { p.offset } -> std::convertible_to<index_t>;  // first element in the buffer
  { p.size } -> std::convertible_to<index_t>;    // elements, padding included
  { p.rows } -> std::convertible_to<index_t>;    // 1: a vector
};

/// The spans of a list of parameters in the order of the buffer: `parameter_spans(nn::parameters_of<model>())`. Made once; a training step only
/// reads them. A parameter may say the layout of its rounded copy, p.rounded_layout; plain where it does not.
/// Throws  bad_argument if a parameter is of no group, has a negative size, or begins before the end of the one before it.
template <grouped_parameter P>
std::vector<parameter_span> parameter_spans(std::vector<P> const& parameters) {
  std::vector<parameter_span> spans;
  for (auto const& p : parameters) {
    parameter_span s{p.group, p.offset, p.offset + p.size, p.rows > 1};
    if constexpr (requires { s.layout = p.rounded_layout; }) s.layout = p.rounded_layout;
    index_t const before = spans.empty() ? 0 : spans.back().end;
    expects(s.begin >= before && s.end >= s.begin, errc::bad_argument, "parameter_spans: a parameter of group ", name_of(s.group), " is elements [",
            s.begin, ", ", s.end, ") of the buffer, needs to begin at ", before, " or later and not to end before it begins");
    parameter_span joined = spans.empty() ? s : spans.back();
    joined.begin = s.begin, joined.end = s.end;
    if (!spans.empty() && before == s.begin && joined == s) spans.back().end = s.end;
    else spans.push_back(s);
  }
  return spans;
}

/// One step of adamw over a model's buffer: each span with the learning rate and the weight decay that its group has at this step.
///
///   spans       parts of the buffer, ascending, without overlap (parameter_spans); what lies between them stays as it is
///   w, m, v, g  [n]  as adamw
///   grad_scale  whatever adamw takes: a number, or a view [1] of double in the memory of the space, where clip_scale wrote it: then no part of a
///               training step has to wait for another. The rates and the step are numbers of the host in either case: a CUDA graph that captures
///               the call keeps those it was captured with.
///   also        as adamw, [n]: only what spans cover is zeroed or rounded. The layout of `rounded` is that of each span, from its begin on;
///               also.layout is not looked at
///
/// Edges   no spans, or a span without elements: nothing changes there.
/// Throws  shape_mismatch if the lengths differ, a span reaches beyond n, or one in pairs of rows has no multiple of 64 elements; bad_argument if
///         spans overlap or descend, and as rates.at and adamw. All before anything is changed. A factor in device memory cannot be refused: as in
///         adamw, the step is left out in silence.
/// Order   the bits of calls of adamw, one per span, for any way to cut the buffer into spans.
/// Cost    adamw's; neighbouring spans of equal rates are one call.
template <execution_space Space, class T, class Scale>
void adamw_by_group(Space const& space, std::span<parameter_span const> spans, group_schedule const& rates, tensor<T, dyn> w, tensor<T, dyn> m,
                    tensor<T, dyn> v, in<T, dyn> g, Scale const& grad_scale, index_t step, adamw_config config = {},
                    std::type_identity_t<adamw_outputs<T>> const& also = {}) {
  index_t const n = w.size();
  expects(m.size() == n && v.size() == n && g.size() == n, errc::shape_mismatch, "adamw_by_group: w, m, v and g have ", n, ", ", m.size(), ", ",
          v.size(), " and ", g.size(), " elements, need to have as many");
  detail::check_adamw_outputs<T>("adamw_by_group", n, g, {also.zeroed, also.rounded});
  bool const rounds = also.rounded.size() != 0;
  auto const rate_of = [&](parameter_span const& s) {
    group_rate const r = rates.at(s.group, step);
    return s.decays ? r : group_rate{r.lr, 0};
  };
  double known_scale = 1;
  if constexpr (std::convertible_to<Scale, double>) known_scale = grad_scale;
  for (index_t before = 0; parameter_span const& s : spans) {
    expects(s.begin >= before && s.end >= s.begin, errc::bad_argument, "adamw_by_group: a span is elements [", s.begin, ", ", s.end,
            "), needs to begin at ", before, " or later and not to end before it begins");
    expects(s.end <= n, errc::shape_mismatch, "adamw_by_group: a span is elements [", s.begin, ", ", s.end, ") of ", n);
    expects(!rounds || (s.end - s.begin) % rounded_block(s.layout) == 0, errc::shape_mismatch, "adamw_by_group: a span is elements [", s.begin, ", ",
            s.end, "), needs to be a multiple of ", rounded_block(s.layout), " of them for pairs of rows of 32");
    group_rate const r = rate_of(s);
    detail::check_adamw(r.lr, r.weight_decay, known_scale, step, config, std::numeric_limits<T>::min());
    before = s.end;
  }
  for (std::size_t i = 0; i < spans.size();) {
    group_rate const r = rate_of(spans[i]);
    bf16_layout const layout = rounds ? spans[i].layout : bf16_layout::plain;
    auto const alike = [&](parameter_span const& s) { return rate_of(s) == r && (!rounds || s.layout == layout); };
    index_t const begin = spans[i].begin;
    index_t end = begin;
    for (; i < spans.size() && spans[i].begin == end && alike(spans[i]); ++i) end = spans[i].end;
    auto const part = [&](auto const& whole) { return whole.size() == 0 ? whole : std::decay_t<decltype(whole)>(whole.data() + begin, end - begin); };
    adamw(space, part(w), part(m), part(v), part(g), r.lr, r.weight_decay, grad_scale, step, config,
          {part(also.zeroed), part(also.rounded), layout});
  }
}

}  // namespace moe::inline MOE_ISA
