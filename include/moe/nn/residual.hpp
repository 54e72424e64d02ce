#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/nn/layer.hpp>
#include <moe/nn/rms_norm.hpp>

namespace moe::inline MOE_ISA::nn {

/// y = x + L(rms_norm(x)): the pre-norm residual branch. Names: "norm.weight" and those of L.
/// Source  Xiong et al. 2020, arXiv:2002.04745 (pre-norm); Zhang and Sennrich 2019, arXiv:1910.07467 (RMSNorm).
template <class L>
struct residual {
  static_assert(named_layer_type<L>, "moe::nn::residual: L is no layer with a name; nn/layer.hpp lists what a layer has");
  static constexpr int d_model = L::d_model;
  static constexpr index_t group_size = detail::group_size_of<L>();
  static constexpr std::string_view name = L::name;
  static constexpr double eps = 1e-5;
  static constexpr auto parameters = parameter_list(parameter<1, 1, d_model>{"norm.weight", parameter_group::norm, {.constant = 1}});
  static constexpr index_t parameter_count = parameters.size + L::parameter_count;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
    L::for_each_parameter(prefix, first + parameters.size, f);
  }
  static constexpr index_t active_parameters() { return parameters.elements + L::active_parameters(); }
  static constexpr double flops_per_token(index_t length) { return L::flops_per_token(length); }

  template <class T>
  struct activations {
    matrix_view<T const> x;
    matrix_view<T> normed;
    vector_view<accumulator<T>> rstd;
    typename L::template activations<T> inner;
    template <class S>
    activations(S const& space, arena& a, sequence_shape n)
        : normed(a.mat<T>(n.tokens(), d_model)), rstd(a.vec<accumulator<T>>(n.tokens())), inner(space, a, n) {}
  };
  template <class T>
  using state = typename L::template state<T>;

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    return scratch_rows<T>(n.tokens()) +
           std::max(L::template scratch_bytes<T>(space, n), rms_norm_backward_scratch_bytes<T>(space, n.tokens(), d_model));
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    a.x = x;
    rms_norm(space, x, parameters.template at<0>(space, w), accumulator<T>(eps), a.normed, a.rstd);
    L::forward(space, detail::past(w, parameters.size), matrix_view<T const>(a.normed), y, n, a.inner, scratch);
    add<T>(space, x, y);
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double scale, arena& scratch) {
    arena::scope const scope(scratch);
    auto const d_normed = scratch.mat<T>(n.tokens(), d_model);
    L::backward(space, detail::past(w, parameters.size), detail::past(g, parameters.size), d_y, d_normed, n, a.inner, scale, scratch);
    rms_norm_backward(space, d_normed, a.x, parameters.template at<0>(space, w), a.rstd, d_x, parameters.template at<0>(space, g), scratch);
    add<T>(space, d_y, d_x);
  }

  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    extend_by(space, w, x, y, scratch, [&](matrix_view<T const> normed) {
      L::extend(space, detail::past(w, parameters.size), normed, y, position, s, scratch);
    });
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t capacity) {
    return scratch_rows<T>(rows) + L::template extend_scratch_bytes<T>(space, rows, capacity);
  }
  template <class S, class T, class States>
  static void extend_group(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, sequence_shape n,
                           States const& states, arena& scratch) {
    extend_by(space, w, x, y, scratch, [&](matrix_view<T const> normed) {
      detail::extend_group<L>(space, detail::past(w, parameters.size), normed, y, position, n, states, scratch);
    });
  }
  template <class T, class S>
  static std::size_t extend_group_scratch_bytes(S const& space, sequence_shape n, index_t capacity) {
    return scratch_rows<T>(n.tokens()) + detail::extend_group_scratch_bytes<L, T>(space, n, capacity);
  }

  template <class A, class F>
  static void for_each_router(A& a, F const& f) {
    L::for_each_router(a.inner, f);
  }

 private:
  template <class S, class T, class F>
  static void extend_by(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, arena& scratch, F const& inner) {
    arena::scope const scope(scratch);
    auto const normed = scratch.mat<T>(x.rows(), d_model);
    rms_norm(space, x, parameters.template at<0>(space, w), accumulator<T>(eps), normed, scratch.vec<accumulator<T>>(x.rows()));
    inner(matrix_view<T const>(normed));
    add<T>(space, x, y);
  }
  template <class T>
  static std::size_t scratch_rows(index_t rows) {
    return detail::measured([&](arena& a) { a.mat<T>(rows, d_model), a.vec<accumulator<T>>(rows); });
  }
};

}  // namespace moe::inline MOE_ISA::nn
