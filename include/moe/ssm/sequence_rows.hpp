#pragma once
#include <moe/core/space.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA {

/// Where the sequences of a packed batch lie among its rows: sequence s has rows [first(s), first(s + 1)), all of them together every row, in order.
/// Made by the host, copied into kernels. `offsets` is memory of the space: code that serves every space reads it in kernels only.
struct sequence_rows {
  index_t count = 0;                 ///< sequences
  index_t length = 0;                ///< rows of each, where there are no offsets
  index_t const* offsets = nullptr;  ///< [count + 1]; null: `count` sequences of `length` rows

  MOE_HD index_t first(index_t s) const { return offsets == nullptr ? s * length : offsets[s]; }
  MOE_HD index_t rows(index_t s) const { return first(s + 1) - first(s); }
};

/// `count` sequences of `length` rows each, one after the other.
inline sequence_rows equal_sequences(index_t count, index_t length) {
  index_t rows = 0;
  expects(count >= 0 && length >= 0 && !__builtin_mul_overflow(count, length, &rows), errc::bad_argument, "equal_sequences: ", count,
          " sequences of ", length, " rows, must not be negative and the rows must fit 64 bits");
  return {count, length, nullptr};
}

/// Sequences of any lengths, also 0: offsets [count + 1] ascend from 0 to the number of rows (cu_seqlens). They are memory of the space and must live
/// as long as what uses them.
inline sequence_rows packed_sequences(vector_view<index_t const> offsets) {
  expects(offsets.size() >= 1, errc::shape_mismatch, "packed_sequences: offsets is empty, needs one entry more than there are sequences");
  return {offsets.size() - 1, 0, offsets.data()};
}

namespace detail {
/// What the host can say of the sequences of `rows` rows without reading offsets.
inline void check_sequence_rows(char const* op, sequence_rows const& s, index_t rows) {
  index_t all = 0;
  bool const fits = s.count >= 0 && s.length >= 0 && !__builtin_mul_overflow(s.count, s.length, &all);
  expects(fits && (s.offsets != nullptr || all == rows), errc::shape_mismatch, op, ": sequences are ", s.count, " of ", s.length,
          " rows, there are ", rows, " rows");
  expects(s.offsets == nullptr || s.count > 0 || rows == 0, errc::shape_mismatch, op, ": no sequences, but ", rows, " rows");
}
/// The rest, where the host reaches them.
inline void check_sequence_rows(char const* op, cpu const& /*space*/, sequence_rows const& s, index_t rows) {
  check_sequence_rows(op, s, rows);
  if (s.offsets == nullptr) return;
  expects(s.offsets[0] == 0, errc::bad_argument, op, ": offsets[0] is ", s.offsets[0], ", needs to be 0");
  for (index_t i = 0; i < s.count; ++i)
    expects(s.offsets[i] <= s.offsets[i + 1], errc::bad_argument, op, ": offsets[", i + 1, "] is ", s.offsets[i + 1], ", below offsets[", i,
            "] = ", s.offsets[i]);
  expects(s.offsets[s.count] == rows, errc::shape_mismatch, op, ": the last offset is ", s.offsets[s.count], ", there are ", rows, " rows");
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
