#pragma once
#include <moe/core/buffer.hpp>
#include <moe/nn/parameter.hpp>

namespace moe::inline MOE_ISA::nn {

/// The shape of a batch: `sequences` sequences of `length` tokens, one after the other.
struct sequence_shape {
  index_t sequences = 0, length = 0;
  index_t tokens() const { return sequences * length; }
};

/// A layer is a type without objects. It has
///
///   parameter_count                       elements of its parameters in the model's buffer
///   for_each_parameter(prefix, first, f)  calls f(parameter_info) for each
///   active_parameters()                   those that one token uses
///   flops_per_token(length)               of a forward pass, averaged over the positions of a sequence
///   activations<T>(space, arena, shape)   what backward needs of forward, in memory of the space; built on a measuring arena it says how many bytes that is
///   scratch_bytes<T>(space, shape)        of forward and of backward
///   forward(space, w, x, y, shape, activations, scratch)               y is overwritten; x must stay as it is until backward
///   backward(space, w, g, d_y, d_x, shape, activations, scale, scratch)  g += weight gradients, d_x is overwritten; `scale` multiplies the layer's own losses
///   state<T>(space, arena, capacity)      what decoding keeps of earlier tokens
///   extend_scratch_bytes<T>(space, rows, capacity)
///   extend(space, w, x, y, position, state, scratch)   the next x.rows() tokens of one sequence: bit for bit the rows that forward would give
///   for_each_router(activations, f)       calls f(activations of a mixture-of-experts layer) for each, in order
///
/// A layer runs in any space whose operators are included (.hpp: moe::cpu, .cuh: moe::cuda): it calls them by their plain names and the space finds the
/// overload. It never reads an operand itself, which may be memory of a device. w and g point to the layer's first parameter. This base holds the parts that most layers share.
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
/// Bytes that `take` takes of an arena.
template <class F>
std::size_t measured(F const& take) {
  arena a;
  take(a);
  return a.peak();
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA::nn
