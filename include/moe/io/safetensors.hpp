#pragma once
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moe/core/types.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/checksum.hpp>
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
  static constexpr entry known[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2},
                                    {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4},     {"F32", 4},     {"F64", 8}, {"I64", 8}, {"U64", 8}};
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

/// A tensor to be written: contiguous elements at `data`.
struct tensor_source {
  std::string name;
  std::string_view dtype;
  shape_list shape;
  void const* data;
};
/// A tensor to be filled from a file.
struct tensor_target {
  std::string name;
  std::string_view dtype;
  shape_list shape;
  void* data;
};
template <storage T>
tensor_source source_of(std::string name, T const* data, shape_list shape) {
  return {std::move(name), dtype_name<T>(), std::move(shape), data};
}
template <storage T>
tensor_target target_of(std::string name, T* data, shape_list shape) {
  return {std::move(name), dtype_name<T>(), std::move(shape), data};
}

/// What a written file can be recognised by.
struct written_file {
  std::uint64_t bytes = 0, crc64 = 0;
};

namespace detail {
inline void check_sources(std::vector<tensor_source> const& tensors, text_map const& metadata) {
  std::vector<std::string_view> names, keys;
  for (auto const& t : tensors) {
    index_t bytes = 0;
    expects(dtype_bytes(t.dtype) > 0, errc::bad_argument, "safetensors: tensor ", quoted(t.name), ": unknown type ", quoted(t.dtype));
    expects(tensor_bytes(t.dtype, t.shape, bytes), errc::bad_argument, "safetensors: tensor ", quoted(t.name), ": impossible shape ",
            shape_text(t.shape));
    expects(t.data != nullptr || bytes == 0, errc::bad_argument, "safetensors: tensor ", quoted(t.name), ": no data for ", bytes, " bytes");
    expects(t.name != "__metadata__", errc::bad_argument, "safetensors: no tensor can have the name \"__metadata__\"");
    names.push_back(t.name);
  }
  for (auto const& [key, value] : metadata) keys.push_back(key);
  for (auto* list : {&names, &keys}) {
    std::sort(list->begin(), list->end());
    auto const twin = std::adjacent_find(list->begin(), list->end());
    expects(twin == list->end(), errc::bad_argument, "safetensors: the name ", quoted(twin == list->end() ? "" : *twin), " is given twice");
  }
}
inline std::string safetensors_header(std::vector<tensor_source> const& tensors, text_map const& metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (std::size_t i = 0; i < metadata.size(); ++i) {
      if (i > 0) header += ',';
      append_json_string(header, metadata[i].first);
      append_json_string(header += ':', metadata[i].second);
    }
    header += '}';
  }
  index_t offset = 0;
  for (auto const& t : tensors) {
    if (header.size() > 1) header += ',';
    append_json_string(header, t.name);
    ((header += ":{\"dtype\":\"") += t.dtype) += "\",\"shape\":[";
    for (std::size_t i = 0; i < t.shape.size(); ++i) (header += i > 0 ? "," : "") += std::to_string(t.shape[i]);
    index_t bytes = 0;
    tensor_bytes(t.dtype, t.shape, bytes);
    ((header += "],\"data_offsets\":[") += std::to_string(offset)) += ',';
    (header += std::to_string(offset += bytes)) += "]}";
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}
}  // namespace detail

/// Writes tensors, larger element types first and else in the order given, so that every tensor lies aligned in the file.
///
/// Throws  bad_argument, before anything is touched: unknown dtype, a name given twice or not UTF-8, no data; io as atomic_file.
/// Source  the safetensors format: 8 bytes header length, JSON header padded with spaces to a multiple of 8, data.
inline written_file write_safetensors(std::string const& path, std::vector<tensor_source> tensors, text_map const& metadata = {},
                                      file_calls const& calls = {}) {
  detail::check_sources(tensors, metadata);
  std::stable_sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return dtype_bytes(a.dtype) > dtype_bytes(b.dtype); });
  std::string const header = detail::safetensors_header(tensors, metadata);
  expects(header.size() <= detail::largest_header, errc::bad_argument, "safetensors: a header of ", header.size(), " bytes, at most ",
          detail::largest_header, " are allowed");
  atomic_file file(path, calls);
  written_file result;
  auto const put = [&](void const* data, std::size_t bytes) {
    constexpr std::size_t block = std::size_t{1} << 20;  // the checksum finds in the cache what was just written
    for (auto const* p = static_cast<char const*>(data); bytes > 0;) {
      std::size_t const n = std::min(bytes, block);
      file.write(p, n);
      result.crc64 = crc64(p, n, result.crc64);
      result.bytes += n, p += n, bytes -= n;
    }
  };
  std::uint64_t const length = header.size();
  put(&length, sizeof length);
  put(header.data(), header.size());
  for (auto const& t : tensors) {
    index_t bytes = 0;
    detail::tensor_bytes(t.dtype, t.shape, bytes);
    put(t.data, static_cast<std::size_t>(bytes));
  }
  file.commit();
  return result;
}

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
    if (total < sizeof length) reject("is ", total, " bytes long, too short for a header length");
    file_.seek(0);
    file_.read(&length, sizeof length);
    if (length < 2 || length > detail::largest_header || length > total - sizeof length)
      reject("claims a header of ", length, " bytes; it needs at least 2, at most ", detail::largest_header, ", and the file has ",
             total - sizeof length, " bytes left");
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
  template <class... Parts>
  [[noreturn]] void reject(Parts const&... parts) const {
    fail(errc::bad_file, "safetensors file \"", file_.path(), "\" ", parts...);
  }
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
        if (to.back() < 0 || to.size() > most) reject("tensor ", quoted(name), ": a negative number, or more than ", most, " numbers in a list");
      });
    };
    json.object([&](std::string const& key) {
      ++members;
      if (key == "dtype") t.dtype = json.string();
      else if (key == "shape") list(t.shape, 16);
      else if (key == "data_offsets") list(offsets, 2);
      else reject("tensor ", quoted(name), ": unknown member ", quoted(key));
    });
    if (members != 3 || offsets.size() != 2) reject("tensor ", quoted(name), ": needs dtype, shape and two data_offsets");
    t.begin = offsets[0], t.end = offsets[1];
    return t;
  }
  void check_layout() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](auto const& a, auto const& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    index_t covered = 0;
    for (auto const& t : tensors_) {
      std::string const where = "tensor " + quoted(t.name) + " (" + quoted(t.dtype) + " " + shape_text(t.shape) + ", bytes [" +
                                std::to_string(t.begin) + ", " + std::to_string(t.end) + ")): ";
      if (dtype_bytes(t.dtype) == 0) reject(where, "unknown type");
      index_t bytes = 0;
      if (!detail::tensor_bytes(t.dtype, t.shape, bytes)) reject(where, "the size does not fit 64 bits");
      if (t.begin > t.end || t.end > data_bytes_) reject(where, "outside the ", data_bytes_, " bytes of data");
      if (t.end - t.begin != bytes) reject(where, "type and shape need ", bytes, " bytes");
      if (t.begin < covered) reject(where, "overlaps the tensor before it, which ends at ", covered);
      if (t.begin > covered) reject(where, "leaves a hole from ", covered);
      covered = t.end;
    }
    if (covered != data_bytes_) reject("has ", data_bytes_ - covered, " bytes behind the last tensor");
  }

  input_file file_;
  std::uint64_t data_begin_ = 0;
  index_t data_bytes_ = 0;
  std::vector<tensor_entry> tensors_;
  text_map metadata_;
};

/// Fills all targets from a file that holds exactly them. Throws bad_file listing every name that is missing or not expected, and every type and
/// shape that differs; then no target has been touched.
inline void read_tensors(safetensors_reader const& file, std::vector<tensor_target> const& targets) {
  std::string differences;
  std::vector<tensor_entry const*> entries;
  std::vector<std::string_view> expected;
  auto const by_name = [](tensor_entry const* a, tensor_entry const* b) { return a->name < b->name; };
  for (auto const& t : file.tensors()) entries.push_back(&t);
  std::sort(entries.begin(), entries.end(), by_name);
  auto const find = [&](std::string const& name) -> tensor_entry const* {
    auto const at = std::lower_bound(entries.begin(), entries.end(), name, [](auto const* e, std::string const& n) { return e->name < n; });
    return at != entries.end() && (*at)->name == name ? *at : nullptr;
  };
  for (auto const& t : targets) {
    expected.push_back(t.name);
    std::string const wanted = "\n  " + quoted(t.name) + ": expected " + std::string(t.dtype) + " " + shape_text(t.shape) + ", the file has ";
    if (auto const* e = find(t.name); e == nullptr) differences += wanted + "no such tensor";
    else if (e->dtype != t.dtype || e->shape != t.shape) differences += wanted + e->dtype + " " + shape_text(e->shape);
  }
  std::sort(expected.begin(), expected.end());
  for (auto const* e : entries)
    if (!std::binary_search(expected.begin(), expected.end(), std::string_view(e->name)))
      differences += "\n  " + quoted(e->name) + ": not expected, the file has " + e->dtype + " " + shape_text(e->shape);
  expects(differences.empty(), errc::bad_file, "safetensors file \"", file.path(), "\" does not fit the model:", differences);
  for (auto const& t : targets) file.read(*find(t.name), t.data);
}

}  // namespace moe::inline MOE_ISA
