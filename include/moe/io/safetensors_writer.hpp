#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <moe/core/types.hpp>
#include <moe/io/atomic_file.hpp>
#include <moe/io/checksum.hpp>
#include <moe/io/detail/hash_index.hpp>
#include <moe/io/detail/utf8.hpp>
#include <moe/io/safetensors.hpp>

namespace moe::inline MOE_ISA {

/// A tensor to be written: contiguous elements at `data`.
struct tensor_source {
  std::string name;
  std::string_view dtype;
  shape_list shape;
  void const* data;
};
template <storage T>
tensor_source source_of(std::string name, T const* data, shape_list shape) {
  return {std::move(name), dtype_name<T>(), std::move(shape), data};
}

/// What a written file can be recognised by.
struct written_file {
  std::uint64_t bytes = 0, crc64 = 0;
};

namespace detail {
inline void check_sources(std::vector<tensor_source> const& tensors, text_map const& metadata) {
  hash_index<std::string_view> names, keys;
  for (auto const& t : tensors) {
    index_t bytes = 0;
    auto const require = [&](bool ok, char const* what) {
      if (!ok)
        throw error(errc::bad_argument,
                    "safetensors: tensor " + moe::quoted(t.name) + " (" + moe::quoted(t.dtype) + " " + shape_text(t.shape) + "): " + what);
    };
    require(dtype_bytes(t.dtype) > 0, "unknown type");
    require(tensor_bytes(t.dtype, t.shape, bytes), "impossible shape");
    require(t.data != nullptr || bytes == 0, "no data");
    require(t.name != "__metadata__", "the name is reserved");
    require(names.insert_new(t.name), "the name is given twice");
  }
  for (auto const& [key, value] : metadata)
    if (!keys.insert_new(key)) throw error(errc::bad_argument, "safetensors: metadata " + moe::quoted(key) + " is given twice");
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
inline written_file write_safetensors(std::string const& path, std::vector<tensor_source> const& sources, text_map const& metadata = {},
                                      file_calls const& calls = {}) {
  detail::check_sources(sources, metadata);
  std::vector<tensor_source> tensors;
  for (index_t bytes = 8; bytes > 0; bytes /= 2)
    for (auto const& t : sources)
      if (dtype_bytes(t.dtype) == bytes) tensors.push_back(t);
  std::string const header = detail::safetensors_header(tensors, metadata);
  if (header.size() > detail::largest_header) throw error(errc::bad_argument, "safetensors: a header of more than 100000000 bytes");
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

}  // namespace moe::inline MOE_ISA
