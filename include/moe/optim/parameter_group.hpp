#pragma once
#include <array>
#include <cstddef>
#include <string_view>

#include <moe/core/error.hpp>
#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA {

/// What a parameter is for: decides weight decay, relative learning rates and muP. `ssm` are the projections of a state-space layer, `ssm_state` is what
/// its state evolves by: decay rates, bias of the time step, skip, convolution. Zero is no rest position of these, so they are not to decay.
/// `router_bias` is what a router adds to the scores that it selects by: no gradient reaches it, and it neither decays nor follows a learning rate.
enum class parameter_group { embedding, unembedding, attention, router, expert, ffn, ssm, ssm_state, norm, router_bias };

/// Every group, in the order of the enumeration.
inline constexpr std::array all_parameter_groups{parameter_group::embedding, parameter_group::unembedding, parameter_group::attention,
                                                 parameter_group::router,    parameter_group::expert,      parameter_group::ffn,
                                                 parameter_group::ssm,       parameter_group::ssm_state,   parameter_group::norm,
                                                 parameter_group::router_bias};
inline constexpr std::size_t parameter_group_count = all_parameter_groups.size();

/// The place of a group in tables of parameter_group_count entries. Throws bad_argument for a number that is no group.
constexpr std::size_t index_of(parameter_group g) {
  auto const i = static_cast<std::size_t>(g);
  if (i >= parameter_group_count)
    fail(errc::bad_argument, "parameter_group: ", static_cast<int>(g), " is no group, they end at ", parameter_group_count - 1);
  return i;
}

/// "embedding". Throws bad_argument for a number that is no group.
constexpr std::string_view name_of(parameter_group g) {
  constexpr std::array<std::string_view, parameter_group_count> names{"embedding", "unembedding", "attention", "router", "expert",
                                                                      "ffn",       "ssm",         "ssm_state", "norm",   "router_bias"};
  return names[index_of(g)];
}

}  // namespace moe::inline MOE_ISA
