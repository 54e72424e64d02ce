#include <moe/io/json.hpp>

#include <clocale>
#include <limits>

#include "test/io/temporary.hpp"
#include "test/support.hpp"

namespace {
using kind = moe::json_value::kind;
std::string parse_error(std::string const& text, moe::json_limits limits = {}) {
  return test::error_of([&] { moe::parse_json(text, "file", limits); });
}
}  // namespace

TEST_CASE("json: values of every kind") {
  auto const v = moe::parse_json(" {\"a\" : [1, -2.5e1, true, false, null, \"x\"], \"b\":{}, \"\":[]}\r\n\t", "file");
  REQUIRE(v.find("a") != nullptr);
  auto const& a = v.find("a")->items;
  REQUIRE(a.size() == 6);
  CHECK((a[0].is(kind::integer) && a[0].integer == 1));
  CHECK((a[1].is(kind::real) && a[1].real == -25.0));
  CHECK((a[2].is(kind::boolean) && a[2].boolean));
  CHECK((a[3].is(kind::boolean) && !a[3].boolean));
  CHECK(a[4].is(kind::null));
  CHECK((a[5].is(kind::string) && a[5].string == "x"));
  CHECK(v.find("b")->is(kind::object));
  CHECK(v.find("")->is(kind::array));
  CHECK(v.find("c") == nullptr);
}

TEST_CASE("json: numbers keep their bits") {
  auto const number = [](std::string const& text) { return moe::parse_json(text, "file"); };
  CHECK(number("9223372036854775807").integer == std::numeric_limits<std::int64_t>::max());
  CHECK(number("-9223372036854775808").integer == std::numeric_limits<std::int64_t>::min());
  CHECK((number("9223372036854775808").is(kind::real) && number("9223372036854775808").real == 9223372036854775808.0));
  CHECK((number("-0").is(kind::real) && std::signbit(number("-0").real)));
}

TEST_CASE("json: numbers do not depend on the locale") {
  for (char const* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) std::setlocale(LC_ALL, name);
  CHECK(moe::parse_json("1.5", "file").real == 1.5);
  std::setlocale(LC_ALL, "C");
}

TEST_CASE("json: strings, escapes and surrogates") {
  auto const string = [](std::string const& text) { return moe::parse_json(text, "file").string; };
  CHECK(string(R"("\"\\\/\b\f\n\r\t")") == "\"\\/\b\f\n\r\t");
  CHECK(string(R"("\u0041\u00e4\u20ac\ud83d\uDE00")") == "A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(string(R"("\u0000")") == std::string(1, '\0'));
  CHECK(string("\"\xc3\xa4 \xf4\x8f\xbf\xbf\"") == "\xc3\xa4 \xf4\x8f\xbf\xbf");
  CHECK(moe::quoted("a\nb\xff") == "\"a\\u000ab?\"");
  CHECK(moe::quoted(std::string(300, 'x'), 3) == "\"xxx\"...");
}

TEST_CASE("json: what the grammar does not have is an error that names the byte") {
  for (char const* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1",
                           "[1,",
                           "[1,]",
                           "[,1]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{1:1}",
                           "01",
                           "-",
                           "1.",
                           ".5",
                           "1e",
                           "+1",
                           "0x1",
                           "NaN",
                           "Infinity",
                           "-Infinity",
                           "tru",
                           "True",
                           "nul",
                           "'a'",
                           "\"",
                           "\"a",
                           "\"\\",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"\n\"",
                           "\"\x01\"",
                           "\"\xff\"",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xc3\"",
                           "\"\xe2\x82\"",
                           "1 2",
                           "[] []",
                           "{} x",
                           "]",
                           "}",
                           "[}",
                           "{]",
                           "1e999",
                           "// c\n1",
                           "\xef\xbb\xbf"
                           "1"})
    CHECK_MESSAGE(test::contains(parse_error(text), "file: byte "), "accepted: " << text);
  CHECK(test::contains(parse_error("[1, x]"), "file: byte 4: a value was expected"));
  CHECK(test::contains(parse_error("{\"k\":1,\"j\":2,\"k\":3}"), "two members of the name \"k\""));
  CHECK(test::contains(parse_error("{\"k\":1,\"\\u006b\":3}"), "two members of the name \"k\""));
}

TEST_CASE("json: limits") {
  CHECK(parse_error(std::string(32, '[') + std::string(32, ']')).empty());
  CHECK(test::contains(parse_error(std::string(33, '[') + std::string(33, ']')), "nested deeper than 32"));
  CHECK(test::contains(parse_error(std::string(10'000'000, '[')), "nested deeper than 32"));
  CHECK(test::contains(parse_error("[1,2]", {.bytes = 4}), "5 bytes, more than the 4 allowed"));
  CHECK(test::contains(parse_error("[1,2]", {.values = 2}), "more than 2 values"));
}

TEST_CASE("json: every truncation and flipped bit is an error or a document") {
  std::string const text = "{\"a\\u00e9\":[1,-2.5e-3,true],\"b\":{\"c\":null,\"d\":\"\xe2\x82\xac\\n\"}}";
  int accepted = 0;
  test::for_each_damage(text, [&](std::string const& damaged) {
    try {
      moe::parse_json(damaged, "file");
      ++accepted;
    } catch (moe::error const& e) {
      CHECK(e.code == moe::errc::bad_file);
    }
  });
  CHECK(accepted > 0);
}

TEST_CASE("hash_index: numbers keys in order, through many") {
  moe::detail::hash_index<std::uint64_t> index;
  CHECK(index.find(3) == index.none);
  for (std::uint64_t i = 0; i < 5000; ++i) CHECK(index.insert(i << 40 | (i * i)) == i);
  for (std::uint64_t i = 0; i < 5000; ++i) {
    CHECK(index.find(i << 40 | (i * i)) == i);
    CHECK(!index.insert_new(i << 40 | (i * i)));
  }
  CHECK(index.size() == 5000);
  CHECK(index.find(~std::uint64_t{0}) == index.none);
}
