#include <moe/data/word_split.hpp>

#include "test/data/words.hpp"
#include "test/support.hpp"

namespace {
std::string split(std::string_view text) {
  std::string parts;
  moe::split_words(text, [&](std::string_view word) { (parts += parts.empty() ? "" : "|") += word; });
  return parts;
}
}  // namespace

TEST_CASE("split_words: the rule of GPT-2 on ASCII") {
  CHECK(split("") == "");
  CHECK(split("Hello world") == "Hello| world");
  CHECK(split("a  b") == "a| | b");
  CHECK(split("a   b") == "a|  | b");
  CHECK(split("a \n b") == "a| \n| b");
  CHECK(split("a\nb\n\nc") == "a|\n|b|\n|\n|c");
  CHECK(split("a\n\n") == "a|\n\n");
  CHECK(split("  ") == "  ");
  CHECK(split(" ") == " ");
  CHECK(split("a ") == "a| ");
  CHECK(split(" a") == " a");
  CHECK(split("\ta") == "\t|a");
  CHECK(split("abc123 45x") == "abc|123| 45|x");
  CHECK(split("x=1, y!") == "x|=|1|,| y|!");
  CHECK(split("a_b") == "a|_|b");
  CHECK(split("(a)--b...") == "(|a|)--|b|...");
  CHECK(split("$5 %x") == "$|5| %|x");
}

TEST_CASE("split_words: contractions") {
  CHECK(split("it's he'll I've we're don't I'm you'd") == "it|'s| he|'ll| I|'ve| we|'re| don|'t| I|'m| you|'d");
  CHECK(split("IT'S it'x 'l 'v") == "IT|'|S| it|'|x| '|l| '|v");
  CHECK(split("''s") == "''|s");
  CHECK(split(" 's") == " '|s");
  CHECK(split("'store") == "'s|tore");
  CHECK(split("'") == "'");
  CHECK(split("a'") == "a|'");
}

TEST_CASE("split_words: code points above 127 are letters, but for white space") {
  CHECK(split("caf\xc3\xa9s \xe6\x96\x87x") == "caf\xc3\xa9s| \xe6\x96\x87x");
  CHECK(split("a\xc2\xa0"
              "b") == "a|\xc2\xa0|b");
  CHECK(split("a\xe3\x80\x80\xc2\x85"
              "b") == "a|\xe3\x80\x80|\xc2\x85|b");
  CHECK(split("a \xe2\x80\xa8 b") == "a| \xe2\x80\xa8| b");
  CHECK(split("\xe1\x9a\x80\xe2\x80\x8a\xe2\x80\xaf\xe2\x81\x9f") == "\xe1\x9a\x80\xe2\x80\x8a\xe2\x80\xaf\xe2\x81\x9f");
  CHECK(split("a\xe2\x80\x8b"
              "b\xe2\x80\xa7\xe1\x9a\x81") ==
        "a\xe2\x80\x8b"
        "b\xe2\x80\xa7\xe1\x9a\x81");
  CHECK(split("\xff\xfe \xc3") == "\xff\xfe| \xc3");  // not UTF-8
  CHECK(split("a\xe2\x80") == "a\xe2\x80");
}

TEST_CASE("split_words: the words of any bytes are the text, and none is empty") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::string const text = test::random_bytes(seed, seed);
    std::string joined;
    moe::split_words(text, [&](std::string_view word) {
      CHECK(!word.empty());
      joined += word;
    });
    CHECK(joined == text);
  }
}
