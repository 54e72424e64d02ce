#pragma once
// The numbers of a run: one row per step in a CSV file, read back by --resume and by the plot.
#include <cstdio>
#include <string>
#include <vector>

#include <moe/core/types.hpp>

namespace trainer {

using moe::index_t;

/// One optimizer step. NaN where a number was not measured at this step.
struct step_metrics {
  index_t step = 0;  ///< 1 is the first; 0: before it, where only held_out is known
  double loss = 0;   ///< cross-entropy, nats per token
  double bits_per_byte = 0;
  double held_out = 0;  ///< bits per byte of a fixed sample of the held-out text
  double lr = 0, gradient_norm = 0;
  double balance = 0, z = 0;                  ///< auxiliary losses
  double load_min = 0, load_max = 0;          ///< tokens of the emptiest and of the fullest expert, over the mean of its layer
  double entropy = 0;                         ///< of the routers' softmax, nats, mean over tokens and layers; NaN without routers
  index_t dropped = 0;                        ///< tokens that no expert had room for
  double tokens_per_second = 0, seconds = 0;  ///< of this step; of training so far
};

/// Appends rows to a CSV file whose header names the units. Rows that were there are kept up to `last_step`: a killed run may have logged steps
/// that no checkpoint has. Throws errc::io; a write that fails later does not end training: `failed()` says why.
class metrics_log {
 public:
  metrics_log(std::string path, index_t last_step);
  metrics_log(metrics_log const&) = delete;
  ~metrics_log();
  void add(step_metrics const& m);
  void flush();
  std::vector<step_metrics> const& all() const { return all_; }
  std::string const& failed() const { return failed_; }

 private:
  std::string path_, failed_;
  std::FILE* file_ = nullptr;
  std::vector<step_metrics> all_;
};

std::string metrics_header();
std::string metrics_row(step_metrics const& m);
/// The rows of a CSV file. Throws bad_file with the line that is not one; the last line may be cut off.
std::vector<step_metrics> parse_metrics(std::string const& text, std::string const& source);

/// Training and held-out loss over steps; `xz` > 0 draws the compressor's level.
std::string loss_plot(std::string const& title, std::vector<step_metrics> const& rows, double xz);

}  // namespace trainer
