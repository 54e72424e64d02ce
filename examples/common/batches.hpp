#pragma once
// Which tokens a step learns from, and which windows an evaluation reads.
#include <cstdint>
#include <vector>

#include <moe/core/tensor.hpp>

namespace trainer {

using moe::index_t;

/// Windows of `length` tokens and the target behind each, so that every epoch shows each token once, in an order and from a first place that Philox
/// draws from (seed, epoch). What row number `row` of the whole training (counted over all steps) holds depends on seed and row alone.
///
/// Where a model looks at several rows together, one must not hold the target of another. `together` > 1 says that so many rows, counted from the first, are:
/// they are of one epoch, and the windows of an epoch lie a token apart, the target of the last input, which is no input then.
class training_windows {
 public:
  /// Throws bad_argument if the tokens are too few for one window, or for `together`.
  training_windows(std::vector<int> tokens, index_t length, std::uint64_t seed, index_t together = 1);
  index_t size() const { return static_cast<index_t>(tokens_.size()); }
  index_t per_epoch() const { return windows_; }
  int last() const { return tokens_.back(); }
  /// Fills `token` and `target`, both [rows * length], with rows first_row, first_row + 1, ...
  void fill(index_t first_row, moe::vector_view<int> token, moe::vector_view<int> target);

 private:
  void shuffle(index_t epoch);
  std::vector<int> tokens_;
  index_t length_, stride_, windows_, epoch_ = -1, phase_ = 0;
  std::uint64_t seed_;
  std::vector<std::uint32_t> order_;
};

/// Windows over held-out text in which each token is a target exactly once. The input before the first token is `before` (the last token of the
/// training text). Neighbouring windows share `overlap` tokens of context, which are targets only in the earlier one: a token is predicted from
/// at least `overlap` and at most `length` tokens, all within its window.
class evaluation_windows {
 public:
  /// Throws bad_argument unless there is a token and 0 <= overlap < length.
  evaluation_windows(std::vector<int> tokens, int before, index_t length, index_t overlap = 0);
  index_t count() const { return windows_; }
  index_t size() const { return static_cast<index_t>(tokens_.size()) - 1; }
  /// Fills one row; targets beyond the text or seen by the window before are -1. A window >= count() has no targets.
  void fill(index_t window, moe::vector_view<int> token, moe::vector_view<int> target) const;

 private:
  std::vector<int> tokens_;  // `before`, then the text
  index_t length_, overlap_, windows_;
};

/// Which of `count` windows each row of a batch has at each step of an evaluation. Where a model looks at several rows together they lie `apart`:
/// each row goes through a part of the text of its own, count / rows windows, for a text tells about those around it, and the first input of a window
/// is the last target of the one before. A row that has no window left keeps the others company with its last one.
struct evaluation_order {
  index_t count, rows;
  bool apart;
  index_t steps() const { return (count + rows - 1) / rows; }
  struct place {
    index_t window;
    bool counts;  ///< else no token of it is a target
  };
  place at(index_t step, index_t row) const;
};

}  // namespace trainer
