#pragma once
#include <algorithm>
#include <array>

#include <moe/data/byte_pairs.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/json.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
/// GPT-2's printable code point for every byte: itself where it is printable, else 256, 257, ... in order.
inline std::array<std::int32_t, 256> const& byte_characters() {
  static std::array<std::int32_t, 256> const table = [] {
    std::array<std::int32_t, 256> t;
    std::int32_t next = 256;
    for (std::int32_t b = 0; b < 256; ++b) {
      bool const printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      t[static_cast<std::size_t>(b)] = printable ? b : next++;
    }
    return t;
  }();
  return table;
}
inline std::string printable(std::string_view bytes) {
  std::string text;
  for (char const c : bytes) append_utf8(text, byte_characters()[static_cast<unsigned char>(c)]);
  return text;
}
/// The bytes that a token of a tokenizer.json stands for; false if it has a character that stands for none.
inline bool bytes_of(std::string_view text, std::string& bytes) {
  auto const& table = byte_characters();
  for (std::size_t at = 0; at < text.size();) {
    auto const found = std::find(table.begin(), table.end(), next_code_point(text, at));
    if (found == table.end()) return false;
    bytes.push_back(static_cast<char>(found - table.begin()));
  }
  return true;
}
inline std::string pre_tokenizer_json() {
  std::string text = R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)";
  append_json_string(text, word_pattern);
  return text + R"(},"behavior":"Isolated","invert":false},)"
                R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";
}
/// Equal but for the order of members.
inline bool same_json(json_value const& a, json_value const& b) {
  if (a.type != b.type || a.boolean != b.boolean || a.integer != b.integer || a.real != b.real || a.string != b.string ||
      a.items.size() != b.items.size())
    return false;
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    json_value const* other = a.keys.empty() ? &b.items[i] : b.find(a.keys[i]);
    if (other == nullptr || !same_json(a.items[i], *other)) return false;
  }
  return true;
}
}  // namespace detail

/// Text to token ids and back, without loss for any bytes. Two kinds: plain bytes (256 ids), and byte-level byte-pair encoding, which merges
/// neighbours within words (split_words), the pair learned first before all others and of equal ones the leftmost.
class tokenizer {
 public:
  /// Plain bytes: id == byte.
  tokenizer() {
    for (int b = 0; b < 256; ++b) {
      spelled_.emplace_back(1, static_cast<char>(b));
      id_of_byte_[static_cast<std::size_t>(b)] = b;
    }
  }
  /// Byte-pair encoding learned by learn_byte_pairs. It has fewer than `vocab_size` tokens where the text is too short for more.
  /// Throws  bad_argument if vocab_size < 256.
  static tokenizer train_bpe(std::string_view text, index_t vocab_size) {
    if (vocab_size < 256 || vocab_size > INT32_MAX)
      throw error(errc::bad_argument, "tokenizer: a vocabulary of " + std::to_string(vocab_size) + ", needs at least the 256 bytes");
    tokenizer t;
    for (auto const& p : learn_byte_pairs(text, vocab_size)) {
      if (p.result == t.vocab_size()) t.spelled_.push_back(t.token(p.left) + t.token(p.right));
      t.add_merge(p);
    }
    return t;
  }

  index_t vocab_size() const { return static_cast<index_t>(spelled_.size()); }
  bool is_bytes() const { return merges_.empty(); }
  std::vector<byte_pair> const& merges() const { return merges_; }
  /// The bytes of a token, which need not be whole characters. Throws bad_argument for an id outside [0, vocab_size).
  std::string const& token(int id) const {
    if (id < 0 || id >= vocab_size())
      throw error(errc::bad_argument, "tokenizer: id " + std::to_string(id) + " of a vocabulary of " + std::to_string(vocab_size()));
    return spelled_[static_cast<std::size_t>(id)];
  }

  /// Throws bad_argument for a single word of 2 GiB or more.
  std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids;
    if (is_bytes()) {
      for (char const c : text) ids.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
      return ids;
    }
    constexpr std::size_t most_words = std::size_t{1} << 20;
    detail::hash_index<std::string_view> seen;
    std::vector<std::size_t> begin, end;  // of the ids of each word in `seen`
    workspace work;
    ids.reserve(text.size() / 3);
    split_words(text, [&](std::string_view word) {
      std::size_t const w = seen.size() < most_words ? seen.insert(word) : seen.find(word);
      if (w < begin.size()) {
        for (std::size_t i = begin[w]; i < end[w]; ++i) ids.push_back(ids[i]);
        return;
      }
      if (w == begin.size()) begin.push_back(ids.size());
      append_word(word, work, ids);
      if (w == end.size()) end.push_back(ids.size());
    });
    return ids;
  }
  std::string decode(std::vector<int> const& ids) const {
    std::string text;
    for (int const id : ids) text += token(id);
    return text;
  }

  /// The tokenizer.json that Hugging Face's tokenizers loads and that gives the same ids there.
  std::string to_json() const {
    std::string text = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,\n\"pre_tokenizer\":" +
                       detail::pre_tokenizer_json() +
                       ",\n\"post_processor\":null,\n\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                       "\"use_regex\":false},\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                       "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
                       "\"ignore_merges\":false,\n\"vocab\":{";
    for (std::size_t i = 0; i < spelled_.size(); ++i) {
      append_json_string(text += i > 0 ? ",\n" : "\n", detail::printable(spelled_[i]));
      (text += ':') += std::to_string(i);
    }
    text += "},\n\"merges\":[";
    for (std::size_t i = 0; i < merges_.size(); ++i)
      append_json_string(text += i > 0 ? ",\n" : "\n", detail::printable(token(merges_[i].left)) + ' ' + detail::printable(token(merges_[i].right)));
    return text + "]}}\n";
  }
  /// From the text of a tokenizer.json; `source` names it in messages.
  ///
  /// Throws  bad_file for anything that would give other ids here than there: another model, pre_tokenizer or normalizer than to_json writes, added
  ///         tokens, ids with gaps, a byte without a token, merges of unknown tokens or given twice.
  static tokenizer from_json(std::string_view text, std::string const& source) {
    json_value const root = parse_json(text, source);
    auto const refuse = [&](std::string const& what) { throw error(errc::bad_file, source + ": " + what); };
    auto const is_unset = [](json_value const* v) {  // absent, null, false or empty
      return v == nullptr || v->is(json_value::kind::null) || (v->is(json_value::kind::boolean) && !v->boolean) ||
             (v->is(json_value::kind::string) && v->string.empty()) || (v->is(json_value::kind::array) && v->items.empty());
    };
    for (char const* key : {"truncation", "padding", "added_tokens", "normalizer", "post_processor"})
      if (!is_unset(root.find(key))) refuse(moe::quoted(key) + " is set; only files without it are understood");
    auto const* pre = root.find("pre_tokenizer");
    if (pre == nullptr || !detail::same_json(*pre, parse_json(detail::pre_tokenizer_json(), "pre_tokenizer"))) {
      auto const* type = pre == nullptr ? nullptr : pre->find("type");
      refuse("\"pre_tokenizer\" of type " + moe::quoted(type == nullptr ? "" : type->string) +
             " is not the one that this library executes: " + detail::pre_tokenizer_json());
    }
    auto const* model = root.find("model");
    auto const* type = model == nullptr ? nullptr : model->find("type");
    if (type == nullptr || type->string != "BPE") refuse("\"model\" needs \"type\":\"BPE\"");
    for (char const* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"})
      if (!is_unset(model->find(key))) refuse("\"model\": " + moe::quoted(key) + " is set; only files without it are understood");
    auto const *vocab = model->find("vocab"), *merges = model->find("merges");
    if (vocab == nullptr || !vocab->is(json_value::kind::object)) refuse("\"model\": no object \"vocab\"");
    if (merges == nullptr || !merges->is(json_value::kind::array)) refuse("\"model\": no array \"merges\"");
    tokenizer t;
    t.take_vocabulary(*vocab, source);
    detail::hash_index<std::string_view> ids;
    for (auto const& bytes : t.spelled_) ids.insert(bytes);
    for (auto const& pair : merges->items) t.take_merge(pair, ids, source);
    return t;
  }

  void save(std::string const& path, file_calls const& calls = {}) const { write_file(path, to_json(), calls); }
  static tokenizer load(std::string const& path, file_calls const& calls = {}) {
    return from_json(read_file(path, json_limits{}.bytes, calls), "\"" + path + "\"");
  }

 private:
  struct workspace {
    std::vector<int> token;  // of the piece that starts at this byte; -1: swallowed by an earlier one
    std::vector<std::uint32_t> next, previous;
    detail::merge_heap heap;  // rank: minus the place in merges_; key: where
  };

  bool add_merge(byte_pair const& p) {
    merges_.push_back(p);
    return rank_.insert_new(detail::pair_key(p.left, p.right));
  }

  void append_word(std::string_view word, workspace& work, std::vector<int>& ids) const {
    if (word.size() >= INT32_MAX) throw error(errc::bad_argument, "tokenizer: a word of " + std::to_string(word.size()) + " bytes");
    auto const n = static_cast<std::uint32_t>(word.size());
    work.token.resize(n), work.next.resize(n), work.previous.resize(n), work.heap.clear();
    for (std::uint32_t i = 0; i < n; ++i) {
      work.token[i] = id_of_byte_[static_cast<unsigned char>(word[i])];
      work.next[i] = i + 1, work.previous[i] = i - 1;
    }
    auto const propose = [&](std::uint32_t at) {
      if (work.next[at] >= n) return;
      std::size_t const rank = rank_.find(detail::pair_key(work.token[at], work.token[work.next[at]]));
      if (rank != rank_.none) work.heap.push({-static_cast<std::int64_t>(rank), at});
    };
    for (std::uint32_t i = 0; i < n; ++i) propose(i);
    while (!work.heap.empty()) {
      auto const [minus_rank, key] = work.heap.pop();
      byte_pair const& p = merges_[static_cast<std::size_t>(-minus_rank)];
      auto const at = static_cast<std::uint32_t>(key);
      std::uint32_t const right = work.next[at];
      if (work.token[at] != p.left || right >= n || work.token[right] != p.right) continue;  // merged otherwise in the meantime
      work.token[at] = p.result, work.token[right] = -1;
      work.next[at] = work.next[right];
      if (work.next[at] < n) work.previous[work.next[at]] = at;
      if (at > 0) propose(work.previous[at]);
      propose(at);
    }
    for (std::uint32_t i = 0; i < n; i = work.next[i]) ids.push_back(work.token[i]);
  }

  void take_vocabulary(json_value const& vocab, std::string const& source) {
    std::size_t const n = vocab.items.size();
    spelled_.assign(n, "");
    id_of_byte_.fill(-1);
    for (std::size_t i = 0; i < n; ++i) {
      auto const& id = vocab.items[i];
      std::string bytes;
      if (!detail::bytes_of(vocab.keys[i], bytes) || bytes.empty() || !id.is(json_value::kind::integer) || id.integer < 0 ||
          id.integer >= static_cast<index_t>(n) || !spelled_[static_cast<std::size_t>(id.integer)].empty())
        throw error(errc::bad_file, source + ": token " + moe::quoted(vocab.keys[i]) + " stands for no bytes, or its id is not one of 0 ... " +
                                        std::to_string(n) + " - 1, or given twice");
      if (bytes.size() == 1) id_of_byte_[static_cast<unsigned char>(bytes[0])] = static_cast<int>(id.integer);
      spelled_[static_cast<std::size_t>(id.integer)] = std::move(bytes);
    }
    for (std::size_t b = 0; b < 256; ++b)
      if (id_of_byte_[b] < 0) throw error(errc::bad_file, source + ": no token for byte " + std::to_string(b));
  }
  /// A merge is "left right" or ["left", "right"].
  void take_merge(json_value const& pair, detail::hash_index<std::string_view> const& ids, std::string const& source) {
    std::size_t const number = merges_.size();
    std::string left, right;
    bool good = false;
    if (std::size_t const space = pair.string.find(' '); space != std::string::npos)
      good = detail::bytes_of(pair.string.substr(0, space), left) && detail::bytes_of(pair.string.substr(space + 1), right);
    else if (pair.items.size() == 2) good = detail::bytes_of(pair.items[0].string, left) && detail::bytes_of(pair.items[1].string, right);
    std::size_t const a = ids.find(left), b = ids.find(right), c = ids.find(left + right);
    good = good && a != ids.none && b != ids.none && c != ids.none;
    if (!good || !add_merge({static_cast<int>(a), static_cast<int>(b), static_cast<int>(c)}))
      throw error(errc::bad_file, source + ": merge " + std::to_string(number) + " is not of two tokens to a third, or given twice");
  }

  std::vector<std::string> spelled_;  // the bytes of each token
  std::array<int, 256> id_of_byte_{};
  std::vector<byte_pair> merges_;
  detail::hash_index<std::uint64_t> rank_;  // of a pair: its place in merges_
};

}  // namespace moe::inline MOE_ISA
