#pragma once
#include <moe/core/buffer.hpp>

namespace moe::inline MOE_ISA {

/// The shape of a batch: `sequences` sequences of `length` tokens, one after the other.
struct sequence_shape {
  index_t sequences = 0, length = 0;
  /// Throws bad_argument where one is negative or the product does not fit 64 bits.
  index_t tokens() const { return detail::elements(sequences, length); }
};

}  // namespace moe::inline MOE_ISA
