#include <moe/data/byte_pairs.hpp>

#include <map>

#include "test/data/words.hpp"
#include "test/support.hpp"

namespace {
/// The definition, executed literally: count all pairs, merge the best everywhere, start again.
std::vector<moe::byte_pair> naive(std::string_view text, std::size_t vocab_size) {
  std::map<std::string, std::int64_t> words;
  moe::split_words(text, [&](std::string_view word) {
    for (std::size_t i = 0; i < word.size(); i += 256) ++words[std::string(word.substr(i, 256))];
  });
  std::vector<std::pair<std::vector<int>, std::int64_t>> list;
  for (auto const& [word, count] : words) {
    std::vector<int> ids;
    for (char const c : word) ids.push_back(static_cast<unsigned char>(c));
    list.emplace_back(ids, count);
  }
  std::vector<moe::byte_pair> merges;
  while (256 + merges.size() < vocab_size) {
    std::map<std::pair<int, int>, std::int64_t> counts;
    for (auto const& [ids, count] : list)
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += count;
    std::pair<int, int> best{};
    std::int64_t most = 1;
    for (auto const& [pair, count] : counts)
      if (count > most) most = count, best = pair;
    if (most < 2) break;
    moe::byte_pair const p{best.first, best.second, static_cast<int>(256 + merges.size())};
    merges.push_back(p);
    for (auto& [ids, count] : list) {
      std::vector<int> to;
      for (std::size_t i = 0; i < ids.size(); ++i)
        if (i + 1 < ids.size() && ids[i] == p.left && ids[i + 1] == p.right) to.push_back(p.result), ++i;
        else to.push_back(ids[i]);
      ids = to;
    }
  }
  return merges;
}
void check_equal(std::vector<moe::byte_pair> const& a, std::vector<moe::byte_pair> const& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].left == b[i].left);
    CHECK(a[i].right == b[i].right);
    CHECK(a[i].result == b[i].result);
  }
}
}  // namespace

TEST_CASE("learn_byte_pairs: a small example by hand") {
  auto const merges = moe::learn_byte_pairs("abab abab ab", 300);
  // Words "abab", " abab", " ab": a b 5 times. Then " " 256 and 256 256 both twice: the lower ids first. Then nothing occurs twice.
  check_equal(merges, {{'a', 'b', 256}, {' ', 256, 257}});
}

TEST_CASE("learn_byte_pairs: equals the definition executed literally") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    std::string const text = test::made_up_text(3000, seed);
    check_equal(moe::learn_byte_pairs(text, 400), naive(text, 400));
  }
  std::string runs;
  for (std::size_t i = 1; i < 40; ++i) (runs += std::string(i, 'a')) += " " + std::string(i % 7, 'b') + "ab\n";
  check_equal(moe::learn_byte_pairs(runs, 300), naive(runs, 300));
  std::string const bytes = test::random_bytes(4000, 3);
  check_equal(moe::learn_byte_pairs(bytes, 350), naive(bytes, 350));
}

TEST_CASE("learn_byte_pairs: edges") {
  CHECK(moe::learn_byte_pairs("", 1000).empty());
  CHECK(moe::learn_byte_pairs("a", 1000).empty());
  CHECK(moe::learn_byte_pairs("abcdef", 1000).empty());  // no pair twice
  CHECK(moe::learn_byte_pairs("aa aa", 256).empty());
  CHECK(moe::learn_byte_pairs("aa aa aa", 257).size() == 1);
}

TEST_CASE("learn_byte_pairs: one word of a megabyte does not take long") {
  std::string text;
  for (std::size_t i = 0; i < 1'000'000; ++i) text += static_cast<char>('a' + (i * i / 7) % 26);
  CHECK(moe::learn_byte_pairs(text, 600).size() == 344);
}
