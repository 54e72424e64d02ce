#pragma once
#include <moe/ssm/sequence_rows.hpp>

// Sequences of any lengths cut into tiles of at most `size` rows each, so that the host needs to know nothing but how many rows and sequences there are:
// sequence s has the tiles from first(s) / size + s on, at least one even without rows. That leaves every sequence room enough, because
// floor((a + n) / size) + 1 >= floor(a / size) + ceil(n / size). Tiles that nothing falls to are empty.
namespace moe::inline MOE_ISA::detail {

/// Rows [begin, end) of sequence s, which has `rows`, the first of them number `first` of the batch.
struct sequence_tile {
  index_t s, first, rows, begin, end;
  MOE_HD bool leads() const { return begin == 0; }                  ///< the first of its sequence
  MOE_HD bool empty() const { return begin >= end && begin != 0; }  ///< no tile of any sequence
};

/// How many tiles there are at most.
inline index_t sequence_tiles(index_t rows, index_t sequences, index_t size) { return rows / size + sequences; }
MOE_HD inline index_t first_tile(sequence_rows const& sequences, index_t s, index_t size) { return sequences.first(s) / size + s; }

/// Tile number i, for i below sequence_tiles.
MOE_HD inline sequence_tile tile_of(sequence_rows const& sequences, index_t i, index_t size) {
  index_t low = 0, high = sequences.count;  // the last sequence whose tiles begin at or before i lies in [low, high)
  while (high - low > 1) {
    index_t const middle = low + (high - low) / 2;
    if (first_tile(sequences, middle, size) <= i) low = middle;
    else high = middle;
  }
  index_t const first = sequences.first(low), rows = sequences.first(low + 1) - first, begin = (i - first_tile(sequences, low, size)) * size;
  return {low, first, rows, begin, begin + size < rows ? begin + size : rows};
}

}  // namespace moe::inline MOE_ISA::detail
