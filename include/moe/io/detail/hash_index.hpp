#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include <moe/core/macros.hpp>

namespace moe::inline MOE_ISA::detail {

inline std::uint64_t hash_of(std::uint64_t x) {
  x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15u;
  return x ^ (x >> 29);
}
inline std::uint64_t hash_of(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char const c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash_of(h);
}

/// Numbers distinct keys 0, 1, 2, ... in the order in which they come. Strings are not copied: they must outlive the index. Ten times cheaper to
/// compile than std::unordered_map, which matters to whoever includes the library.
template <class Key>
class hash_index {
 public:
  static constexpr std::size_t none = SIZE_MAX;

  std::size_t size() const { return key_.size(); }
  Key const& key(std::size_t i) const { return key_[i]; }
  std::size_t find(Key const& key) const {
    if (slot_.empty()) return none;
    std::size_t const s = slot_of(key);
    return slot_[s] == 0 ? none : slot_[s] - 1;
  }
  /// The number of a key, which is size() - 1 now if it was not there before.
  std::size_t insert(Key const& key) {
    if (2 * key_.size() >= slot_.size()) grow();
    std::size_t const s = slot_of(key);
    if (slot_[s] == 0) {
      key_.push_back(key);
      slot_[s] = key_.size();
    }
    return slot_[s] - 1;
  }
  /// False if the key was there before.
  bool insert_new(Key const& key) {
    std::size_t const before = size();
    return insert(key) == before;
  }

 private:
  std::size_t slot_of(Key const& key) const {
    std::size_t const mask = slot_.size() - 1;
    std::size_t s = static_cast<std::size_t>(hash_of(key)) & mask;
    while (slot_[s] != 0 && key_[slot_[s] - 1] != key) s = (s + 1) & mask;
    return s;
  }
  void grow() {
    slot_.assign(slot_.empty() ? 64 : 2 * slot_.size(), 0);
    for (std::size_t i = 0; i < key_.size(); ++i) slot_[slot_of(key_[i])] = i + 1;
  }
  std::vector<Key> key_;
  std::vector<std::size_t> slot_;  // 0: free, else 1 + number of the key; at most half are taken
};

}  // namespace moe::inline MOE_ISA::detail
