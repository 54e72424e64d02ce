#pragma once
// Directories of runs and their checkpoints.
#include <optional>
#include <string>
#include <vector>

#include <examples/common/engine.hpp>
#include <examples/common/options.hpp>

namespace trainer {

/// A checkpoint that was found, whole and unchanged.
struct saved_run {
  std::string path;  ///< of the tensor file
  index_t step = 0;
  std::uint64_t data_hash = 0, checksum = 0;  ///< of the text; of the tensor file
  fields config;
  std::vector<std::string> skipped;  ///< what is wrong with newer ones
};

struct place {
  std::string directory;
  std::optional<saved_run> saved;
};
/// The newest checkpoint in a directory that is whole; null if there is none.
std::optional<saved_run> newest_run(std::string const& directory);
/// For a new run: --out, which must not hold a checkpoint, or the first of runs/<preset>, runs/<preset>-2, ... that does not.
place new_place(options const& o, preset const& p);
/// For a run that exists: --out, or the last of runs/<preset>, runs/<preset>-2, ... that holds a checkpoint. Throws errc::io if there is none.
place existing_place(options const& o, preset const& p);

/// All that a checkpoint stores beside tensors and data: the config, the model's sizes, the tokenizer's checksum.
fields identity(run_config const& c, engine const& model, std::string const& tokenizer_checksum);
/// Throws bad_argument listing each field of `identity` and the data, where they differ from what was saved.
void check_same_run(saved_run const& saved, fields const& identity, std::uint64_t data_hash);
/// The same for reading: only what the model and the tokenizer need.
void check_same_model(saved_run const& saved, fields const& identity);

/// Weights and, unless null, the two moments of AdamW; each in the layout of the model's buffer.
struct run_tensors {
  float *weights = nullptr, *first = nullptr, *second = nullptr;
};
/// Writes a checkpoint, and returns the path of its tensor file. Throws as moe::save_checkpoint; the checkpoints that were there stay good.
std::string save_run(std::string const& directory, index_t step, std::uint64_t seed, std::uint64_t data_hash, fields const& identity,
                     std::vector<parameter_info> const& parameters, run_tensors const& t);
/// Fills what is not null. Throws bad_file listing every tensor that does not fit or that only the file has; then nothing has been touched.
void load_run(std::string const& path, std::vector<parameter_info> const& parameters, run_tensors const& t);

}  // namespace trainer
