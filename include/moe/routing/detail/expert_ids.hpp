#pragma once
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA::detail {

/// Throws unless every id is in [0, experts).
inline void check_expert_ids(char const* who, in<int, dyn, dyn> expert, index_t experts) {
  index_t const tokens = expert.template extent<0>(), k = expert.template extent<1>();
  for (index_t t = 0; t < tokens; ++t) {
    int const* id = expert.row(t);
    for (index_t j = 0; j < k; ++j)
      if (id[j] < 0 || id[j] >= experts) [[unlikely]]
        fail(errc::bad_argument, who, ": expert[", t, ", ", j, "] = ", id[j], ", needs to be in [0, ", experts, ")");
  }
}

}  // namespace moe::inline MOE_ISA::detail
