#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moe/core/types.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/detail/hash_index.hpp>
#include <moe/io/json.hpp>

namespace moe::inline MOE_ISA {

static_assert(std::endian::native == std::endian::little, "moe: safetensors files are little-endian, and so must the machine be");

using shape_list = std::vector<index_t>;
using text_map = std::vector<std::pair<std::string, std::string>>;  ///< in order, no name twice

/// Bytes of one element of the type that safetensors calls by this name; 0 for an unknown one.
inline index_t dtype_bytes(std::string_view dtype) {
  struct entry {
    std::string_view name;
    index_t bytes;
  };
  static constexpr entry known[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                    {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
  for (auto const& [name, bytes] : known)
    if (name == dtype) return bytes;
  return 0;
}

/// "[2, 3]"
inline std::string shape_text(shape_list const& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) (text += i > 0 ? ", " : "") += std::to_string(shape[i]);
  return text + "]";
}

namespace detail {
/// Elements times bytes; false where an extent is negative or the product does not fit.
inline bool tensor_bytes(std::string_view dtype, shape_list const& shape, index_t& bytes) {
  bytes = dtype_bytes(dtype);
  for (index_t const extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return false;
  return true;
}
inline constexpr std::uint64_t largest_header = 100'000'000;  // as in the format's reference implementation
}  // namespace detail

/// A tensor of a file: bytes [begin, end) of its data section.
struct tensor_entry {
  std::string name, dtype;
  shape_list shape;
  index_t begin = 0, end = 0;
};

/// An open safetensors file whose header has been checked in full: known types, shape x type == bytes, and tensors that cover the data section
/// without overlap or hole. Memory grows with the header that was really there, never with a number the file only claims.
///
/// Throws  bad_file naming file, tensor and offsets; io where a system call fails.
class safetensors_reader {
 public:
  explicit safetensors_reader(std::string const& path, file_calls const& calls = {}) : file_(path, calls) {
    std::uint64_t const total = file_.bytes();
    std::uint64_t length = 0;
    if (total < sizeof length) reject("is " + std::to_string(total) + " bytes long, too short for a header length");
    file_.seek(0);
    file_.read(&length, sizeof length);
    if (length < 2 || length > detail::largest_header || length > total - sizeof length)
      reject("claims a header of " + std::to_string(length) + " bytes; at least 2 are needed, at most " + std::to_string(detail::largest_header) +
             " allowed, and " + std::to_string(total - sizeof length) + " are there");
    data_begin_ = sizeof length + length;
    data_bytes_ = static_cast<index_t>(total - data_begin_);
    std::string header(length, '\0');
    file_.read(header.data(), header.size());
    if (header.front() != '{') reject("its header does not begin with '{'");
    parse(header);
    check_layout();
  }

  std::string const& path() const { return file_.path(); }
  /// In the order of their data.
  std::vector<tensor_entry> const& tensors() const { return tensors_; }
  text_map const& metadata() const { return metadata_; }
  /// Null pointer if there is none of that name.
  tensor_entry const* find(std::string_view name) const {
    for (auto const& t : tensors_)
      if (t.name == name) return &t;
    return nullptr;
  }
  /// Copies the bytes of a tensor of this file to `to`, which must have room for end - begin of them.
  void read(tensor_entry const& t, void* to) const {
    file_.seek(data_begin_ + static_cast<std::uint64_t>(t.begin));
    file_.read(to, static_cast<std::size_t>(t.end - t.begin));
  }

 private:
  [[noreturn]] void reject(std::string const& what) const { throw error(errc::bad_file, "safetensors file \"" + file_.path() + "\" " + what); }
  void parse(std::string const& header) {
    json_reader json(header, "safetensors file \"" + file_.path() + "\": header", {.bytes = detail::largest_header, .depth = 3});
    json.object([&](std::string const& name) {
      if (name == "__metadata__") {
        json.object([&](std::string const& key) {
          std::string value = json.string();
          metadata_.emplace_back(key, std::move(value));
        });
      } else {
        tensors_.push_back(entry(json, name));
      }
    });
    json.finish();
  }
  tensor_entry entry(json_reader& json, std::string const& name) const {
    tensor_entry t;
    t.name = name;
    int members = 0;
    shape_list offsets;
    auto const list = [&](shape_list& to, std::size_t most) {
      json.array([&] {
        to.push_back(json.integer());
        if (to.back() < 0 || to.size() > most)
          reject("tensor " + moe::quoted(name) + ": a negative number, or more than " + std::to_string(most) + " numbers in a list");
      });
    };
    json.object([&](std::string const& key) {
      ++members;
      if (key == "dtype") t.dtype = json.string();
      else if (key == "shape") list(t.shape, 16);
      else if (key == "data_offsets") list(offsets, 2);
      else reject("tensor " + moe::quoted(name) + ": unknown member " + moe::quoted(key));
    });
    if (members != 3 || offsets.size() != 2) reject("tensor " + moe::quoted(name) + ": needs dtype, shape and two data_offsets");
    t.begin = offsets[0], t.end = offsets[1];
    return t;
  }
  static bool lies_before(tensor_entry const& a, tensor_entry const& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; }
  void check_layout() {
    std::make_heap(tensors_.begin(), tensors_.end(), lies_before);
    std::sort_heap(tensors_.begin(), tensors_.end(), lies_before);
    index_t covered = 0;
    for (auto const& t : tensors_) {
      auto const require = [&](bool ok, char const* what, index_t number, char const* unit) {
        if (!ok)
          reject("tensor " + moe::quoted(t.name) + " (" + moe::quoted(t.dtype) + " " + shape_text(t.shape) + ", bytes [" + std::to_string(t.begin) +
                 ", " + std::to_string(t.end) + ")): " + what + std::to_string(number) + unit);
      };
      index_t bytes = 0;
      require(dtype_bytes(t.dtype) > 0, "unknown type, not one of the ", 15, " known");
      require(detail::tensor_bytes(t.dtype, t.shape, bytes), "its size does not fit ", 64, " bits");
      require(t.begin <= t.end && t.end <= data_bytes_, "outside the ", data_bytes_, " bytes of data");
      require(t.end - t.begin == bytes, "type and shape need ", bytes, " bytes");
      require(t.begin >= covered, "overlaps the tensor before it, which ends at ", covered, "");
      require(t.begin <= covered, "leaves a hole from ", covered, "");
      covered = t.end;
    }
    if (covered != data_bytes_) reject("has " + std::to_string(data_bytes_ - covered) + " bytes behind the last tensor");
  }

  input_file file_;
  std::uint64_t data_begin_ = 0;
  index_t data_bytes_ = 0;
  std::vector<tensor_entry> tensors_;
  text_map metadata_;
};

/// A tensor to be filled from a file.
struct tensor_target {
  std::string name;
  std::string_view dtype;
  shape_list shape;
  void* data;
};
template <storage T>
tensor_target target_of(std::string name, T* data, shape_list shape) {
  return {std::move(name), dtype_name<T>(), std::move(shape), data};
}

/// Throws bad_file listing every name that is missing or not expected, and every type and shape that differs, unless a file holds exactly the targets;
/// where their data is does not matter here.
inline void check_tensors(safetensors_reader const& file, std::vector<tensor_target> const& targets) {
  std::string differences;
  detail::hash_index<std::string_view> present, expected;
  auto const& entries = file.tensors();
  for (auto const& e : entries) present.insert(e.name);
  for (auto const& t : targets) {
    if (!expected.insert_new(t.name)) throw error(errc::bad_argument, "read_tensors: " + moe::quoted(t.name) + " is asked for twice");
    std::string const wanted = "\n  " + moe::quoted(t.name) + ": expected " + std::string(t.dtype) + " " + shape_text(t.shape) + ", the file has ";
    auto const i = present.find(t.name);
    if (i == present.none) differences += wanted + "no such tensor";
    else if (entries[i].dtype != t.dtype || entries[i].shape != t.shape)
      differences += wanted + entries[i].dtype + " " + shape_text(entries[i].shape);
  }
  for (auto const& e : entries)
    if (expected.find(e.name) == expected.none)
      differences += "\n  " + moe::quoted(e.name) + ": not expected, the file has " + e.dtype + " " + shape_text(e.shape);
  if (!differences.empty()) throw error(errc::bad_file, "safetensors file \"" + file.path() + "\" does not fit the model:" + differences);
}

/// Fills all targets from a file that holds exactly them. Throws as check_tensors; then no target has been touched.
inline void read_tensors(safetensors_reader const& file, std::vector<tensor_target> const& targets) {
  check_tensors(file, targets);
  detail::hash_index<std::string_view> present;
  for (auto const& e : file.tensors()) present.insert(e.name);
  for (auto const& t : targets) file.read(file.tensors()[present.find(t.name)], t.data);
}

}  // namespace moe::inline MOE_ISA
