#include <examples/common/runs.hpp>

#include <set>

#include <moe/io/checkpoint.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

namespace {

std::string numbered(preset const& p, int n) { return std::string("runs/") + p.name + (n == 1 ? "" : "-" + std::to_string(n)); }
bool holds_run(std::string const& directory) { return !moe::detail::checkpoint_files(directory).empty(); }

moe::shape_list shape_of(parameter_info const& p) {
  if (p.count > 1) return {p.count, p.rows, p.columns};
  if (p.rows > 1) return {p.rows, p.columns};
  return {p.columns};
}
bool is_plain(parameter_info const& p) { return !p.in_panels; }

/// Calls f(name, values, parameter) for each tensor of a checkpoint.
template <class F>
void for_each_tensor(std::vector<parameter_info> const& parameters, run_tensors const& t, F const& f) {
  for (auto const& [prefix, values] : {std::pair{"", t.weights}, std::pair{"optimizer.first.", t.first}, std::pair{"optimizer.second.", t.second}})
    for (parameter_info const& p : parameters)
      if (values != nullptr) f(prefix + p.name, values, p);
}

}  // namespace

place new_place(options const& o, preset const& p) {
  if (!o.out.empty()) {
    expects(!holds_run(o.out), errc::io, o.out, ": holds a run already; --resume continues it, another --out starts a new one");
    return {o.out, {}};
  }
  int n = 1;
  while (holds_run(numbered(p, n))) ++n;
  return {numbered(p, n), {}};
}

std::optional<saved_run> newest_run(std::string const& directory) {
  auto saved = moe::latest_checkpoint(directory);
  if (!saved) return {};
  auto& m = saved->manifest;
  return saved_run{saved->path, m.step, m.data_hash, m.tensors.crc64, std::move(m.config), std::move(saved->skipped)};
}

place existing_place(options const& o, preset const& p) {
  place found{o.out, {}};
  for (int n = 1; o.out.empty() && holds_run(numbered(p, n)); ++n) found.directory = numbered(p, n);
  expects(!found.directory.empty(), errc::io, "there is no run in ", numbered(p, 1),
          " to continue or read; `train` makes one, --out DIR names another");
  found.saved = newest_run(found.directory);
  expects(found.saved.has_value(), errc::io, found.directory, ": holds no checkpoint; `train --out ", found.directory, "` makes one");
  return found;
}

fields identity(run_config const& c, engine const& model, std::string const& tokenizer_checksum) {
  fields all = to_fields(c);
  index_t parameters = 0;
  for (auto const& p : model.parameters()) parameters += p.elements();
  all.emplace_back("model.parameters", std::to_string(parameters));
  all.emplace_back("model.active_parameters", std::to_string(model.active_parameters()));
  all.emplace_back("model.vocab", std::to_string(model.vocab()));
  all.emplace_back("tokenizer.crc64", tokenizer_checksum);
  return all;
}

void check_same_run(saved_run const& saved, fields const& now, std::uint64_t data_hash) {
  moe::checkpoint c;
  c.path = saved.path, c.manifest.config = saved.config, c.manifest.data_hash = saved.data_hash;
  moe::check_resume(c, now, 0, data_hash);  // the seed is one of the fields
}

void check_same_model(saved_run const& saved, fields const& now) {
  std::string differences;
  for (char const* name : {"preset", "model.parameters", "model.active_parameters", "model.vocab", "tokenizer.crc64"}) {
    std::string const *a = find_field(saved.config, name), *b = find_field(now, name);
    if (a == nullptr || b == nullptr || *a != *b)
      differences += std::string("\n  ") + name + ": saved " + (a == nullptr ? "absent" : *a) + ", now " + (b == nullptr ? "absent" : *b);
  }
  expects(differences.empty(), errc::bad_argument, saved.path, ": is of another model:", differences);
}

std::string save_run(std::string const& directory, index_t step, std::uint64_t seed, std::uint64_t data_hash, fields const& identity,
                     std::vector<parameter_info> const& parameters, run_tensors const& t) {
  moe::checkpoint_manifest manifest;
  manifest.step = step, manifest.seed = seed, manifest.data_hash = data_hash, manifest.config = identity;
  std::vector<moe::tensor_source> sources;
  std::vector<std::vector<float>> copies;
  for_each_tensor(parameters, t, [&](std::string const& name, float const* values, parameter_info const& p) {
    float const* data = values + p.offset;
    if (!is_plain(p)) {
      p.to_plain(values, copies.emplace_back(static_cast<std::size_t>(p.elements())).data());
      data = copies.back().data();
    }
    sources.push_back(moe::source_of(name, data, shape_of(p)));
  });
  return moe::save_checkpoint(directory, manifest, sources).path;
}

void load_run(std::string const& path, std::vector<parameter_info> const& parameters, run_tensors const& t) {
  moe::safetensors_reader const file(path);
  std::string differences;
  std::set<std::string> known;
  for_each_tensor(parameters, t, [&](std::string const& name, float*, parameter_info const& p) {
    auto const* const entry = file.find(name);
    known.insert(name);
    if (entry == nullptr) differences += "\n  " + name + ": not in the file";
    else if (entry->dtype != "F32" || entry->shape != shape_of(p))
      differences +=
          "\n  " + name + ": the file has " + entry->dtype + " " + moe::shape_text(entry->shape) + ", the model F32 " + moe::shape_text(shape_of(p));
  });
  for (auto const& entry : file.tensors())
    if (!known.contains(entry.name) && !entry.name.starts_with("optimizer."))
      differences += "\n  " + entry.name + ": not in the model, the file has " + entry.dtype + " " + moe::shape_text(entry.shape);
  expects(differences.empty(), errc::bad_file, path, ": does not fit the model:", differences);
  std::vector<float> plain;
  for_each_tensor(parameters, t, [&](std::string const& name, float* values, parameter_info const& p) {
    auto const& entry = *file.find(name);
    if (is_plain(p)) return file.read(entry, values + p.offset);
    plain.resize(static_cast<std::size_t>(p.elements()));
    file.read(entry, plain.data());
    p.from_plain(plain.data(), values);
  });
}

}  // namespace trainer
