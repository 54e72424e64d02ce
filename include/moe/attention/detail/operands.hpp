#pragma once
#include <cmath>

#include <moe/attention/detail/pack.hpp>
#include <moe/core/buffer.hpp>

namespace moe::inline MOE_ISA::detail {

/// Constants of one head of `Depth` elements stored as T.
template <int Depth, class T>
struct attention_head {
  using A = accumulator<T>;
  using tile = attention_tile<A>;
  static constexpr int depth = Depth, width = tile::width, panel = tile::panel, rows = tile::rows, long_rows = tile::long_rows;
  static constexpr int vectors = (Depth + width - 1) / width, padded = vectors * width;  ///< of a row in accumulators, zero beyond Depth
  static A scale() { return A(1) / std::sqrt(A(Depth)); }
  static constexpr index_t panels(index_t n) { return n / panel + (n % panel != 0); }
};

/// Shapes of a call: `sequences` times `queries` rows, the first of which sees keys 0 .. position.
struct attention_extent {
  index_t sequences, queries, position;
  MOE_HD index_t keys() const { return position + queries; }
};

/// Operands of attention and attention_cached.
template <class T>
struct attention_operands {
  tensor<T const, dyn, dyn> q, k, v;
  tensor<T, dyn, dyn> o;
  tensor<accumulator<T>, dyn, dyn> lse;  ///< without data where nobody asks for it
  accumulator<T>* lse_at(index_t row, index_t head) const { return lse.data() == nullptr ? nullptr : lse.row(row) + head; }
};

}  // namespace moe::inline MOE_ISA::detail
