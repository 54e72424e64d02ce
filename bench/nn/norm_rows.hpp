#pragma once
// What the benchmarks of the norms share.
#include <bench/support.hpp>

namespace bench {

/// The operands that every norm has; others come from o.
struct norm_rows {
  moe::index_t tokens, d = 512;
  operands o{128};
  moe::matrix_view<float> x = o.mat(tokens, d), y = o.mat(tokens, d), d_x = o.mat(tokens, d);
  moe::vector_view<float> weight = o.vec(d), d_weight = o.vec(d), rstd = o.vec(tokens);

  explicit norm_rows(benchmark::State const& state) : tokens(state.range(0)) {}
  /// For that many operations per element and matrices read or written.
  work cost(double flops, double matrices) const {
    auto const elements = static_cast<double>(tokens * d);
    return {.items = static_cast<double>(tokens), .flops = flops * elements, .bytes = 4 * matrices * elements};
  }
};

}  // namespace bench
