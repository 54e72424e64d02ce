#pragma once
#include <moe/nn/hidden_forward.hpp>
#include <moe/nn/linear.hpp>

namespace moe::inline MOE_ISA::nn {

using moe::activation_kind;

namespace detail {
using moe::detail::input_matrices;

/// h [rows, width] from the pre-activation [rows, input_matrices * width]: swiglu has gate in the first columns, up in the others.
template <activation_kind K, class S, class T>
void activate(S const& space, matrix_view<T const> pre, matrix_view<T> h) {
  index_t const f = h.template extent<1>();
  if constexpr (K == activation_kind::swiglu) swiglu(space, columns_of(pre, 0, f), columns_of(pre, f, 2 * f), h);
  else if constexpr (K == activation_kind::relu) relu(space, pre, h);
  else gelu(space, pre, h);
}
}  // namespace detail

struct ffn_config {
  int d_model = 0, d_ff = 0;
  activation_kind activation = activation_kind::swiglu;
  double output_gain = 1;  ///< multiplies the initial standard deviation of the output weight, 1 / sqrt(d_ff)
};

/// Dense feed-forward layer: y = W_out act(W_in x); swiglu: y = W_out (silu(W_gate x) * W_up x). No biases.
/// Source  Shazeer 2020, arXiv:2002.05202.
template <ffn_config C>
struct ffn : layer_base {
  static_assert(C.d_model >= 1 && C.d_ff >= 1, "moe::nn::ffn: d_model and d_ff must be at least 1");
  static constexpr std::string_view name = "ffn";
  static constexpr int d_model = C.d_model;
  static constexpr index_t width = C.d_ff, pre_width = detail::input_matrices(C.activation) * width;
  static constexpr auto parameters =
      parameter_list(product_weight<1, pre_width, d_model>{"in.weight", parameter_group::ffn, scaled_normal(d_model)},
                     product_weight<1, d_model, width>{"out.weight", parameter_group::ffn, scaled_normal(width, C.output_gain)});
  static constexpr index_t parameter_count = parameters.size;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
  static constexpr index_t active_parameters() { return parameters.elements; }
  static constexpr double flops_per_token(index_t) { return 2.0 * parameters.elements; }

  template <class T>
  struct activations {
    matrix_view<T const> x;
    matrix_view<T> pre;
    template <class S>
    activations(S const&, arena& a, sequence_shape n) : pre(a.mat<T>(n.tokens(), pre_width)) {}
  };
  template <class T>
  using state = typename layer_base::template stateless<T>;

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    return detail::measured([&](arena& a) { a.mat<T>(n.tokens(), width), a.mat<T>(n.tokens(), pre_width); }) +
           gemm_bytes<T>(space, n.tokens());
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t) {
    return detail::measured([&](arena& a) { a.mat<T>(rows, width), a.mat<T>(rows, pre_width); }) + gemm_bytes<T>(space, rows);
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape, activations<T>& a, arena& scratch) {
    a.x = x;
    run(space, w, x, a.pre, y, scratch);
  }
  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t, state<T>&, arena& scratch) {
    arena::scope const scope(scratch);
    run(space, w, x, scratch.mat<T>(x.rows(), pre_width), y, scratch);
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double, arena& scratch) {
    arena::scope const scope(scratch);
    auto const h = scratch.mat<T>(n.tokens(), width), d_pre = scratch.mat<T>(n.tokens(), pre_width), d_h = columns_of(d_pre, 0, width);
    linear_input_gradient<T>(space, parameters.template at<1>(space, w), d_y, d_h, scratch);
    hidden_backward<C.activation, T>(space, a.pre, d_h, h, d_pre);
    linear_weight_gradient<T>(space, h, d_y, parameters.template at<1>(space, g), scratch);
    linear_backward<T>(space, a.x, parameters.template at<0>(space, w), d_pre, d_x, parameters.template at<0>(space, g), scratch);
  }

 private:
  template <class S, class T>
  static void run(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> pre, matrix_view<T> y, arena& scratch) {
    arena::scope const scope(scratch);
    auto const h = scratch.mat<T>(x.rows(), width);
    auto const up = parameters.template at<0>(space, w);
    if constexpr (keeps_panels<S>) hidden_forward<C.activation, T>(space, x, up, pre, h, scratch);
    else linear<T>(space, x, up, pre, scratch), detail::activate<C.activation, S, T>(space, pre, h);
    linear<T>(space, h, parameters.template at<1>(space, w), y, scratch);
  }
  template <class T, class S>
  static std::size_t gemm_bytes(S const& space, index_t rows) {
    return std::max(linear_scratch_bytes<T, layout::product>(space, rows, pre_width, d_model),
                    linear_scratch_bytes<T, layout::product>(space, rows, d_model, width));
  }
};

}  // namespace moe::inline MOE_ISA::nn
