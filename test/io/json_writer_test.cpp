#include <moe/io/json_writer.hpp>

#include <clocale>
#include <limits>

#include "test/io/temporary.hpp"
#include "test/support.hpp"

namespace {
using kind = moe::json_value::kind;
std::string written(moe::json_value const& v) {
  std::string text;
  moe::append_json(text, v);
  return text;
}
}  // namespace

TEST_CASE("json writer: values of every kind, without white space") {
  std::string const text = "{\"a\":[1,-25.0,true,false,null,\"x\"],\"b\":{},\"\":[]}";
  CHECK(written(moe::parse_json(text, "file")) == text);
  moe::json_value list = moe::json_value::array();
  list.items = {std::int64_t{1}, -25.0, true, false, moe::json_value(), "x"};
  moe::json_value v = moe::json_value::object();
  v.add("a", list).add("b", moe::json_value::object()).add("", moe::json_value::array());
  CHECK(written(v) == text);
}

TEST_CASE("json writer: numbers keep their bits, and those that JSON has no number for are refused") {
  auto const number = [](std::string const& text) { return moe::parse_json(text, "file"); };
  for (double const x : {0.1, 1e300, 5e-324, -1.0 / 3, 1e22, 2.0}) {
    auto const back = number(written(x));
    CHECK(back.is(kind::real));
    CHECK(back.real == x);
  }
  for (std::int64_t const i : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) CHECK(number(written(i)).integer == i);
  CHECK_THROWS_AS(written(std::numeric_limits<double>::infinity()), moe::error);
  CHECK_THROWS_AS(written(std::numeric_limits<double>::quiet_NaN()), moe::error);
}

TEST_CASE("json writer: numbers do not depend on the locale") {
  for (char const* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) std::setlocale(LC_ALL, name);
  CHECK(written(1.5) == "1.5");
  std::setlocale(LC_ALL, "C");
}

TEST_CASE("json writer: every character comes back") {
  std::string all;
  for (std::int32_t c = 0; c < 0x110000; c += c < 0x900 ? 1 : 251)
    if (c < 0xd800 || c > 0xdfff) moe::append_utf8(all, c);
  CHECK(moe::parse_json(written(all), "file").string == all);
  CHECK_THROWS_AS(written(std::string("\xff")), moe::error);
}

TEST_CASE("json writer: what the reader accepts is written and read to the same, also from damaged documents") {
  std::string const text = "{\"a\\u00e9\":[1,-2.5e-3,true],\"b\":{\"c\":null,\"d\":\"\xe2\x82\xac\\n\"}}";
  test::for_each_damage(text, [&](std::string const& damaged) {
    moe::json_value v;
    try {
      v = moe::parse_json(damaged, "file");
    } catch (moe::error const&) {
      return;
    }
    CHECK(written(moe::parse_json(written(v), "file")) == written(v));
  });
}
