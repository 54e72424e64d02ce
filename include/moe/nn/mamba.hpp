#pragma once
#include <moe/core/elementwise.hpp>
#include <moe/nn/linear.hpp>
#include <moe/ssm/causal_conv1d.hpp>
#include <moe/ssm/decay_rates.hpp>
#include <moe/ssm/selective_scan.hpp>

namespace moe::inline MOE_ISA::nn {

struct mamba_config {
  int d_model = 0;
  int expand = 2;                                       ///< d_inner / d_model
  int d_inner = 0;                                      ///< 0: expand * d_model
  int d_state = 16;                                     ///< of every channel
  int d_conv = 4;                                       ///< taps of the convolution
  int dt_rank = 0;                                      ///< 0: d_model / 16, rounded up
  double dt_min = 1e-3, dt_max = 0.1, dt_floor = 1e-4;  ///< initial time steps: log-uniform in [dt_min, dt_max), at least dt_floor
  bool conv_bias = true;
  double output_gain = 1;  ///< multiplies the initial bound of the output weight, 1 / sqrt(d_inner)
};

/// Selective state-space layer (Mamba):
///   x, z = W_in input;   u = silu(conv(x));   r, B, C = W_x u;   dt = softplus(W_dt r + b_dt);   A = -exp(A_log)
///   h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t;   output = W_out ((C_t h_t + D u_t) silu(z_t))
/// The convolution is causal and of every channel by itself; state and decay rates are accumulator<T>. Decoding keeps the state and the last
/// d_conv - 1 inputs of the convolution, however long the sequence: `capacity` costs nothing.
///
/// Initial values are those that were published: W_in, W_x and W_out uniform within 1 / sqrt(inputs), the convolution and its bias within
/// 1 / sqrt(d_conv), W_dt within 1 / sqrt(dt_rank), b_dt such that time steps are log-uniform, A = -1, -2, ..., D = 1. What the state evolves by
/// (A_log, D, b_dt, convolution) is of parameter_group::ssm_state, which is not to decay; the projections are of parameter_group::ssm.
///
/// Source  Gu and Dao 2023, arXiv:2312.00752, algorithm 2 and section 3; names, order and initial values as in their code.
template <mamba_config C>
struct mamba : layer_base {
  static_assert(C.d_model >= 2, "moe::nn::mamba: d_model must be at least 2");
  static_assert(C.d_inner > 1 || (C.d_inner == 0 && C.expand >= 1), "moe::nn::mamba: expand must be at least 1, or d_inner at least 2");
  static_assert(C.d_state >= 1 && C.d_conv >= 1 && C.dt_rank >= 0, "moe::nn::mamba: d_state and d_conv must be at least 1, dt_rank not negative");
  static_assert(C.dt_min > 0 && C.dt_max >= C.dt_min && C.dt_floor >= 0, "moe::nn::mamba: needs 0 < dt_min <= dt_max and dt_floor >= 0");
  static constexpr std::string_view name = "mamba";
  static constexpr int d_model = C.d_model, d_state = C.d_state, d_conv = C.d_conv;
  static constexpr index_t d_inner = C.d_inner > 0 ? C.d_inner : index_t{C.expand} * C.d_model,
                           dt_rank = C.dt_rank > 0 ? C.dt_rank : (C.d_model + 15) / 16, dbc_width = dt_rank + 2 * d_state;
  static constexpr selective_scan_config scan{.d_state = C.d_state};
  static constexpr causal_conv1d_config conv{.width = C.d_conv};

  enum place { in_proj, conv_weight, x_proj, dt_weight, dt_bias, a_log, skip, out_proj, conv_bias };
  static constexpr initializer first_steps{.kind = initial_kind::time_step, .low = C.dt_min, .high = C.dt_max, .floor = C.dt_floor};
  static constexpr auto parameters = [] {
    using enum parameter_group;
    auto const make = [](auto const&... last) {
      return parameter_list(product_weight<1, 2 * d_inner, d_model>{"in_proj.weight", ssm, scaled_uniform(d_model)},
                            parameter<1, d_inner, d_conv>{"conv1d.weight", ssm_state, scaled_uniform(d_conv)},
                            product_weight<1, dbc_width, d_inner>{"x_proj.weight", ssm, scaled_uniform(d_inner)},
                            product_weight<1, d_inner, dt_rank>{"dt_proj.weight", ssm, scaled_uniform(dt_rank)},
                            parameter<1, 1, d_inner>{"dt_proj.bias", ssm_state, first_steps},
                            parameter<1, d_inner, d_state>{"A_log", ssm_state, {.kind = initial_kind::log_column}},
                            parameter<1, 1, d_inner>{"D", ssm_state, {.constant = 1}},
                            product_weight<1, d_model, d_inner>{"out_proj.weight", ssm, scaled_uniform(d_inner, C.output_gain)}, last...);
    };
    if constexpr (C.conv_bias) return make(parameter<1, 1, d_inner>{"conv1d.bias", ssm_state, scaled_uniform(d_conv)});
    else return make();
  }();
  static constexpr index_t parameter_count = parameters.size;

  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
  static constexpr index_t active_parameters() { return parameters.elements; }
  /// Products, taps, and for each element of the state seven operations, of which an exponential is one.
  static constexpr double flops_per_token(index_t) {
    return 2.0 * static_cast<double>(d_inner * (3 * d_model + dbc_width + dt_rank + d_conv)) + static_cast<double>(d_inner * (7 * d_state + 6));
  }

  template <class T>
  struct activations {
    matrix_view<T const> x;
    matrix_view<T> xz, dbc, out;  // [tokens, 2 d_inner], [tokens, dbc_width], [tokens, d_inner]
    selective_scan_checkpoints<T> checkpoints;
    template <class S>
    activations(S const&, arena& a, sequence_shape n)
        : xz(a.mat<T>(n.tokens(), 2 * d_inner)), dbc(a.mat<T>(n.tokens(), dbc_width)), out(a.mat<T>(n.tokens(), d_inner)),
          checkpoints(selective_scan_checkpoints<T>::take(a, n.tokens(), n.sequences, d_inner, d_state)) {}
  };
  template <class T>
  struct state {
    matrix_view<T> inputs;          // [d_conv - 1, d_inner]  of the convolution, oldest first
    matrix_view<accumulator<T>> h;  // [d_inner, d_state]
    index_t position = 0;           ///< of the next token
    template <class S>
    state(S const& space, arena& a, index_t /*capacity*/) : inputs(a.mat<T>(d_conv - 1, d_inner)), h(a.mat<accumulator<T>>(d_inner, d_state)) {
      clear(space);
    }
    template <class S>
    void clear(S const& space) {
      fill(space, inputs, T(0.0f));
      fill(space, h, accumulator<T>(0));
      position = 0;
    }
  };

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    index_t const rows = n.tokens();
    return detail::measured([&](arena& a) { inner_rows<T>(a, rows), gradient_rows<T>(a, rows), dynamics<T>(a); }) +
           std::max({product_bytes<T>(space, rows), selective_scan_scratch_bytes<scan, T>(space, rows, d_inner, n.sequences),
                     selective_scan_backward_scratch_bytes<scan, T>(space, rows, d_inner, n.sequences),
                     causal_conv1d_backward_scratch_bytes<conv, T>(space, rows, d_inner, n.sequences)});
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t) {
    return detail::measured([&](arena& a) {
             inner_rows<T>(a, rows), dynamics<T>(a);
             a.mat<T>(rows, 2 * d_inner), a.mat<T>(rows, dbc_width), a.mat<T>(rows, d_inner);
           }) +
           std::max(product_bytes<T>(space, rows), selective_scan_scratch_bytes<scan, T>(space, rows, d_inner, 1));
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    detail::check_tokens("mamba", x.rows(), n);
    a.x = x;
    run(space, w, x, y, equal_sequences(n.sequences, n.length), a, states<T>(), scratch);
  }

  /// position is 0, where the state is forgotten, or follows that of the last call: a state cannot go back.
  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    if (position == 0) s.clear(space);
    expects(position == s.position, errc::bad_argument, "mamba: rows from position ", position, " on, the state has seen ", s.position);
    arena::scope const scope(scratch);
    index_t const rows = x.rows();
    struct {
      matrix_view<T> xz, dbc, out;
      selective_scan_checkpoints<T> checkpoints;
    } const buffers{scratch.mat<T>(rows, 2 * d_inner), scratch.mat<T>(rows, dbc_width), scratch.mat<T>(rows, d_inner), {}};
    run(space, w, x, y, equal_sequences(1, rows), buffers, states<T>{state_view(s.inputs), state_view(s.h)}, scratch);
    s.position += rows;
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double, arena& scratch) {
    arena::scope const scope(scratch);
    sequence_rows const sequences = equal_sequences(n.sequences, n.length);
    inner_rows<T> const inner(scratch, n.tokens());
    gradient_rows<T> const d(scratch, n.tokens());
    dynamics<T> const constants(scratch);
    linear_backward<T>(space, a.out, weight<out_proj>(space, w), d_y, d.out, weight<out_proj>(space, g), scratch);
    convolve(space, w, a.xz, sequences, states<T>(), inner.u);
    auto const in = scan_inputs(space, w, a.xz, a.dbc, inner, constants, scratch);
    fill(space, constants.d_a, accumulator<T>(0));
    selective_scan_gradients<T> const d_in{.d_u = d.u,
                                           .d_delta = d.delta,
                                           .d_a = constants.d_a,
                                           .d_b = b_of(d.dbc),
                                           .d_c = c_of(d.dbc),
                                           .d_skip = weight<skip>(space, g),
                                           .d_delta_bias = weight<dt_bias>(space, g),
                                           .d_z = z_of(d.xz)};
    selective_scan_backward<scan, T>(space, in, sequences, {}, a.checkpoints, d.out, {}, d_in, {}, scratch);
    decay_rates_backward<accumulator<T>>(space, constants.a, constants.d_a, weight<a_log>(space, g));
    linear_backward<T>(space, dt_of(a.dbc), weight<dt_weight>(space, w), d.delta, dt_of(d.dbc), weight<dt_weight>(space, g), scratch);
    linear_backward<T, true>(space, inner.u, weight<x_proj>(space, w), d.dbc, d.u, weight<x_proj>(space, g), scratch);
    causal_conv1d_backward<conv, T>(space, x_of(a.xz), weight<conv_weight>(space, w), bias_of_conv(space, w), sequences, {}, d.u, {}, x_of(d.xz),
                                    weight<conv_weight>(space, g), bias_of_conv(space, g), {}, scratch);
    linear_backward<T>(space, a.x, weight<in_proj>(space, w), d.xz, d_x, weight<in_proj>(space, g), scratch);
  }

 private:
  /// What forward needs for a while and backward computes again: cheaper than to keep it for every layer.
  template <class T>
  struct inner_rows {
    matrix_view<T> u, delta;  // [tokens, d_inner]  after the convolution; time steps before bias and softplus
    inner_rows(arena& a, index_t rows) : u(a.mat<T>(rows, d_inner)), delta(a.mat<T>(rows, d_inner)) {}
  };
  template <class T>
  struct gradient_rows {
    matrix_view<T> xz, dbc, out, u, delta;
    gradient_rows(arena& a, index_t rows)
        : xz(a.mat<T>(rows, 2 * d_inner)), dbc(a.mat<T>(rows, dbc_width)), out(a.mat<T>(rows, d_inner)), u(a.mat<T>(rows, d_inner)),
          delta(a.mat<T>(rows, d_inner)) {}
  };
  /// What the scan reads of the weights, in the type of its state.
  template <class T>
  struct dynamics {
    matrix_view<accumulator<T>> a, d_a, skip, dt_bias;  // [d_inner, d_state] twice, [1, d_inner] twice
    explicit dynamics(arena& m)
        : a(m.mat<accumulator<T>>(d_inner, d_state)), d_a(m.mat<accumulator<T>>(d_inner, d_state)), skip(m.mat<accumulator<T>>(1, d_inner)),
          dt_bias(m.mat<accumulator<T>>(1, d_inner)) {}
  };
  /// Of one sequence, or null: none comes in and none is wanted.
  template <class T>
  struct states {
    tensor<T, dyn, dyn, dyn> inputs;
    tensor<accumulator<T>, dyn, dyn, dyn> h;
  };
  template <class T>
  static tensor<T, dyn, dyn, dyn> state_view(matrix_view<T> s) {
    return tensor<T, dyn, dyn, dyn>(s.data(), 1, s.template extent<0>(), s.template extent<1>());
  }

  template <place I, class S, class T>
  static auto weight(S const& space, T* w) {
    return parameters.template at<I>(space, w);
  }
  template <class S, class T>
  static vector_view<T> bias_of_conv(S const& space, T* w) {
    if constexpr (C.conv_bias) return weight<conv_bias>(space, w);
    else return {};
  }
  /// A vector of the weights in accumulator<T>: itself, or its copy in `wide`.
  template <place I, class S, class T>
  static vector_view<accumulator<T> const> widened(S const& space, T const* w, matrix_view<accumulator<T>> wide) {
    auto const v = weight<I>(space, w);
    if constexpr (std::is_same_v<accumulator<T>, T>) return v;
    else {
      convert<T>(space, mat(v.data(), 1, d_inner), wide);
      return vec(static_cast<accumulator<T> const*>(wide.data()), d_inner);
    }
  }
  template <class T>
  static matrix_view<T> x_of(matrix_view<T> xz) {
    return columns_of(xz, 0, d_inner);
  }
  template <class T>
  static matrix_view<T> z_of(matrix_view<T> xz) {
    return columns_of(xz, d_inner, 2 * d_inner);
  }
  template <class T>
  static matrix_view<T> dt_of(matrix_view<T> dbc) {
    return columns_of(dbc, 0, dt_rank);
  }
  template <class T>
  static matrix_view<T> b_of(matrix_view<T> dbc) {
    return columns_of(dbc, dt_rank, dt_rank + d_state);
  }
  template <class T>
  static matrix_view<T> c_of(matrix_view<T> dbc) {
    return columns_of(dbc, dt_rank + d_state, dbc_width);
  }

  template <class S, class T>
  static void convolve(S const& space, T const* w, matrix_view<T> xz, sequence_rows sequences, states<T> const& s, matrix_view<T> u) {
    causal_conv1d<conv, T>(space, x_of(xz), weight<conv_weight>(space, w), bias_of_conv(space, w), sequences, s.inputs, u, s.inputs);
  }
  /// What the scan reads: writes the time steps and the constants.
  template <class S, class T>
  static selective_scan_inputs<T> scan_inputs(S const& space, T const* w, matrix_view<T> xz, matrix_view<T> dbc, inner_rows<T> const& inner,
                                              dynamics<T> const& constants, arena& scratch) {
    linear<T>(space, dt_of(dbc), weight<dt_weight>(space, w), inner.delta, scratch);
    decay_rates<T>(space, weight<a_log>(space, w), constants.a);
    return {.u = inner.u,
            .delta = inner.delta,
            .a = constants.a,
            .b = b_of(dbc),
            .c = c_of(dbc),
            .skip = widened<skip>(space, w, constants.skip),
            .delta_bias = widened<dt_bias>(space, w, constants.dt_bias),
            .z = z_of(xz)};
  }
  /// `a` has xz, dbc, out and checkpoints.
  template <class S, class T, class Rows>
  static void run(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_rows sequences, Rows const& a, states<T> const& s,
                  arena& scratch) {
    arena::scope const scope(scratch);
    inner_rows<T> const inner(scratch, x.rows());
    dynamics<T> const constants(scratch);
    linear<T>(space, x, weight<in_proj>(space, w), a.xz, scratch);
    convolve(space, w, a.xz, sequences, s, inner.u);
    linear<T>(space, inner.u, weight<x_proj>(space, w), a.dbc, scratch);
    auto const in = scan_inputs(space, w, a.xz, a.dbc, inner, constants, scratch);
    selective_scan<scan, T>(space, in, sequences, s.h, a.out, s.h, a.checkpoints, scratch);
    linear<T>(space, a.out, weight<out_proj>(space, w), y, scratch);
  }
  template <class T, class S>
  static std::size_t product_bytes(S const& space, index_t rows) {
    return std::max({linear_scratch_bytes<T, layout::product>(space, rows, 2 * d_inner, d_model),
                     linear_scratch_bytes<T, layout::product>(space, rows, dbc_width, d_inner),
                     linear_scratch_bytes<T, layout::product>(space, rows, d_inner, dt_rank),
                     linear_scratch_bytes<T, layout::product>(space, rows, d_model, d_inner)});
  }
};

}  // namespace moe::inline MOE_ISA::nn
