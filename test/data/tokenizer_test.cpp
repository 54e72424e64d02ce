#include <moe/data/tokenizer.hpp>

#include <cstdlib>
#include <fstream>

#include "test/data/words.hpp"
#include "test/io/temporary.hpp"
#include "test/support.hpp"

namespace {
moe::tokenizer const& trained() {
  static auto const t = moe::tokenizer::train_bpe(test::made_up_text(30000), 500);
  return t;
}
/// The definition: in each word, again and again the merge learned first, leftmost.
std::vector<int> naive_encode(moe::tokenizer const& t, std::string_view text) {
  std::vector<int> all;
  moe::split_words(text, [&](std::string_view word) {
    std::vector<int> ids;
    for (char const c : word) ids.push_back(static_cast<unsigned char>(c));
    for (auto const* p = t.merges().data(); p != t.merges().data() + t.merges().size();) {
      std::size_t i = 0;
      while (i + 1 < ids.size() && (ids[i] != p->left || ids[i + 1] != p->right)) ++i;
      if (i + 1 >= ids.size()) {
        ++p;
        continue;
      }
      ids[i] = p->result;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      p = t.merges().data();
    }
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}
std::string replaced(std::string text, std::string const& from, std::string const& to) {
  std::size_t const at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}
std::string load_error(std::string const& json) {
  return test::error_of([&] { moe::tokenizer::from_json(json, "file"); });
}
}  // namespace

TEST_CASE("tokenizer: bytes") {
  moe::tokenizer const t;
  CHECK(t.vocab_size() == 256);
  CHECK(t.is_bytes());
  std::string const text = test::random_bytes(1000);
  auto const ids = t.encode(text);
  REQUIRE(ids.size() == text.size());
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(ids[i] == static_cast<unsigned char>(text[i]));
  CHECK(t.decode(ids) == text);
  CHECK(t.encode("").empty());
  CHECK(t.decode({}).empty());
}

TEST_CASE("tokenizer: byte pairs merge in the order of learning, and decode to the text") {
  auto const& t = trained();
  CHECK(t.vocab_size() == 500);
  for (auto const& text : {test::made_up_text(5000, 7), test::random_bytes(5000, 7), std::string(), std::string("a"), std::string(3000, 'o')}) {
    auto const ids = t.encode(text);
    CHECK(ids == naive_encode(t, text));
    CHECK(t.decode(ids) == text);
    for (int const id : ids) CHECK((id >= 0 && id < 500));
  }
  CHECK(t.encode(test::made_up_text(5000, 7)).size() < 3000);
  std::string const repeated = test::made_up_text(400, 8);  // words from the cache as from nothing
  CHECK(t.decode(t.encode(repeated + repeated)) == repeated + repeated);
}

TEST_CASE("tokenizer: a long word takes no quadratic time") {
  std::string word;
  for (std::size_t i = 0; i < 300'000; ++i) word += "lomibanertu"[i % 11];
  CHECK(trained().decode(trained().encode(word)) == word);
}

TEST_CASE("tokenizer: too little text gives a smaller vocabulary; wrong arguments are errors") {
  CHECK(moe::tokenizer::train_bpe("aa aa aa", 1000).vocab_size() == 258);
  CHECK(moe::tokenizer::train_bpe("", 1000).vocab_size() == 256);
  CHECK(test::contains(test::error_of([] { moe::tokenizer::train_bpe("a", 255); }), "a vocabulary of 255, needs at least the 256 bytes"));
  CHECK(test::contains(test::error_of([] { moe::tokenizer().decode({256}); }), "id 256 of a vocabulary of 256"));
  CHECK(test::contains(test::error_of([] { static_cast<void>(moe::tokenizer().token(-1)); }), "id -1"));
}

TEST_CASE("tokenizer: a saved one is loaded as it was") {
  test::temporary_directory const directory;
  std::string const path = directory / "tokenizer.json";
  for (auto const& t : {trained(), moe::tokenizer(), moe::tokenizer::train_bpe(test::random_bytes(9000), 600)}) {
    t.save(path);
    auto const back = moe::tokenizer::load(path);
    CHECK(back.to_json() == t.to_json());
    for (auto const& text : {test::made_up_text(3000, 5), test::random_bytes(3000, 5)}) CHECK(back.encode(text) == t.encode(text));
  }
  CHECK(test::contains(test::error_of([&] { moe::tokenizer::load(directory / "no.json"); }), "open"));
}

TEST_CASE("tokenizer: ids need not be bytes first, merges may be lists") {
  std::string const json = replaced(trained().to_json(), "\"!\":33,", "\"!\":34,");
  std::string const swapped = replaced(json, "\"\\\"\":34,", "\"\\\"\":33,");
  auto const t = moe::tokenizer::from_json(swapped, "file");
  CHECK(t.encode("!\"") == std::vector<int>{34, 33});
  CHECK(t.decode(t.encode("!\"x")) == "!\"x");
  std::string lists = trained().to_json();
  std::size_t const merges = lists.find("\"merges\":[");
  for (std::size_t at = lists.find(' ', merges); at != std::string::npos; at = lists.find(' ', at + 3)) lists.replace(at, 1, "\",\"");
  std::string bracketed = lists.substr(0, merges + 10);
  for (std::size_t at = merges + 10; at < lists.size(); ++at) {
    if (lists[at - 1] == '\n' && lists[at] == '"') bracketed += '[';
    bracketed += lists[at];
    if (lists[at] == '"' && ((lists[at + 1] == ',' && lists[at + 2] == '\n') || lists[at + 1] == ']')) bracketed += ']';
  }
  CHECK(moe::tokenizer::from_json(bracketed, "file").to_json() == trained().to_json());
}

TEST_CASE("tokenizer: files that would mean other ids are refused") {
  std::string const good = trained().to_json();
  CHECK(load_error(good).empty());
  std::string const merges = good.substr(good.find("\"merges\":[") + 11), twice = merges.substr(0, merges.find(','));
  CHECK(test::contains(load_error(replaced(good, "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}")), "\"normalizer\" is set"));
  CHECK(test::contains(load_error(replaced(good, "\"added_tokens\":[]", "\"added_tokens\":[{\"id\":0}]")), "\"added_tokens\" is set"));
  CHECK(test::contains(load_error(replaced(good, "\"use_regex\":false}]", "\"use_regex\":true}]")),
                       "file: \"pre_tokenizer\" of type \"Sequence\" is not the one"));
  CHECK(test::contains(load_error(replaced(good, "{\"type\":\"Sequence\",\"pretokenizers\"", "{\"type\":\"Whitespace\",\"x\"")),
                       "of type \"Whitespace\""));
  CHECK(test::contains(load_error(replaced(good, "\"pre_tokenizer\"", "\"other\"")), "\"pre_tokenizer\" of type \"\""));
  CHECK(test::contains(load_error(replaced(good, " ?[0-9]+", " ?[0-9]{1,3}")), "is not the one"));
  CHECK(test::contains(load_error(replaced(good, "\"type\":\"BPE\"", "\"type\":\"Unigram\"")), "needs \"type\":\"BPE\""));
  CHECK(test::contains(load_error(replaced(good, "\"dropout\":null", "\"dropout\":0.1")), "\"dropout\" is set"));
  CHECK(test::contains(load_error(replaced(good, "\"ignore_merges\":false", "\"ignore_merges\":true")), "\"ignore_merges\" is set"));
  CHECK(test::contains(load_error(replaced(good, "\"!\":33,\n", "")), "token"));
  CHECK(test::contains(load_error(replaced(good, "\"!\":33,", "\"!\":34,")), "given twice"));
  CHECK(test::contains(load_error(replaced(good, "\"!\":33,", "\"!\":500,")), "not one of 0 ... 500 - 1"));
  CHECK(test::contains(load_error(replaced(good, "\"!\":33,", "\"\xe6\x96\x87\":33,")), "stands for no bytes"));
  CHECK(test::contains(load_error(replaced(good, "\"!\":33,", "\"!!!!!!!\":33,")), "no token for byte 33"));
  CHECK(test::contains(load_error(replaced(good, "\"merges\":[", "\"merges\":[\"! !\",")), "merge 0 is not of two tokens to a third"));
  CHECK(test::contains(load_error(replaced(good, "\"merges\":[", "\"merges\":[" + twice + ",")),
                       "merge 1 is not of two tokens to a third, or given twice"));
  CHECK(test::contains(load_error(replaced(good, "\"merges\":[", "\"merges\":[7,")), "merge 0 is not"));
  CHECK(test::contains(load_error("{}"), "pre_tokenizer"));
  CHECK(test::contains(load_error("[]"), "pre_tokenizer"));
  CHECK(test::contains(load_error(""), "file: byte 0"));
}

TEST_CASE("tokenizer: damaged files are refused or still a tokenizer without loss") {
  std::string const good = moe::tokenizer::train_bpe("lo lo mi mi lomi lomi", 262).to_json();
  std::string const sample = "lomi \xc3\xa9 mi!";
  int accepted = 0;
  auto const check = [&](std::string const& json) {
    try {
      auto const t = moe::tokenizer::from_json(json, "file");
      CHECK(t.decode(t.encode(sample)) == sample);
      ++accepted;
    } catch (moe::error const& e) {
      CHECK(e.code == moe::errc::bad_file);
    }
  };
  for (std::size_t n = 0; n < good.size(); n += n + 400 < good.size() ? 7 : 1) check(good.substr(0, n));
  CHECK(accepted <= 1);  // without its last line end it is whole
  for (std::size_t i = 0; i < good.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      bool const in_long_list = i > good.find("\"!\":33") && i + 300 < good.size();
      if (in_long_list && bit != static_cast<int>(i % 8)) continue;
      std::string damaged = good;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      check(damaged);
    }
}

TEST_CASE("tokenizer: Hugging Face's tokenizers gives the same ids") {
  if (std::system("python3 -c 'import tokenizers' >/dev/null 2>&1") != 0) {
    MESSAGE("skipped: no Python with the package tokenizers");
    return;
  }
  test::temporary_directory const directory;
  auto const& t = trained();
  t.save(directory / "tokenizer.json");
  std::string text = test::made_up_text(20000, 11);
  for (std::int32_t c = 1; c < 0x3100; ++c) {  // every code point that splitting could treat specially, between words of all kinds
    if (c < 0xd800 || c > 0xdfff) moe::append_utf8(text += "ba", c);
    moe::append_utf8(text += " ", c);
    moe::append_utf8(text += c % 3 == 0 ? "1" : "!", c);
  }
  while (moe::detail::character_at(text, text.size() - 1) == moe::detail::character::letter) text += ".";
  moe::write_file(directory / "text", text);
  std::ofstream(directory / "check.py") << "import sys, tokenizers\n"
                                           "d = sys.argv[1]\n"
                                           "t = tokenizers.Tokenizer.from_file(d + '/tokenizer.json')\n"
                                           "text = open(d + '/text', encoding='utf8', newline='').read()\n"
                                           "ids = t.encode(text).ids\n"
                                           "assert t.decode(ids) == text\n"
                                           "open(d + '/ids', 'w').write(' '.join(map(str, ids)))\n";
  REQUIRE(std::system(("python3 '" + (directory / "check.py") + "' '" + directory.path() + "'").c_str()) == 0);
  std::vector<int> ids;
  std::ifstream file(directory / "ids");
  for (int id; file >> id;) ids.push_back(id);
  CHECK(ids == t.encode(text));
}
