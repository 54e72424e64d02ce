#pragma once
#include <concepts>

#include <moe/core/sequence_shape.hpp>
#include <moe/core/space.hpp>
#include <moe/nn/parameter.hpp>

namespace moe::inline MOE_ISA::nn {

using moe::sequence_shape;

/// A layer is a type without objects. It has
///
///   d_model                               width of its input and output
///   parameter_count                       elements of its parameters in the model's buffer
///   for_each_parameter(prefix, first, f)  calls f(parameter_info) for each
///   active_parameters()                   those that one token uses
///   flops_per_token(length)               of a forward pass, averaged over the positions of a sequence
///   activations<T>(space, arena, shape)   what backward needs of forward, in memory of the space; built on a measuring arena it says how many bytes that is
///   scratch_bytes<T>(space, shape)        of forward and of backward
///   forward(space, w, x, y, shape, activations, scratch)               y is overwritten; x must stay as it is until backward
///   backward(space, w, g, d_y, d_x, shape, activations, scale, scratch)  g += weight gradients, d_x is overwritten; `scale` multiplies the layer's own losses
///   state<T>(space, arena, capacity)      what decoding keeps of earlier tokens, `capacity` of them at most where its memory grows with them
///   extend_scratch_bytes<T>(space, rows, capacity)
///   extend(space, w, x, y, position, state, scratch)   the next x.rows() tokens of one sequence: bit for bit the rows that forward would give
///   for_each_router(activations, f)       calls f(activations of a mixture-of-experts layer) for each, in order
///
/// A layer whose forward looks at other sequences, at the same position, says so by a group_size above 1: a batch then has a multiple of so many. It has
///
///   extend_group(space, w, x, y, position, shape, states, scratch)   the next shape.length tokens of shape.sequences sequences: the rows that forward would
///                                                                    give; states(s) is the state of sequence s
///   extend_group_scratch_bytes<T>(space, shape, capacity)
///
/// and its extend does what can be done for a single sequence, or throws.
///
/// and, to stand in residual or sequence, a `name` that its parameters are called by. The concepts below say the same to the compiler.
///
/// A layer runs in any space whose operators are included (.hpp: moe::cpu, .cuh: moe::cuda): it calls them by their plain names and the space finds the
/// overload. It never reads an operand itself, which may be memory of a device. w and g point to the layer's first parameter. Weights, rows and their
/// gradients are T; g is accumulator<T>: with T = bf16 the gradients of the weights are float, sums that are never rounded to bf16, and whoever
/// trains keeps float weights (the masters) of which w is a rounded copy. This base holds the parts that most layers share.
struct layer_base {
  template <class T>
  struct stateless {
    template <class S>
    stateless(S const&, arena&, index_t /*capacity*/) {}
  };
  template <class A, class F>
  static void for_each_router(A&, F const&) {}
};

namespace detail {
/// What the for_each functions are asked with.
struct any_visitor {
  void operator()(auto const&...) const {}
};
/// The elements of a buffer behind the first n; of no buffer, none: the view that is made of a null pointer throws.
template <class T>
T* past(T* w, index_t n) {
  return w == nullptr ? nullptr : w + n;
}
/// Sequences that a layer looks at together.
template <class L>
constexpr index_t group_size_of() {
  if constexpr (requires { L::group_size; }) return L::group_size;
  else return 1;
}
/// extend for several sequences, whose rows lie one after the other. Layers that look at one sequence take them in turn.
template <class L, class S, class T, class States>
void extend_group(S const& space, T const* w, matrix_view<T const> x, matrix_view<T> y, index_t position, sequence_shape n, States const& states,
                  arena& scratch) {
  if constexpr (group_size_of<L>() > 1) {
    L::extend_group(space, w, x, y, position, n, states, scratch);
  } else {
    for (index_t s = 0; s < n.sequences; ++s) {
      index_t const begin = s * n.length, end = begin + n.length;
      L::extend(space, w, rows_of(x, begin, end), rows_of(y, begin, end), position, states(s), scratch);
    }
  }
}
template <class L, class T, class S>
std::size_t extend_group_scratch_bytes(S const& space, sequence_shape n, index_t capacity) {
  if constexpr (group_size_of<L>() > 1) return L::template extend_group_scratch_bytes<T>(space, n, capacity);
  else return L::template extend_scratch_bytes<T>(space, n.length, capacity);
}
/// Throws unless x has the rows of the batch.
inline void check_tokens(char const* who, index_t rows, sequence_shape n) {
  expects(rows == n.tokens(), errc::shape_mismatch, who, ": x has ", rows, " rows, ", n.sequences, " sequences of ", n.length, " tokens need ",
          n.tokens());
}
/// Bytes that `take` takes of an arena.
template <class F>
std::size_t measured(F const& take) {
  arena a;
  take(a);
  return a.peak();
}
}  // namespace detail

/// Whether decoding keeps the same memory however many tokens came before, as recurrent layers do: then a state's capacity limits nothing.
template <class L, class T, class S>
bool has_constant_state(S const& space) {
  auto const bytes = [&](index_t capacity) { return detail::measured([&](arena& a) { typename L::template state<T>(space, a, capacity); }); };
  return bytes(1) == bytes(4096);
}

/// What the list says without a space: the types that residual, repeat, sequence and language_model are made of.
template <class L>
concept layer_type = requires(std::string const& prefix, index_t n, detail::any_visitor f) {
  { L::d_model } -> std::convertible_to<index_t>;
  { L::parameter_count } -> std::convertible_to<index_t>;
  { L::active_parameters() } -> std::convertible_to<index_t>;
  { L::flops_per_token(n) } -> std::convertible_to<double>;
  L::for_each_parameter(prefix, n, f);
};
template <class L>
concept named_layer_type = layer_type<L> && requires {
  { L::name } -> std::convertible_to<std::string_view>;
};

/// The whole list, for numbers T in a space.
template <class L, class Space, class T>
concept layer_in = layer_type<L> && execution_space<Space> &&
    requires(Space const& space, arena& memory, sequence_shape shape, index_t n, T const* w, accumulator<T>* g, matrix_view<T const> in,
             matrix_view<T> out, double scale, typename L::template activations<T>& activations, typename L::template state<T>& state,
             detail::any_visitor f) {
  requires std::constructible_from<typename L::template activations<T>, Space const&, arena&, sequence_shape>;
  requires std::constructible_from<typename L::template state<T>, Space const&, arena&, index_t>;
  { L::template scratch_bytes<T>(space, shape) } -> std::same_as<std::size_t>;
  { L::template extend_scratch_bytes<T>(space, n, n) } -> std::same_as<std::size_t>;
  L::forward(space, w, in, out, shape, activations, memory);
  L::backward(space, w, g, in, out, shape, activations, scale, memory);
  L::extend(space, w, in, out, n, state, memory);
  L::for_each_router(activations, f);
};

}  // namespace moe::inline MOE_ISA::nn
