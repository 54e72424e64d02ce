#pragma once
#include <moe/attention/attention.hpp>
#include <moe/attention/rope.hpp>
#include <moe/core/elementwise.hpp>
#include <moe/nn/linear.hpp>

namespace moe::inline MOE_ISA::nn {

struct attention_config {
  int d_model = 0, heads = 1;
  int kv_heads = 0;  ///< 0: heads; fewer: grouped-query attention
  int d_head = 0;    ///< 0: d_model / heads
  double rope_base = 10000;
  double output_gain = 1;  ///< multiplies the initial standard deviation of the output weight, 1 / sqrt(heads * d_head)
};

/// Causal self-attention with rotary positions:  y = W_out attention(rope(W_q x), rope(W_k x), W_v x).  One weight holds the rows of q, k and v, in this order. No biases.
/// Source  Vaswani et al. 2017, arXiv:1706.03762; Su et al. 2021, arXiv:2104.09864 (RoPE); Ainslie et al. 2023, arXiv:2305.13245 (GQA).
template <attention_config C>
struct attention_layer : layer_base {
  static_assert(C.d_model >= 1 && C.heads >= 1, "moe::nn::attention_layer: d_model and heads must be at least 1");
  static_assert(C.d_head > 0 || C.d_model % C.heads == 0, "moe::nn::attention_layer: heads must divide d_model, or d_head be given");
  static constexpr std::string_view name = "attention";
  static constexpr int d_model = C.d_model, heads = C.heads, kv_heads = C.kv_heads > 0 ? C.kv_heads : C.heads,
                       d_head = C.d_head > 0 ? C.d_head : C.d_model / C.heads;
  static constexpr index_t q_width = index_t{heads} * d_head, kv_width = index_t{kv_heads} * d_head, qkv_width = q_width + 2 * kv_width;
  static constexpr attention_shape shape{.heads = heads, .kv_heads = kv_heads, .d_head = d_head};
  static constexpr rope_config rotation{.d_head = d_head, .base = C.rope_base};
  static constexpr auto parameters =
      parameter_list(product_weight<1, qkv_width, d_model>{"qkv.weight", parameter_group::attention, scaled_normal(d_model)},
                     product_weight<1, d_model, q_width>{"out.weight", parameter_group::attention, scaled_normal(q_width, C.output_gain)});
  static constexpr index_t parameter_count = parameters.size;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
  static constexpr index_t active_parameters() { return parameters.elements; }
  static constexpr double flops_per_token(index_t length) {
    return 2.0 * parameters.elements + 2.0 * 2.0 * static_cast<double>(q_width) * 0.5 * static_cast<double>(length + 1);
  }

  template <class T>
  struct activations {
    matrix_view<T const> x;
    matrix_view<T> qkv, o;
    matrix_view<accumulator<T>> lse;
    rope_table<accumulator<T>> table;
    template <class S>
    activations(S const& space, arena& a, sequence_shape n)
        : qkv(a.mat<T>(n.tokens(), qkv_width)), o(a.mat<T>(n.tokens(), q_width)), lse(a.mat<accumulator<T>>(n.tokens(), heads)),
          table(rope_table<accumulator<T>>::take(a, n.length, d_head)) {
      fill_rope_table<rotation>(space, table);
    }
  };
  template <class T>
  struct state {
    matrix_view<T> keys, values;  // [capacity, kv_width]
    rope_table<accumulator<T>> table;
    template <class S>
    state(S const& space, arena& a, index_t capacity)
        : keys(a.mat<T>(capacity, kv_width)), values(a.mat<T>(capacity, kv_width)), table(rope_table<accumulator<T>>::take(a, capacity, d_head)) {
      fill_rope_table<rotation>(space, table);
    }
  };

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    index_t const tokens = n.tokens();
    return detail::measured([&](arena& a) { a.mat<T>(tokens, q_width), a.mat<T>(tokens, qkv_width); }) +
           std::max({product_bytes<T>(space, tokens), attention_scratch_bytes<shape, T>(space, tokens, n.length)});
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t capacity) {
    return detail::measured([&](arena& a) { a.mat<T>(rows, qkv_width), a.mat<T>(rows, q_width); }) +
           std::max(product_bytes<T>(space, rows), attention_cached_scratch_bytes<shape, T>(space, rows, capacity));
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    detail::check_tokens("attention_layer", x.rows(), n);
    a.x = x;
    linear<T>(space, x, parameters.template at<0>(space, w), a.qkv, scratch);
    rope<rotation>(space, q_of(a.qkv), a.table, consecutive{0, n.length});
    rope<rotation>(space, k_of(a.qkv), a.table, consecutive{0, n.length});
    attention<shape>(space, q_of(a.qkv), k_of(a.qkv), v_of(a.qkv), n.length, a.o, a.lse, scratch);
    linear<T>(space, a.o, parameters.template at<1>(space, w), y, scratch);
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double, arena& scratch) {
    arena::scope const scope(scratch);
    auto const d_o = scratch.mat<T>(n.tokens(), q_width), d_qkv = scratch.mat<T>(n.tokens(), qkv_width);
    linear_backward<T>(space, a.o, parameters.template at<1>(space, w), d_y, d_o, parameters.template at<1>(space, g), scratch);
    attention_backward<shape>(space, q_of(a.qkv), k_of(a.qkv), v_of(a.qkv), a.o, a.lse, d_o, n.length, q_of(d_qkv), k_of(d_qkv), v_of(d_qkv),
                              scratch);
    rope_backward<rotation>(space, q_of(d_qkv), a.table, consecutive{0, n.length});
    rope_backward<rotation>(space, k_of(d_qkv), a.table, consecutive{0, n.length});
    linear_backward<T>(space, a.x, parameters.template at<0>(space, w), d_qkv, d_x, parameters.template at<0>(space, g), scratch);
  }

  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t first, state<T>& s, arena& scratch) {
    arena::scope const scope(scratch);
    index_t const rows = x.rows();
    auto const qkv = scratch.mat<T>(rows, qkv_width), o = scratch.mat<T>(rows, q_width);
    linear<T>(space, x, parameters.template at<0>(space, w), qkv, scratch);
    rope<rotation>(space, q_of(qkv), s.table, consecutive{first, rows});
    rope<rotation>(space, k_of(qkv), s.table, consecutive{first, rows});
    copy<T>(space, k_of(qkv), rows_of(s.keys, first, first + rows));
    copy<T>(space, v_of(qkv), rows_of(s.values, first, first + rows));
    attention_cached<shape>(space, q_of(qkv), s.keys, s.values, first, o, scratch);
    linear<T>(space, o, parameters.template at<1>(space, w), y, scratch);
  }

 private:
  template <class T>
  static matrix_view<T> q_of(matrix_view<T> qkv) {
    return columns_of(qkv, 0, q_width);
  }
  template <class T>
  static matrix_view<T> k_of(matrix_view<T> qkv) {
    return columns_of(qkv, q_width, q_width + kv_width);
  }
  template <class T>
  static matrix_view<T> v_of(matrix_view<T> qkv) {
    return columns_of(qkv, q_width + kv_width, qkv_width);
  }
  template <class T, class S>
  static std::size_t product_bytes(S const& space, index_t rows) {
    return std::max(linear_scratch_bytes<T, layout::product>(space, rows, qkv_width, d_model),
                    linear_scratch_bytes<T, layout::product>(space, rows, d_model, q_width));
  }
};

}  // namespace moe::inline MOE_ISA::nn
