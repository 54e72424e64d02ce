#pragma once
#include <optional>
#include <type_traits>

#include <moe/core/random.hpp>
#include <moe/nn/layer.hpp>
#include <moe/routing/selection_bias.hpp>

// What a trainer does with the routers of a model beside its gradients. M is any layer or language model, its activations are those of the last pass.
namespace moe::inline MOE_ISA::nn {

/// Moves the selection bias of every router that has one against the load of the passes since the last call, by the router's bias_rate, and forgets the
/// load. w [M::parameter_count] are the weights that training changes, in memory of the space: the float ones, where passes read a rounded copy. Call it
/// before or after the optimizer's step, whose rate for parameter_group::router_bias is to be 0.
template <class M, class S, class W, class Activations>
void update_selection_biases(S const& space, W* w, Activations& a) {
  index_t router = 0;
  M::for_each_router(a, [&](auto& routed) {
    using R = typename std::remove_reference_t<decltype(routed)>::router;
    if constexpr (R::has_bias) {
      index_t place = 0;
      M::for_each_parameter("", 0, [&](parameter_info const& p) {
        if (p.group == parameter_group::router_bias && place++ == router)
          update_selection_bias(space, routed.load, R::bias_rate, vector_view<W>(w + p.offset, p.columns));
      });
      ++router;
    }
  });
}

/// The noise of the passes to come, for every router with jitter: pass number `pass` of a training with this seed. Without a number there is none, which
/// is what evaluation wants, and how activations begin.
template <class M, class Activations>
void set_router_noise(Activations& a, std::uint64_t seed, std::optional<std::uint32_t> pass) {
  std::uint32_t routers = 0, router = 0;
  M::for_each_router(a, [&](auto&) { ++routers; });
  M::for_each_router(a, [&](auto& routed) {
    if (pass) routed.noise = random_stream{seed, random_purpose::routing_noise, *pass * routers + router++};
    else routed.noise.reset();
  });
}

}  // namespace moe::inline MOE_ISA::nn
