#pragma once
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <moe/core/error.hpp>
#include <moe/core/macros.hpp>
#include <moe/io/detail/hash_index.hpp>
#include <moe/io/detail/utf8.hpp>

namespace moe::inline MOE_ISA {

/// A value of a JSON document. Whole numbers within 64 bits are `integer`, all others `real`.
struct json_value {
  enum class kind { null, boolean, integer, real, string, array, object };
  kind type = kind::null;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  std::string string;
  std::vector<json_value> items;  ///< of an array or an object
  std::vector<std::string> keys;  ///< of an object: keys[i] belongs to items[i]

  json_value() = default;
  json_value(bool x) : type(kind::boolean), boolean(x) {}
  json_value(std::int64_t x) : type(kind::integer), integer(x) {}
  json_value(double x) : type(kind::real), real(x) {}
  json_value(std::string x) : type(kind::string), string(std::move(x)) {}
  json_value(char const* x) : json_value(std::string(x)) {}
  static json_value array() { return of(kind::array); }
  static json_value object() { return of(kind::object); }

  bool is(kind k) const { return type == k; }
  /// The member of that name; null pointer if there is none or this is no object.
  json_value const* find(std::string_view key) const {
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == key) return &items[i];
    return nullptr;
  }
  json_value& add(std::string key, json_value value) {
    keys.push_back(std::move(key));
    items.push_back(std::move(value));
    return *this;
  }

 private:
  static json_value of(kind k) {
    json_value v;
    v.type = k;
    return v;
  }
};

/// What a reader accepts at most.
struct json_limits {
  std::size_t bytes = std::size_t{64} << 20;
  int depth = 32;  ///< of nested arrays and objects
  std::size_t values = std::size_t{1} << 22;
};

/// Reads JSON (RFC 8259) from first to last byte, without ever going back; what arrays and objects hold is handed to the caller as it comes.
///
/// Throws  bad_file with `source` and the byte: a document beyond the limits, anything the grammar does not have, invalid UTF-8, half a
///         surrogate pair, a number beyond double, two members of one name.
class json_reader {
 public:
  json_reader(std::string_view text, std::string source, json_limits limits = {}) : text_(text), source_(std::move(source)), limits_(limits) {
    if (text_.size() > limits_.bytes) reject(std::to_string(text_.size()) + " bytes, more than the " + std::to_string(limits_.bytes) + " allowed");
  }

  [[noreturn]] void reject(std::string const& what) const { throw error(errc::bad_file, source_ + ": byte " + std::to_string(at_) + ": " + what); }

  /// The kind of the value that comes next; `integer` for any number.
  json_value::kind next() {
    space();
    char const c = at_ < text_.size() ? text_[at_] : '\0';
    if (c == '{') return json_value::kind::object;
    if (c == '[') return json_value::kind::array;
    if (c == '"') return json_value::kind::string;
    if (c == 't' || c == 'f') return json_value::kind::boolean;
    if (c == 'n') return json_value::kind::null;
    if (c == '-' || (c >= '0' && c <= '9')) return json_value::kind::integer;
    reject(at_ < text_.size() ? "a value was expected" : "the text ends where a value was expected");
  }

  /// Calls member(key) for each member; member must read exactly one value.
  template <class F>
  void object(F&& member) {
    open('{', "an object");
    detail::hash_index<std::string> seen;
    if (!take('}')) {
      do {
        space();
        std::string const key = string();
        if (!seen.insert_new(key)) reject("an object has two members of the name \"" + key.substr(0, 200) + "\"");
        need(':');
        member(key);
      } while (take(','));
      need('}');
    }
    --depth_;
  }

  /// Calls element() for each element; element must read exactly one value.
  template <class F>
  void array(F&& element) {
    open('[', "an array");
    if (!take(']')) {
      do element();
      while (take(','));
      need(']');
    }
    --depth_;
  }

  std::string string() {
    begin_value(json_value::kind::string, "a string");
    ++at_;
    std::string s;
    for (;;) {
      if (at_ >= text_.size()) reject("the text ends inside a string");
      char const c = text_[at_];
      if (c == '"') break;
      if (static_cast<unsigned char>(c) < 0x20) reject("a control character inside a string");
      if (c == '\\') {
        escape(s);
      } else {
        std::size_t const begin = at_;
        if (next_code_point(text_, at_) < 0) reject("invalid UTF-8");
        s.append(text_, begin, at_ - begin);
      }
    }
    ++at_;
    return s;
  }

  /// A number: `integer` or `real`.
  json_value number() {
    begin_value(json_value::kind::integer, "a number");
    std::size_t const begin = at_;
    bool whole = true;
    if (text_[at_] == '-') ++at_;
    if (at_ < text_.size() && text_[at_] == '0') ++at_;
    else digits();
    if (at_ < text_.size() && text_[at_] == '.') whole = false, ++at_, digits();
    if (at_ < text_.size() && (text_[at_] | 0x20) == 'e') {
      whole = false, ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      digits();
    }
    char const *first = text_.data() + begin, *last = text_.data() + at_;
    std::int64_t integer = 0;
    if (whole && std::from_chars(first, last, integer).ec == std::errc{} && (integer != 0 || *first != '-')) return json_value(integer);
    double real = 0;
    if (std::from_chars(first, last, real).ec != std::errc{}) reject("a number that double cannot hold");
    return json_value(real);
  }
  std::int64_t integer() {
    json_value const v = number();
    if (!v.is(json_value::kind::integer)) reject("a whole number of at most 64 bits was expected");
    return v.integer;
  }
  bool boolean() {
    begin_value(json_value::kind::boolean, "true or false");
    bool const yes = text_[at_] == 't';
    literal(yes ? "true" : "false");
    return yes;
  }
  void null() {
    begin_value(json_value::kind::null, "null");
    literal("null");
  }

  /// Any value.
  json_value value() {
    json_value v;
    switch (v.type = next()) {
      case json_value::kind::string:
        v.string = string();
        break;
      case json_value::kind::boolean:
        v.boolean = boolean();
        break;
      case json_value::kind::null:
        null();
        break;
      case json_value::kind::array:
        array([&] { v.items.push_back(value()); });
        break;
      case json_value::kind::object:
        object([&](std::string const& key) { v.keys.push_back(key), v.items.push_back(value()); });
        break;
      default:
        v = number();
    }
    return v;
  }

  /// Nothing but white space may be left.
  void finish() {
    space();
    if (at_ != text_.size()) reject("text behind the document");
  }

 private:
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    return ++at_, true;
  }
  void need(char c) {
    if (!take(c)) reject(std::string("'") + c + "' was expected");
  }
  void begin_value(json_value::kind k, char const* name) {
    if (next() != k) reject(std::string(name) + " was expected");
    if (++values_ > limits_.values) reject("more than " + std::to_string(limits_.values) + " values");
  }
  void open(char bracket, char const* name) {
    begin_value(bracket == '{' ? json_value::kind::object : json_value::kind::array, name);
    if (++depth_ > limits_.depth) reject("nested deeper than " + std::to_string(limits_.depth));
    ++at_;
  }
  void literal(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) reject("\"" + std::string(word) + "\" was expected");
    at_ += word.size();
  }
  void digits() {
    std::size_t const begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == begin) reject("a digit was expected");
  }
  std::int32_t four_digits() {
    std::int32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      char const c = at_ < text_.size() ? text_[at_] : '\0';
      int const lower = c | 0x20;
      if (c >= '0' && c <= '9') code = 16 * code + (c - '0');
      else if (lower >= 'a' && lower <= 'f') code = 16 * code + (lower - 'a' + 10);
      else reject("four hexadecimal digits were expected");
    }
    return code;
  }
  void escape(std::string& to) {
    constexpr std::string_view from = "\"\\/bfnrt", meaning = "\"\\/\b\f\n\r\t";
    char const c = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    if (auto const i = c == '\0' ? std::string_view::npos : from.find(c); i != std::string_view::npos) {
      to.push_back(meaning[i]);
      at_ += 2;
      return;
    }
    if (c != 'u') reject("an unknown escape");
    at_ += 2;
    std::int32_t code = four_digits();
    if (code >= 0xd800 && code <= 0xdbff) {
      if (text_.substr(at_, 2) != "\\u") reject("half a surrogate pair");
      at_ += 2;
      std::int32_t const low = four_digits();
      if (low < 0xdc00 || low > 0xdfff) reject("half a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code <= 0xdfff) {
      reject("half a surrogate pair");
    }
    append_utf8(to, code);
  }

  std::string_view text_;
  std::string source_;
  json_limits limits_;
  std::size_t at_ = 0, values_ = 0;
  int depth_ = 0;
};

inline json_value parse_json(std::string_view text, std::string source, json_limits limits = {}) {
  json_reader reader(text, std::move(source), limits);
  json_value v = reader.value();
  reader.finish();
  return v;
}

}  // namespace moe::inline MOE_ISA
