#pragma once
#include <array>
#include <numeric>
#include <tuple>
#include <utility>

#include <moe/nn/layer.hpp>

namespace moe::inline MOE_ISA::nn {

namespace detail {
/// What sequence and repeat share: N layers of types Ls, one after the other. Layer i reads the output of layer i - 1, which stays in the activations; on the way back two
/// scratch buffers take turns.
template <class... Ls>
struct chain {
  static_assert((layer_type<Ls> && ...), "moe::nn: one type of a sequence or repeat is no layer; nn/layer.hpp lists what a layer has");
  static constexpr int N = sizeof...(Ls);
  static constexpr int d_model = std::tuple_element_t<0, std::tuple<Ls...>>::d_model;
  static_assert(((Ls::d_model == d_model) && ...), "moe::nn::sequence: the layers differ in d_model");
  static constexpr index_t group_size = [] {
    index_t all = 1;
    ((all = std::lcm(all, group_size_of<Ls>())), ...);
    return all;
  }();
  using layers = std::tuple<Ls...>;
  template <int I>
  using layer = std::tuple_element_t<static_cast<std::size_t>(I), layers>;

  static constexpr index_t parameter_count = (Ls::parameter_count + ...);
  static constexpr index_t active_parameters() { return (Ls::active_parameters() + ...); }
  static constexpr double flops_per_token(index_t length) { return (Ls::flops_per_token(length) + ...); }

  template <class T>
  struct activations {
    std::array<matrix_view<T>, static_cast<std::size_t>(N)> outputs;  ///< of all layers but the last
    std::tuple<typename Ls::template activations<T>...> inner;
    template <class S>
    activations(S const& space, arena& a, sequence_shape n) : inner{typename Ls::template activations<T>(space, a, n)...} {
      for (std::size_t i = 0; i + 1 < outputs.size(); ++i) outputs[i] = a.mat<T>(n.tokens(), d_model);
    }
  };
  template <class T>
  struct state {
    std::tuple<typename Ls::template state<T>...> inner;
    template <class S>
    state(S const& space, arena& a, index_t capacity) : inner{typename Ls::template state<T>(space, a, capacity)...} {}
  };

  template <class T, class S>
  static std::size_t scratch_bytes(S const& space, sequence_shape n) {
    return two_buffers<T>(n.tokens()) + std::max({Ls::template scratch_bytes<T>(space, n)...});
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const& space, index_t rows, index_t capacity) {
    return two_buffers<T>(rows) + std::max({Ls::template extend_scratch_bytes<T>(space, rows, capacity)...});
  }
  template <class T, class S>
  static std::size_t extend_group_scratch_bytes(S const& space, sequence_shape n, index_t capacity) {
    return two_buffers<T>(n.tokens()) + std::max({detail::extend_group_scratch_bytes<Ls, T>(space, n, capacity)...});
  }

  template <class S, class T>
  static void forward(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, sequence_shape n, activations<T>& a, arena& scratch) {
    each([&]<int I>() {
      matrix_view<T> const out = I + 1 < N ? a.outputs[I] : y;
      layer<I>::forward(space, w, x, out, n, std::get<I>(a.inner), scratch);
      w = past(w, layer<I>::parameter_count);
      x = out;
    });
  }

  template <class S, class T>
  static void backward(S const& space, T const* w, accumulator<T>* g, matrix_view<T const> d_y, matrix_view<T> d_x, sequence_shape n,
                       activations<T>& a, double scale, arena& scratch) {
    arena::scope const scope(scratch);
    matrix_view<T> const buffers[2] = {scratch.mat<T>(n.tokens(), d_model), scratch.mat<T>(n.tokens(), d_model)};
    w = past(w, parameter_count), g = past(g, parameter_count);
    each([&]<int R>() {
      constexpr int I = N - 1 - R;
      w = past(w, -layer<I>::parameter_count), g = past(g, -layer<I>::parameter_count);
      matrix_view<T> const out = I > 0 ? buffers[I % 2] : d_x;
      layer<I>::backward(space, w, g, d_y, out, n, std::get<I>(a.inner), scale, scratch);
      d_y = out;
    });
  }

  template <class S, class T>
  static void extend(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, state<T>& s, arena& scratch) {
    extend_by(w, x, y, scratch, [&]<int I>(T const* weights, matrix_view<T const> in, matrix_view<T> out) {
      layer<I>::extend(space, weights, in, out, position, std::get<I>(s.inner), scratch);
    });
  }
  template <class S, class T, class States>
  static void extend_group(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, sequence_shape n,
                           States const& states, arena& scratch) {
    extend_by(w, x, y, scratch, [&]<int I>(T const* weights, matrix_view<T const> in, matrix_view<T> out) {
      auto const inner = [&](index_t s) -> auto& { return std::get<I>(states(s).inner); };
      detail::extend_group<layer<I>>(space, weights, in, out, position, n, inner, scratch);
    });
  }

  template <class A, class F>
  static void for_each_router(A& a, F const& f) {
    each([&]<int I>() { layer<I>::for_each_router(std::get<I>(a.inner), f); });
  }

 protected:
  template <class F>
  static void each(F const& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) { (f.template operator()<I>(), ...); }
    (std::make_integer_sequence<int, N>());
  }

 private:
  template <class T, class F>
  static void extend_by(T const* w, matrix_view<T const> x, matrix_view<T> y, arena& scratch, F const& one) {
    arena::scope const scope(scratch);
    matrix_view<T> const buffers[2] = {scratch.mat<T>(x.rows(), d_model), scratch.mat<T>(x.rows(), d_model)};
    each([&]<int I>() {
      matrix_view<T> const out = I + 1 < N ? buffers[I % 2] : y;
      one.template operator()<I>(w, x, out);
      w = past(w, layer<I>::parameter_count);
      x = out;
    });
  }
  template <class T>
  static std::size_t two_buffers(index_t rows) {
    return measured([&](arena& a) { a.mat<T>(rows, d_model), a.mat<T>(rows, d_model); });
  }
};

template <class L, class>
struct repeated;
template <class L, std::size_t... I>
struct repeated<L, std::index_sequence<I...>> {
  template <std::size_t>
  using same = L;
  using type = chain<same<I>...>;
};
}  // namespace detail

/// Different layers, one after the other. A layer's parameters are named after the layer: "attention.qkv.weight".
template <class... Ls>
struct sequence : detail::chain<Ls...> {
  static_assert((named_layer_type<Ls> && ...), "moe::nn::sequence: a layer has no name, so neither would its parameters");
  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    sequence::each([&]<int I>() {
      using L = typename sequence::template layer<I>;
      L::for_each_parameter(prefix + std::string(L::name) + ".", first, f);
      first += L::parameter_count;
    });
  }

 private:
  static constexpr bool names_differ() {
    std::string_view const names[] = {Ls::name...};
    for (std::size_t i = 0; i < sizeof...(Ls); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (names[i] == names[j]) return false;
    return true;
  }
  static_assert(names_differ(), "moe::nn::sequence: two layers have the same name, so their parameters would");
};

/// The same layer N times, with parameters of its own each time: "0.attention.qkv.weight", "1.attention.qkv.weight", ...
template <int N, class L>
struct repeat : detail::repeated<L, std::make_index_sequence<static_cast<std::size_t>(N)>>::type {
  static_assert(N >= 1, "moe::nn::repeat: at least one layer");
  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    for (int i = 0; i < N; ++i) L::for_each_parameter(prefix + std::to_string(i) + ".", first + i * L::parameter_count, f);
  }
};

}  // namespace moe::inline MOE_ISA::nn
