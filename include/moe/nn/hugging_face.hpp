#pragma once
#include <algorithm>
#include <cctype>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <moe/io/safetensors.hpp>
#include <moe/io/safetensors_writer.hpp>
#include <moe/nn/parameter.hpp>

// Weights of Hugging Face transformers' MambaForCausalLM, into and out of
//   language_model<{.tied = true, ...}, repeat<layers, residual<mamba<{...}>>>>
// which has the same parameters under other names. Nothing is trained, padded or cut: a file either fits or is refused.

namespace moe::inline MOE_ISA::nn {

/// # stands for the number of a layer.
struct hugging_face_name {
  std::string_view ours, theirs;
};
inline constexpr hugging_face_name hugging_face_mamba_names[] = {{"embedding.weight", "backbone.embeddings.weight"},
                                                                 {"norm.weight", "backbone.norm_f.weight"},
                                                                 {"head.weight", "lm_head.weight"},
                                                                 {"layers.#.norm.weight", "backbone.layers.#.norm.weight"},
                                                                 {"layers.#.in_proj.weight", "backbone.layers.#.mixer.in_proj.weight"},
                                                                 {"layers.#.conv1d.weight", "backbone.layers.#.mixer.conv1d.weight"},
                                                                 {"layers.#.conv1d.bias", "backbone.layers.#.mixer.conv1d.bias"},
                                                                 {"layers.#.x_proj.weight", "backbone.layers.#.mixer.x_proj.weight"},
                                                                 {"layers.#.dt_proj.weight", "backbone.layers.#.mixer.dt_proj.weight"},
                                                                 {"layers.#.dt_proj.bias", "backbone.layers.#.mixer.dt_proj.bias"},
                                                                 {"layers.#.A_log", "backbone.layers.#.mixer.A_log"},
                                                                 {"layers.#.D", "backbone.layers.#.mixer.D"},
                                                                 {"layers.#.out_proj.weight", "backbone.layers.#.mixer.out_proj.weight"}};

/// What a file says beside its numbers: with it the same file can be written again, byte by byte.
struct hugging_face_file {
  struct tensor {
    std::string name, dtype;
  };
  std::vector<tensor> tensors;  ///< in the order of their data
  text_map metadata;
};

namespace detail {
inline constexpr std::string_view old_embedding = "backbone.embedding.weight", tied_head = "lm_head.weight";

/// Throws bad_argument if no parameter of a Mamba model is called so.
inline std::string hugging_face_name_of(std::string_view ours) {
  std::string_view constexpr layers = "layers.";
  std::string pattern(ours), number;
  if (ours.substr(0, layers.size()) == layers) {
    std::size_t end = layers.size();
    while (end < ours.size() && std::isdigit(static_cast<unsigned char>(ours[end])) != 0) ++end;
    number = ours.substr(layers.size(), end - layers.size());
    pattern.replace(layers.size(), number.size(), "#");
  }
  for (auto const& [name, theirs] : hugging_face_mamba_names)
    if (name == pattern) {
      std::string text(theirs);
      if (auto const at = text.find('#'); at != text.npos) text.replace(at, 1, number);
      return text;
    }
  throw error(errc::bad_argument, "hugging_face: a Mamba model of theirs has no parameter " + moe::quoted(std::string(ours)));
}
inline shape_list hugging_face_shape_of(parameter_info const& p) {
  if (p.name.ends_with("conv1d.weight")) return {p.rows, 1, p.columns};  // [out channels, in channels of a group, taps]
  if (p.rows == 1) return {p.columns};
  return {p.rows, p.columns};
}
inline bool is_readable(std::string_view dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

/// IEEE half precision and back, to nearest, ties to even. A NaN stays one.
inline float from_half(std::uint16_t h) {
  std::uint32_t const sign = std::uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(fraction) * 0x1p-24f));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline std::uint16_t to_half(float x) {
  auto const bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  auto const as_half = [&](std::uint32_t h) { return static_cast<std::uint16_t>(sign | h); };
  if (magnitude > 0x7f800000u) return as_half(0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return as_half(0x7c00u);                                 // 65520 and more round to infinity
  if (magnitude < 0x38800000u)                                                           // below 2^-14: multiples of 2^-24
    return as_half(std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f)  // whose last bit is that of the sum
                   - 0x3f000000u);
  return as_half((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}
/// n numbers of a type that is_readable, and back.
inline void widen(std::string_view dtype, std::vector<std::byte> const& from, std::vector<float>& to) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    std::uint16_t half = 0;
    if (dtype == "F32") std::memcpy(&to[i], from.data() + 4 * i, 4);
    else std::memcpy(&half, from.data() + 2 * i, 2), to[i] = dtype == "F16" ? from_half(half) : std::bit_cast<float>(std::uint32_t{half} << 16);
  }
}
inline void narrow(std::string_view dtype, std::vector<float> const& from, std::vector<std::byte>& to) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::uint16_t const half = dtype == "F16" ? to_half(from[i]) : bf16(from[i]).bits;
    if (dtype == "F32") std::memcpy(to.data() + 4 * i, &from[i], 4);
    else std::memcpy(to.data() + 2 * i, &half, 2);
  }
}

/// A tensor of theirs and the parameter that it is. A tied head is the embedding once more.
struct hugging_face_tensor {
  std::string name, dtype;
  parameter_info const* parameter;
};
/// The tensors that a file `has` must consist of; if it has none, those that transformers writes: F32, sorted by name.
inline std::vector<hugging_face_tensor> hugging_face_tensors(std::vector<parameter_info> const& parameters,
                                                             std::vector<hugging_face_file::tensor> const& has) {
  auto const find = [&](std::string_view name) { return std::find_if(has.begin(), has.end(), [&](auto const& t) { return t.name == name; }); };
  std::vector<hugging_face_tensor> all;
  auto const add = [&](std::string name, parameter_info const& p) {
    auto const there = find(name);
    all.push_back({std::move(name), there != has.end() && is_readable(there->dtype) ? there->dtype : "F32", &p});
  };
  bool tied = true;
  for (auto const& p : parameters) {
    std::string name = hugging_face_name_of(p.name);
    expects(p.count == 1, errc::bad_argument, "hugging_face: parameter ", p.name, " is ", p.count, " matrices, needs to be one");
    tied = tied && name != tied_head;
    if (p.name == "embedding.weight" && find(old_embedding) != has.end() && find(name) == has.end()) name = old_embedding;
    add(std::move(name), p);
  }
  for (auto const& p : parameters)
    if (tied && p.name == "embedding.weight" && find(tied_head) != has.end()) add(std::string(tied_head), p);
  std::sort(all.begin(), all.end(), [&](auto const& a, auto const& b) {
    auto const place_a = find(a.name), place_b = find(b.name);
    return place_a != place_b ? place_a < place_b : a.name < b.name;
  });
  return all;
}

inline hugging_face_file load_hugging_face(std::string const& path, std::vector<parameter_info> const& parameters, float* w) {
  expects(w != nullptr, errc::bad_argument, "hugging_face: no memory for the weights of \"", path, "\"");
  safetensors_reader const file(path);
  hugging_face_file found;
  found.metadata = file.metadata();
  for (auto const& t : file.tensors()) found.tensors.push_back({t.name, t.dtype});
  auto const tensors = hugging_face_tensors(parameters, found.tensors);
  std::vector<tensor_target> targets;
  for (auto const& t : tensors) targets.push_back({t.name, t.dtype, hugging_face_shape_of(*t.parameter), nullptr});
  check_tensors(file, targets);
  std::vector<std::byte> bytes;
  std::vector<float> plain, earlier;
  std::vector<bool> filled(parameters.size());
  for (auto const& t : tensors) {  // as many as the file has, in the order of its data
    auto const& entry = file.tensors()[static_cast<std::size_t>(&t - tensors.data())];
    bytes.resize(static_cast<std::size_t>(entry.end - entry.begin)), plain.resize(static_cast<std::size_t>(t.parameter->elements()));
    file.read(entry, bytes.data());
    widen(t.dtype, bytes, plain);
    auto const place = static_cast<std::size_t>(t.parameter - parameters.data());
    if (filled[place]) {
      earlier.resize(plain.size());
      t.parameter->to_plain(w, earlier.data());
      expects(std::memcmp(plain.data(), earlier.data(), 4 * plain.size()) == 0, errc::bad_file, "safetensors file \"", path,
              "\" does not fit the model, which has one table for embedding and head: ", tied_head, " differs from the embedding");
    }
    filled[place] = true;
    std::fill_n(w + t.parameter->offset, t.parameter->size, 0.0f);
    t.parameter->from_plain(plain.data(), w);
  }
  return found;
}

inline written_file save_hugging_face(std::string const& path, std::vector<parameter_info> const& parameters, float const* w,
                                      hugging_face_file const& like) {
  expects(w != nullptr, errc::bad_argument, "hugging_face: no weights to write to \"", path, "\"");
  auto const tensors = hugging_face_tensors(parameters, like.tensors);
  std::vector<tensor_source> sources;
  std::vector<std::vector<std::byte>> copies;
  std::vector<float> plain;
  for (auto const& t : tensors) {
    plain.resize(static_cast<std::size_t>(t.parameter->elements()));
    t.parameter->to_plain(w, plain.data());
    narrow(t.dtype, plain, copies.emplace_back(plain.size() * static_cast<std::size_t>(dtype_bytes(t.dtype))));
    sources.push_back({t.name, t.dtype, hugging_face_shape_of(*t.parameter), copies.back().data()});
  }
  return write_safetensors(path, sources, like.metadata);
}
}  // namespace detail

/// Fills the weights w [M::parameter_count] of a model from a file, and says what the file was like. w is memory of the host, in the order that
/// `Space` reads; its padding becomes 0.
///
/// Tensors may be F32, BF16 or F16, each of its own type. The embedding may have its old name, backbone.embedding.weight. If the model is tied,
/// lm_head.weight is absent, or the same numbers as the embedding.
///
/// Throws  bad_file listing every name that is missing or not expected, and every type and shape that differs, before w is touched; bad_file, of a
///         damaged file or a head that is not the embedding, and io, when part of w may have been written; bad_argument if M is no such model or w
///         is null.
template <class M, class Space = cpu>
hugging_face_file load_hugging_face_mamba(std::string const& path, float* w) {
  return detail::load_hugging_face(path, parameters_of<M, Space>(), w);
}

/// Writes the weights of a model as such a file: with the names, types, order and metadata of `like`, so that what was read is written again byte
/// by byte; without it as transformers writes them, in F32, a tied head left out.
///
/// Throws  bad_argument if M is no such model or w is null; io as atomic_file. A tensor of `like` that the model has not is left out.
template <class M, class Space = cpu>
written_file save_hugging_face_mamba(std::string const& path, float const* w, hugging_face_file const& like = {{}, {{"format", "pt"}}}) {
  return detail::save_hugging_face(path, parameters_of<M, Space>(), w, like);
}

}  // namespace moe::inline MOE_ISA::nn
