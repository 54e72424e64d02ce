#include <moe/ssm/sequence_rows.hpp>

#include "test/support.hpp"

using namespace test;

TEST_CASE("sequence_rows: equal sequences lie one after the other") {
  auto const s = moe::equal_sequences(3, 5);
  CHECK(s.count == 3);
  for (index_t i = 0; i <= 3; ++i) CHECK(s.first(i) == 5 * i);
  CHECK(s.rows(2) == 5);
  CHECK(moe::equal_sequences(0, 7).first(0) == 0);
  CHECK(moe::equal_sequences(2, 0).rows(1) == 0);
  CHECK(moe::equal_sequences(index_t{1} << 31, 8).first(index_t{1} << 31) == index_t{1} << 34);
}

TEST_CASE("sequence_rows: packed sequences lie where the offsets say") {
  std::vector<index_t> const offsets{0, 4, 4, 9};
  auto const s = moe::packed_sequences(moe::vec(offsets.data(), 4));
  CHECK(s.count == 3);
  CHECK(s.first(2) == 4);
  CHECK(s.rows(0) == 4);
  CHECK(s.rows(1) == 0);
  CHECK(s.rows(2) == 5);
}

TEST_CASE("sequence_rows: errors") {
  CHECK(error_of([] { moe::equal_sequences(-1, 2); }) ==
        "equal_sequences: -1 sequences of 2 rows, must not be negative and the rows must fit 64 bits");
  CHECK(code_of([] { moe::equal_sequences(2, -1); }) == moe::errc::bad_argument);
  CHECK(code_of([] { moe::equal_sequences(index_t{1} << 40, index_t{1} << 40); }) == moe::errc::bad_argument);
  CHECK(error_of([] { moe::packed_sequences({}); }) == "packed_sequences: offsets is empty, needs one entry more than there are sequences");
  std::vector<index_t> const none{0};
  auto const s = moe::packed_sequences(moe::vec(none.data(), 1));
  moe::detail::check_sequence_rows("op", s, 0);
  CHECK(error_of([&] { moe::detail::check_sequence_rows("op", s, 3); }) == "op: no sequences, but 3 rows");
  CHECK(error_of([] { moe::detail::check_sequence_rows("op", moe::sequence_rows{-2, -3, nullptr}, 6); }) ==
        "op: sequences are -2 of -3 rows, there are 6 rows");
  CHECK(code_of([&] { moe::detail::check_sequence_rows("op", moe::sequence_rows{-1, 0, none.data()}, 0); }) == moe::errc::shape_mismatch);
  index_t const large = index_t{1} << 40;
  CHECK(code_of([&] { moe::detail::check_sequence_rows("op", moe::sequence_rows{large, large, nullptr}, 0); }) == moe::errc::shape_mismatch);
}
