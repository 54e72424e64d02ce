#pragma once
#include <moe/core/sequence_shape.hpp>

namespace moe::inline MOE_ISA {

/// Tokens of a batch that are looked at together although they do not lie together: those of `size` sequences at the same position. The sequences are
/// neighbours, and a row belongs to one group. What is computed within such groups never looks at a later position, so it is causal; it depends on
/// the other sequences of the batch instead. Plain numbers, copied into kernels.
struct token_groups {
  index_t sequences = 0, length = 0, size = 1;

  MOE_HD index_t count() const { return sequences / size * length; }
  index_t tokens() const { return detail::elements(sequences, length); }
  /// The row of a member of a group. Groups follow the positions first: group g is of position g % length.
  MOE_HD index_t row(index_t group, index_t member) const { return (group / length * size + member) * length + group % length; }
};

/// Groups of `size` neighbouring sequences. Throws bad_argument where size is less than 1 or does not divide the number of sequences.
inline token_groups groups_of(sequence_shape n, index_t size) {
  expects(size >= 1, errc::bad_argument, "groups_of: groups of ", size, " sequences, needs at least 1");
  expects(n.sequences % size == 0, errc::bad_argument, "groups_of: ", n.sequences, " sequences do not make whole groups of ", size,
          ": the batch must be a multiple of the group");
  return {n.sequences, n.length, size};
}

/// All tokens in one group, whatever their positions: what is computed within it is not causal.
inline token_groups one_group(index_t tokens) { return {tokens, 1, tokens > 0 ? tokens : 1}; }

}  // namespace moe::inline MOE_ISA
