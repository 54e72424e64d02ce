#include <moe/core/error.hpp>

#include "test/support.hpp"

TEST_CASE("fail: a code for programs, one sentence for people") {
  try {
    moe::fail(moe::errc::bad_file, "reader: line ", 3, " has ", 1.5, " columns");
    FAIL("must throw");
  } catch (moe::error const& e) {
    CHECK(e.code == moe::errc::bad_file);
    CHECK(std::string(e.what()) == "reader: line 3 has 1.5 columns");
  }
}

TEST_CASE("moe::error is a std::runtime_error") { CHECK_THROWS_AS(moe::fail(moe::errc::io, "x"), std::runtime_error); }

TEST_CASE("expects: throws unless the condition holds") {
  CHECK_NOTHROW(moe::expects(true, moe::errc::io, "never"));
  CHECK(test::error_of([] { moe::expects(false, moe::errc::shape_mismatch, "op: a is ", 2, ", needs ", 3); }) == "op: a is 2, needs 3");
}
