#pragma once
// What a person watches while a model trains: one line, rewritten in place on a terminal, plain lines elsewhere.
#include <cstdio>
#include <string>

#include <moe/core/types.hpp>

namespace trainer {

using moe::index_t;

/// Seconds on a clock that never goes back.
double now();

/// Mean of a quantity that weighs the last values most (`decay` per value) and is right from the first value on.
class smoothed {
 public:
  explicit smoothed(double decay = 0.9) : decay_(decay) {}
  void add(double x) {
    sum_ = decay_ * sum_ + (1 - decay_) * x;
    weight_ = decay_ * weight_ + (1 - decay_);
  }
  double value() const { return weight_ > 0 ? sum_ / weight_ : 0; }

 private:
  double decay_, sum_ = 0, weight_ = 0;
};

struct progress_values {
  index_t step = 0, total = 0;
  double loss = 0, bits_per_byte = 0, tokens_per_second = 0, lr = 0, gradient_norm = 0;
  double load_min = 0, load_max = 0;  ///< of the mean; load_max 0: no router
  index_t dropped = 0;
  double eta = 0;  ///< seconds
};
/// "step 120/900  loss 3.214  2.01 bits/byte  12,345 tok/s  lr 0.002  |g| 0.85  load 0.61..1.40  dropped 0  1m 20s left"
std::string progress_line(progress_values const& v);

/// Writes lines to `file`. On a terminal `update` rewrites the last line, at most five times a second, cut to the width; elsewhere it does nothing.
class console {
 public:
  explicit console(std::FILE* file);
  bool terminal() const { return terminal_; }
  void update(std::string const& line);
  void print(std::string const& line);     ///< a line that stays
  bool broken() const { return broken_; }  ///< whoever read our output is gone

 private:
  std::FILE* file_;
  bool terminal_, open_line_ = false, broken_ = false;
  double last_update_ = -1;
};

}  // namespace trainer
