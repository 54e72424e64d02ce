#pragma once
#include <dirent.h>

#include <charconv>
#include <optional>

#include <moe/io/checksum.hpp>
#include <moe/io/json_writer.hpp>
#include <moe/io/safetensors_writer.hpp>

namespace moe::inline MOE_ISA {

/// What a checkpoint says about itself. The caller fills the first four; the rest describes the tensor file.
struct checkpoint_manifest {
  index_t step = 0;
  std::uint64_t seed = 0;
  std::uint64_t data_hash = 0;
  text_map config;          ///< whatever must be the same for training to continue, as text
  std::string tensor_file;  ///< name within the directory
  written_file tensors;
};

struct checkpoint {
  checkpoint_manifest manifest;
  std::string path;                  ///< of the tensor file
  std::vector<std::string> skipped;  ///< what is wrong with newer checkpoints, one line each
};

namespace detail {
inline constexpr std::string_view manifest_tail = "\",\n\"crc64\":\"";

inline std::string manifest_text(checkpoint_manifest const& m) {
  json_value config = json_value::object();
  for (auto const& [key, value] : m.config) config.add(key, value);
  std::string text = "{\n\"format\":\"moe checkpoint 1\",\n\"step\":" + std::to_string(m.step) + ",\n\"seed\":\"" + std::to_string(m.seed) +
                     "\",\n\"data_hash\":\"" + hexadecimal(m.data_hash) + "\",\n\"config\":";
  append_json(text, config);
  text +=
      ",\n\"tensor_bytes\":" + std::to_string(m.tensors.bytes) + ",\n\"tensor_crc64\":\"" + hexadecimal(m.tensors.crc64) + "\",\n\"tensor_file\":";
  append_json_string(text, m.tensor_file);
  text.pop_back();
  text += manifest_tail;
  return text + hexadecimal(crc64(text)) + "\"}\n";  // over everything before its own digits
}

inline std::uint64_t parse_unsigned(std::string const& text, int base, json_reader const& json) {
  std::uint64_t x = 0;
  auto const [end, code] = std::from_chars(text.data(), text.data() + text.size(), x, base);
  if (code != std::errc{} || end != text.data() + text.size() || text.empty()) json.reject("a number was expected, not " + moe::quoted(text));
  return x;
}

/// Throws bad_file unless every byte is as it was written.
inline checkpoint_manifest parse_manifest(std::string const& text, std::string const& source) {
  std::size_t const tail = 19;  // 16 digits and "}\n
  if (text.size() <= tail || text.substr(text.size() - tail) != hexadecimal(crc64(text.data(), text.size() - tail)) + "\"}\n")
    throw error(errc::bad_file, source + ": truncated or changed, its own checksum does not fit");
  checkpoint_manifest m;
  int members = 0;
  json_reader json(text, source, {.bytes = std::size_t{1} << 24, .depth = 2});
  json.object([&](std::string const& key) {
    ++members;
    if (key == "format") {
      if (auto const format = json.string(); format != "moe checkpoint 1") json.reject("unknown format " + moe::quoted(format));
    } else if (key == "step") m.step = json.integer();
    else if (key == "seed") m.seed = parse_unsigned(json.string(), 10, json);
    else if (key == "data_hash") m.data_hash = parse_unsigned(json.string(), 16, json);
    else if (key == "config") json.object([&](std::string const& name) { m.config.emplace_back(name, json.string()); });
    else if (key == "tensor_bytes") m.tensors.bytes = static_cast<std::uint64_t>(json.integer());
    else if (key == "tensor_crc64") m.tensors.crc64 = parse_unsigned(json.string(), 16, json);
    else if (key == "tensor_file") m.tensor_file = json.string();
    else if (key == "crc64") json.string();
    else json.reject("unknown member " + moe::quoted(key));
  });
  json.finish();
  if (members != 9) json.reject("members are missing");
  return m;
}

/// "step_00001000" for a step, and back: -1 where `name` does not begin like that.
inline std::string step_name(index_t step) {
  std::string digits = std::to_string(step);
  return "step_" + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}
inline index_t step_in_name(std::string const& name) {
  index_t step = -1;
  if (name.compare(0, 5, "step_") != 0) return -1;
  auto const [end, code] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  if (code != std::errc{} || step < 0 || name.compare(0, static_cast<std::size_t>(end - name.data()), step_name(step)) != 0) return -1;
  return step;
}
inline bool ends_with(std::string const& name, std::string_view end) { return std::string_view(name).ends_with(end); }

/// Names in a directory that belong to checkpoints, in order; empty if it does not exist.
inline std::vector<std::string> checkpoint_files(std::string const& directory) {
  std::vector<std::string> names;
  DIR* const d = ::opendir(directory.c_str());
  if (d == nullptr) {
    if (errno == ENOENT) return names;
    fail_io("open directory", directory, errno);
  }
  while (auto const* entry = ::readdir(d))
    if (step_in_name(entry->d_name) >= 0) names.emplace_back(entry->d_name);
  ::closedir(d);
  auto const before = [](std::string const& a, std::string const& b) {
    index_t const i = step_in_name(a), j = step_in_name(b);
    return i != j ? i < j : a < b;
  };
  std::make_heap(names.begin(), names.end(), before);
  std::sort_heap(names.begin(), names.end(), before);
  return names;
}

/// Throws bad_file unless the file has the size and the checksum of the manifest.
inline void check_tensor_file(std::string const& path, written_file const& expected, file_calls const& calls) {
  input_file const file(path, calls);
  std::uint64_t const bytes = file.bytes();
  if (bytes != expected.bytes)
    throw error(errc::bad_file, "\"" + path + "\": " + std::to_string(bytes) + " bytes, written were " + std::to_string(expected.bytes));
  file.seek(0);
  std::string block(std::size_t{1} << 20, '\0');
  std::uint64_t sum = 0;
  while (std::size_t const n = file.read_some(block.data(), block.size())) sum = crc64(block.data(), n, sum);
  if (sum != expected.crc64)
    throw error(errc::bad_file, "\"" + path + "\": damaged, its checksum is " + hexadecimal(sum) + ", written was " + hexadecimal(expected.crc64));
}

inline checkpoint open_checkpoint(std::string const& directory, std::string const& manifest_name, file_calls const& calls) {
  std::string const path = directory + "/" + manifest_name;
  checkpoint c;
  c.manifest = parse_manifest(read_file(path, std::size_t{1} << 24, calls), "\"" + path + "\"");
  if (c.manifest.step != step_in_name(manifest_name) || step_in_name(c.manifest.tensor_file) != c.manifest.step ||
      c.manifest.tensor_file.find('/') != std::string::npos)
    throw error(errc::bad_file, "\"" + path + "\": it speaks of another step or file");
  c.path = directory + "/" + c.manifest.tensor_file;
  check_tensor_file(c.path, c.manifest.tensors, calls);
  return c;
}
}  // namespace detail

/// The newest checkpoint of a run directory whose manifest and tensor file are as they were written; nothing if the directory has none at all.
/// Damaged newer ones are passed over and reported in `skipped`. Throws bad_file, listing what is wrong, if there are some but none is good.
inline std::optional<checkpoint> latest_checkpoint(std::string const& directory, file_calls const& calls = {}) {
  std::vector<std::string> skipped;
  auto const names = detail::checkpoint_files(directory);
  for (std::size_t i = names.size(); i-- > 0;) {
    if (!detail::ends_with(names[i], ".json")) continue;
    try {
      checkpoint c = detail::open_checkpoint(directory, names[i], calls);
      c.skipped = std::move(skipped);
      return c;
    } catch (error const& e) {
      skipped.emplace_back(e.what());
    }
  }
  std::string list;
  for (auto const& line : skipped) list += "\n  " + line;
  if (!skipped.empty())
    throw error(errc::bad_file, "no checkpoint in \"" + directory + "\" is good:" + list +
                                    "\nRestore one from a copy, or start again in another directory.");
  return std::nullopt;
}

namespace detail {
/// Removes what the newest `keep` manifests and the one just `saved` do not need: first manifests, so that none ever names a missing file. Files
/// that cannot be removed stay for the next time, and so do all of a step whose manifest cannot be read or removed.
inline void remove_old_checkpoints(std::string const& directory, checkpoint_manifest const& saved, int keep, file_calls const& calls) {
  auto const names = checkpoint_files(directory);
  std::vector<std::string> needed = {saved.tensor_file};
  std::vector<index_t> untouched;
  for (std::size_t i = names.size(); i-- > 0;) {
    if (!ends_with(names[i], ".json")) continue;
    std::string const path = directory + "/" + names[i];
    bool const kept = keep-- > 0;
    if (step_in_name(names[i]) == saved.step) continue;
    if (!kept) {
      if (calls.unlink(path.c_str()) != 0) untouched.push_back(step_in_name(names[i]));
      continue;
    }
    try {
      needed.push_back(parse_manifest(read_file(path, std::size_t{1} << 24, calls), path).tensor_file);
    } catch (error const&) {
      untouched.push_back(step_in_name(names[i]));
    }
  }
  for (auto const& name : names) {
    if (!ends_with(name, ".safetensors") && name.find(".tmp-") == std::string::npos) continue;
    if (std::find(needed.begin(), needed.end(), name) == needed.end() &&
        std::find(untouched.begin(), untouched.end(), step_in_name(name)) == untouched.end())
      calls.unlink((directory + "/" + name).c_str());
  }
}
}  // namespace detail

/// Writes step_<step>.safetensors and then, last and atomically, its manifest step_<step>.json into `directory` (created if missing); then removes
/// all but the newest `keep` checkpoints and what interrupted saves left behind. At every moment the directory holds the checkpoints it held, or
/// the new one as well: saving a step that exists already writes a second tensor file and lets the manifest change over.
///
/// Throws  bad_argument (step < 0, keep < 1) and as write_safetensors and atomic_file; then the older checkpoints are as they were.
inline checkpoint save_checkpoint(std::string const& directory, checkpoint_manifest manifest, std::vector<tensor_source> const& tensors, int keep = 2,
                                  file_calls const& calls = {}) {
  if (manifest.step < 0) throw error(errc::bad_argument, "save_checkpoint: step is " + std::to_string(manifest.step) + ", needs at least 0");
  if (keep < 1) throw error(errc::bad_argument, "save_checkpoint: keep is " + std::to_string(keep) + ", needs at least 1");
  make_directories(directory, calls);
  std::string const name = detail::step_name(manifest.step);
  auto const path = [&](std::string const& file) { return directory + "/" + file; };
  struct stat status {};
  manifest.tensor_file = name + ".safetensors";
  for (int copy = 1; calls.stat(path(manifest.tensor_file).c_str(), &status) == 0; ++copy)
    manifest.tensor_file = name + "." + std::to_string(copy) + ".safetensors";
  manifest.tensors = write_safetensors(path(manifest.tensor_file), tensors, {{"format", "pt"}}, calls);
  write_file(path(name + ".json"), detail::manifest_text(manifest), calls);
  detail::remove_old_checkpoints(directory, manifest, keep, calls);
  return {manifest, path(manifest.tensor_file), {}};
}

/// One line for each field that differs between two configurations: "lr: saved 0.001, now 0.002".
inline std::vector<std::string> config_differences(text_map const& saved, text_map const& now) {
  std::vector<std::string> lines;
  auto const find = [](text_map const& map, std::string const& key) -> std::string const* {
    for (auto const& [k, value] : map)
      if (k == key) return &value;
    return nullptr;
  };
  for (auto const& [key, value] : saved)
    if (auto const* other = find(now, key); other == nullptr || *other != value)
      lines.push_back(key + ": saved " + value + ", now " + (other == nullptr ? "absent" : *other));
  for (auto const& [key, value] : now)
    if (find(saved, key) == nullptr) lines.push_back(key + ": saved absent, now " + value);
  return lines;
}

/// Throws bad_argument listing every field that differs, unless training can continue from `saved` as if it had never stopped.
inline void check_resume(checkpoint const& saved, text_map const& config, std::uint64_t seed, std::uint64_t data_hash) {
  auto lines = config_differences(saved.manifest.config, config);
  if (saved.manifest.seed != seed) lines.push_back("seed: saved " + std::to_string(saved.manifest.seed) + ", now " + std::to_string(seed));
  if (saved.manifest.data_hash != data_hash)
    lines.push_back("data: saved hash " + hexadecimal(saved.manifest.data_hash) + ", now " + hexadecimal(data_hash));
  std::string list;
  for (auto const& line : lines) list += "\n  " + line;
  if (!lines.empty())
    throw error(errc::bad_argument, "cannot resume from \"" + saved.path + "\", these differ:" + list +
                                        "\nA run continues with the text and the settings it began with; others need a new run "
                                        "in another directory.");
}

}  // namespace moe::inline MOE_ISA
