#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <moe/core/types.hpp>
#include <moe/data/word_split.hpp>
#include <moe/io/detail/hash_index.hpp>

namespace moe::inline MOE_ISA {

/// Two neighbouring tokens that become one. Ids below 256 are bytes.
struct byte_pair {
  int left, right, result;
};

namespace detail {
constexpr std::uint64_t pair_key(int left, int right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

/// What can be merged, best first in a heap of the standard library: higher rank, of equals the lower key.
struct merge_candidate {
  std::int64_t rank;
  std::uint64_t key;
  bool operator<(merge_candidate const& o) const { return rank != o.rank ? rank < o.rank : key > o.key; }
};
class merge_heap {
 public:
  bool empty() const { return heap_.empty(); }
  void clear() { heap_.clear(); }
  void push(merge_candidate c) {
    heap_.push_back(c);
    std::push_heap(heap_.begin(), heap_.end());
  }
  merge_candidate const& top() const { return heap_.front(); }
  merge_candidate pop() {
    std::pop_heap(heap_.begin(), heap_.end());
    merge_candidate const c = heap_.back();
    heap_.pop_back();
    return c;
  }

 private:
  std::vector<merge_candidate> heap_;
};

/// Counts of pairs over distinct words, kept up to date while pairs are merged.
class pair_counter {
 public:
  explicit pair_counter(std::string_view text) {
    constexpr std::size_t longest = 256;  // longer words are counted in pieces: a merge then visits only the pieces that have the pair
    hash_index<std::string_view> index;
    split_words(text, [&](std::string_view word) {
      for (std::size_t i = 0; i < word.size(); i += longest) {
        std::size_t const w = index.insert(word.substr(i, longest));
        if (w == count_.size()) count_.push_back(0);
        ++count_[w];
      }
    });
    for (std::size_t w = 0; w < index.size(); ++w) {
      token_.emplace_back();
      for (char const c : index.key(w)) token_[w].push_back(static_cast<unsigned char>(c));
      for (std::size_t i = 0; i + 1 < token_[w].size(); ++i) change(token_[w][i], token_[w][i + 1], w, count_[w]);
    }
    for (std::size_t i = 0; i < pair_.size(); ++i) heap_.push({pair_[i].count, index_.key(i)});
  }

  /// The pair with the highest count, of equals the one with the lower ids; its count, 0 if there is no pair.
  std::int64_t best(int& left, int& right) {
    while (!heap_.empty()) {
      auto const [count_then, key] = heap_.top();
      std::int64_t const count = pair_[index_.find(key)].count;
      if (count == count_then && count > 0) {
        left = static_cast<int>(key >> 32);
        right = static_cast<int>(key & 0xffffffffu);
        return count;
      }
      heap_.pop();
      if (count > 0) heap_.push({count, key});
    }
    return 0;
  }

  void merge(byte_pair const& p) {
    std::size_t const merged = index_.find(pair_key(p.left, p.right));
    std::vector<std::size_t> const where = std::move(pair_[merged].words);
    changed_.clear();
    for (std::size_t i = 0; i < where.size(); ++i)
      if (i == 0 || where[i] != where[i - 1]) merge_in_word(where[i], p);
    pair_[merged] = {};
    for (std::uint64_t const key : changed_)
      if (std::int64_t const count = pair_[index_.find(key)].count; count > 0) heap_.push({count, key});
  }

 private:
  struct pair_state {
    std::int64_t count = 0;
    std::vector<std::size_t> words;  ///< every word that has the pair, and perhaps some that had it; a word may appear twice
  };

  void change(int left, int right, std::size_t w, std::int64_t by) {
    std::size_t const i = index_.insert(pair_key(left, right));
    if (i == pair_.size()) pair_.emplace_back();
    pair_[i].count += by;
    if (by > 0 && (pair_[i].words.empty() || pair_[i].words.back() != w)) pair_[i].words.push_back(w);
  }
  void merge_in_word(std::size_t w, byte_pair const& p) {
    auto& token = token_[w];
    std::int64_t const count = count_[w];
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

  std::vector<std::vector<int>> token_;  // of every distinct word
  std::vector<std::int64_t> count_;
  hash_index<std::uint64_t> index_;  // of pairs
  std::vector<pair_state> pair_;
  merge_heap heap_;  // ranks are counts at the time of the push; those that fell since are found out at the top
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
  detail::hash_index<std::string> spelled;
  detail::hash_index<std::uint64_t> merged;
  for (int b = 0; b < 256; ++b) spelled.insert(std::string(1, static_cast<char>(b)));
  if (vocab_size <= 256) return merges;
  detail::pair_counter pairs(text);
  byte_pair p{};
  while (static_cast<index_t>(spelled.size()) < vocab_size && pairs.best(p.left, p.right) >= 2) {
    p.result = static_cast<int>(spelled.insert(spelled.key(static_cast<std::size_t>(p.left)) + spelled.key(static_cast<std::size_t>(p.right))));
    pairs.merge(p);
    if (merged.insert_new(detail::pair_key(p.left, p.right))) merges.push_back(p);  // a respelled token can bring an old pair back
  }
  return merges;
}

}  // namespace moe::inline MOE_ISA
