#pragma once
// The command line of every example: what was asked for, and what a run needs to know.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <examples/common/preset.hpp>

namespace trainer {

using moe::index_t;

enum class command { train, eval, sample };

/// What the command line says. An empty optional: not given, so the preset (or the run that is resumed) decides.
struct options {
  command what = command::train;
  std::string data, out;
  std::string from;  ///< train: directory of the run whose newest weights a new one begins with
  std::string load;  ///< eval: CSV file for the tokens of each expert
  std::string device = "cpu";
  std::string dtype;  ///< "fp32", "bf16"; empty: not given, so the run that is read decides, or fp32
  std::optional<double> seconds;  ///< --minutes, --stop-after
  std::optional<index_t> steps, batch, length, accumulate, warmup, vocab;
  std::optional<std::uint64_t> seed;
  std::optional<double> lr, weight_decay, clip;
  std::optional<std::string> tokenizer;
  int threads = 0;  ///< 0: one per core
  bool resume = false, dry_run = false, no_xz = false;
  index_t checkpoint_every = 0, log_every = 0;  ///< steps; 0: every 5 minutes, every 5 seconds
  index_t overlap = 0;                          ///< eval: tokens of context that windows share
  bool whole = false;                           ///< eval: all of the file, not its last tenth
  std::string prompt;
  index_t characters = 400, continuations = 1;
  double temperature = 0.8, top_p = 0.95;
};

/// The checkpoint whose weights a run began with (--from): its run's directory as it was named, and what is known of it without that directory.
struct origin {
  std::string directory, preset;
  index_t step = 0;
  std::string checksum;  ///< of the tensor file
};

/// Everything that decides the numbers of a run. Saved with each checkpoint; --resume needs all of it to be equal but for the dtype: weights and moments
/// are saved as float, so a run may go on in another one where --dtype says so.
struct run_config {
  std::string preset;
  std::string tokenizer, dtype = "fp32";
  index_t vocab = 0, batch = 0, length = 0, accumulate = 1, steps = 0, warmup = 0;
  std::uint64_t seed = 1;
  double lr = 0, floor = 0.1, weight_decay = 0, clip = 0;
  std::optional<origin> from;

  index_t tokens_per_step() const { return batch * length * accumulate; }
};

/// Name and value of each field of a run_config, and back. `values` may hold more names; a missing or malformed one throws bad_file.
using fields = std::vector<std::pair<std::string, std::string>>;
fields to_fields(run_config const& c);
run_config from_fields(fields const& values);
/// The value of `name`; null if there is none.
std::string const* find_field(fields const& values, std::string const& name);
void set_field(fields& values, std::string const& name, std::string value);

/// The config of a new run. steps stays 0 when only a time was given; warmup too, when it was not given (see fix_steps).
run_config new_config(options const& o, preset const& p, index_t model_vocab);
/// Sets the number of steps and, unless given, the steps of warm-up.
void fix_steps(run_config& c, options const& o, preset const& p, index_t steps);

/// Why the program should end before it begins: --help (code 0, text for stdout) or a wrong command line (code 2, text for stderr).
struct usage_exit {
  int code;
  std::string text;
};

/// Reads the command line. Throws usage_exit; the message for an unknown flag names the nearest one.
options parse_options(int argc, char const* const* argv, preset const& p, index_t model_vocab);

/// Seconds of the environment variable MOE_STOP_AFTER ("20s"), which caps the time of training; empty if not set.
std::optional<double> stop_after_environment();

}  // namespace trainer
