#pragma once
#include <algorithm>
#include <cstdint>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <moe/core/types.hpp>
#include <moe/data/word_split.hpp>

namespace moe::inline MOE_ISA {

/// Two neighbouring tokens that become one. Ids below 256 are bytes.
struct byte_pair {
  int left, right, result;
};

namespace detail {
constexpr std::uint64_t pair_key(int left, int right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

/// Counts of pairs over distinct words, kept up to date while pairs are merged.
class pair_counter {
 public:
  explicit pair_counter(std::string_view text) {
    constexpr std::size_t longest = 256;  // longer words are counted in pieces: a merge then visits only the pieces that have the pair
    std::unordered_map<std::string_view, std::size_t> index;
    auto const add = [&](std::string_view word) {
      auto const [at, is_new] = index.try_emplace(word, words_.size());
      if (is_new) words_.push_back({std::vector<int>(word.size()), 0});
      if (is_new) std::transform(word.begin(), word.end(), words_.back().token.begin(), [](char c) { return static_cast<unsigned char>(c); });
      ++words_[at->second].count;
    };
    split_words(text, [&](std::string_view word) {
      for (std::size_t i = 0; i < word.size(); i += longest) add(word.substr(i, longest));
    });
    for (std::size_t w = 0; w < words_.size(); ++w)
      for (std::size_t i = 0; i + 1 < words_[w].token.size(); ++i) change(words_[w].token[i], words_[w].token[i + 1], w, words_[w].count);
    for (auto const& [key, pair] : pairs_) heap_.push({pair.count, key});
  }

  /// The pair with the highest count, of equals the one with the lower ids; its count, 0 if there is no pair.
  std::int64_t best(int& left, int& right) {
    while (!heap_.empty()) {
      candidate const top = heap_.top();
      auto const pair = pairs_.find(top.key);
      std::int64_t const count = pair == pairs_.end() ? 0 : pair->second.count;
      if (count == top.count) {
        left = static_cast<int>(top.key >> 32);
        right = static_cast<int>(top.key & 0xffffffffu);
        return count;
      }
      heap_.pop();
      if (count > 0) heap_.push({count, top.key});
    }
    return 0;
  }

  void merge(byte_pair const& p) {
    auto const found = pairs_.find(pair_key(p.left, p.right));
    std::vector<std::size_t> const where = std::move(found->second.words);
    changed_.clear();
    for (std::size_t i = 0; i < where.size(); ++i)
      if (i == 0 || where[i] != where[i - 1]) merge_in_word(where[i], p);
    pairs_.erase(pair_key(p.left, p.right));
    for (std::uint64_t const key : changed_)
      if (auto const pair = pairs_.find(key); pair != pairs_.end() && pair->second.count > 0) heap_.push({pair->second.count, key});
  }

 private:
  struct counted_word {
    std::vector<int> token;
    std::int64_t count;
  };
  struct pair_state {
    std::int64_t count = 0;
    std::vector<std::size_t> words;  ///< every word that has the pair, and perhaps some that had it; a word may appear twice
  };
  struct candidate {
    std::int64_t count;  ///< when it was pushed; counts that fell since are found out when it is the best
    std::uint64_t key;
    bool operator<(candidate const& o) const { return count != o.count ? count < o.count : key > o.key; }
  };

  void change(int left, int right, std::size_t w, std::int64_t by) {
    pair_state& pair = pairs_[pair_key(left, right)];
    pair.count += by;
    if (by > 0 && (pair.words.empty() || pair.words.back() != w)) pair.words.push_back(w);
  }
  void merge_in_word(std::size_t w, byte_pair const& p) {
    auto& token = words_[w].token;
    std::int64_t const count = words_[w].count;
    std::size_t to = 0;
    for (std::size_t i = 0; i < token.size(); ++i) {
      if (token[i] != p.left || i + 1 == token.size() || token[i + 1] != p.right) {
        token[to++] = token[i];
        continue;
      }
      if (to > 0) {
        change(token[to - 1], p.left, w, -count);
        change(token[to - 1], p.result, w, count);
        changed_.push_back(pair_key(token[to - 1], p.result));
      }
      if (i + 2 < token.size()) {  // if the next pair merges as well, its turn corrects what is counted here
        change(p.right, token[i + 2], w, -count);
        change(p.result, token[i + 2], w, count);
        changed_.push_back(pair_key(p.result, token[i + 2]));
      }
      token[to++] = p.result;
      ++i;
    }
    token.resize(to);
  }

  std::vector<counted_word> words_;
  std::unordered_map<std::uint64_t, pair_state> pairs_;
  std::priority_queue<candidate> heap_;
  std::vector<std::uint64_t> changed_;
};
}  // namespace detail

/// Byte-pair encoding learned from a text: starting from bytes, the most frequent pair of neighbours within words (split_words) becomes a token,
/// until there are `vocab_size` tokens or no pair occurs twice. Equal counts: the pair with the lower ids first. So the result depends on the text
/// alone. Merge i makes token 256 + i, except where two merges spell the same token.
///
/// Cost    one pass over the text, then for each merge the distinct words that have the pair; words over 256 bytes count in pieces.
/// Source  Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2.
inline std::vector<byte_pair> learn_byte_pairs(std::string_view text, index_t vocab_size) {
  std::vector<byte_pair> merges;
  std::vector<std::string> spelled;
  std::unordered_map<std::string, int> known;
  std::unordered_map<std::uint64_t, int> merged;
  for (int b = 0; b < 256; ++b) known.emplace(spelled.emplace_back(1, static_cast<char>(b)), b);
  if (vocab_size <= 256) return merges;
  detail::pair_counter pairs(text);
  byte_pair p{};
  while (static_cast<index_t>(spelled.size()) < vocab_size && pairs.best(p.left, p.right) >= 2) {
    std::string token = spelled[static_cast<std::size_t>(p.left)] + spelled[static_cast<std::size_t>(p.right)];
    auto const [at, is_new] = known.try_emplace(token, static_cast<int>(spelled.size()));
    p.result = at->second;
    if (is_new) spelled.push_back(std::move(token));
    pairs.merge(p);
    if (merged.emplace(detail::pair_key(p.left, p.right), p.result).second) merges.push_back(p);  // a respelled token can bring an old pair back
  }
  return merges;
}

}  // namespace moe::inline MOE_ISA
