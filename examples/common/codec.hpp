#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <moe/core/types.hpp>

namespace trainer {

using moe::index_t;

/// A tokenizer behind a wall: its headers are compiled once, in codec.cpp.
class codec {
 public:
  /// `kind` "bytes", or "bpe" learned from `text` with at most `vocab` entries.
  static codec learn(std::string const& kind, index_t vocab, std::string_view text);
  /// From a tokenizer.json. Throws io or bad_file.
  static codec load(std::string const& path);
  void save(std::string const& path) const;

  index_t size() const { return static_cast<index_t>(bytes_.size()); }
  std::vector<int> encode(std::string_view text) const;
  std::string const& token(int id) const;
  std::vector<int> const& bytes() const { return bytes_; }  ///< that each token spells
  std::string const& checksum() const { return checksum_; }

 private:
  struct impl;
  explicit codec(std::shared_ptr<impl const> p);
  std::shared_ptr<impl const> impl_;
  std::vector<int> bytes_;
  std::string checksum_;
};

}  // namespace trainer
