#include <examples/common/batches.hpp>

#include <algorithm>
#include <numeric>

#include <moe/core/random.hpp>

namespace trainer {

using moe::errc;
using moe::expects;

training_windows::training_windows(std::vector<int> t, index_t length, std::uint64_t seed, index_t together)
    : tokens_(std::move(t)), length_(length), stride_(length + (together > 1)), seed_(seed) {
  expects(size() > length, errc::bad_argument, "the training text has ", size(), " tokens, too few for one window of ", length,
          " and the token behind it: use more text, or a smaller --length");
  index_t const fit = (size() - 1) / stride_;
  windows_ = std::min<index_t>(std::max<index_t>(1, size() / stride_ - 1), UINT32_MAX);  // one less than fit: room for the phase
  windows_ = std::max(windows_ - windows_ % together, std::min(fit, together));
  expects(windows_ % together == 0, errc::bad_argument, "the training text has ", size(), " tokens, too few for a batch of ", together,
          " windows of ", length, " that do not overlap: use more text, or a smaller --batch or --length");
  order_.resize(static_cast<std::size_t>(windows_));
}

void training_windows::shuffle(index_t epoch) {
  moe::random_stream const random{seed_, moe::random_purpose::data_order, static_cast<std::uint32_t>(epoch)};
  index_t const room = size() - windows_ * stride_;  // >= 1: the target of the last input
  phase_ = static_cast<index_t>(random.below(0, static_cast<std::uint64_t>(room)));
  std::iota(order_.begin(), order_.end(), 0u);
  for (std::size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random.below(i, i + 1)]);
  epoch_ = epoch;
}

void training_windows::fill(index_t first_row, moe::vector_view<int> token, moe::vector_view<int> target) {
  index_t const n = token.extent<0>();
  expects(n == target.extent<0>() && n % length_ == 0, errc::shape_mismatch, "training_windows: ", n, " tokens and ", target.extent<0>(),
          " targets, both need whole windows of ", length_);
  for (index_t r = 0; r < n / length_; ++r) {
    index_t const row = first_row + r, epoch = row / windows_;
    if (epoch != epoch_) shuffle(epoch);
    int const* const from = tokens_.data() + phase_ + index_t{order_[static_cast<std::size_t>(row % windows_)]} * stride_;
    std::copy_n(from, length_, token.data() + r * length_);
    std::copy_n(from + 1, length_, target.data() + r * length_);
  }
}

evaluation_windows::evaluation_windows(std::vector<int> t, int before, index_t length, index_t overlap)
    : tokens_(std::move(t)), length_(length), overlap_(overlap) {
  expects(!tokens_.empty(), errc::bad_argument, "there is no text to evaluate");
  expects(overlap >= 0 && overlap < length, errc::bad_argument, "--overlap is ", overlap, " tokens, needs to be below the window's ", length);
  tokens_.insert(tokens_.begin(), before);
  index_t const stride = length_ - overlap_;
  windows_ = 1 + (std::max<index_t>(0, size() - length_) + stride - 1) / stride;
}

void evaluation_windows::fill(index_t window, moe::vector_view<int> token, moe::vector_view<int> target) const {
  expects(token.extent<0>() == length_ && target.extent<0>() == length_, errc::shape_mismatch, "evaluation_windows: a row of ", token.extent<0>(),
          ", needs ", length_);
  index_t const first = window * (length_ - overlap_);
  for (index_t i = 0; i < length_; ++i) {
    bool const inside = window < windows_ && first + i<size(), seen = window> 0 && i < overlap_;
    token(i) = inside ? tokens_[static_cast<std::size_t>(first + i)] : 0;
    target(i) = inside && !seen ? tokens_[static_cast<std::size_t>(first + i + 1)] : -1;
  }
}

evaluation_order::place evaluation_order::at(index_t step, index_t row) const {
  if (!apart) return {step * rows + row, step * rows + row < count};
  index_t const begin = row * count / rows, end = (row + 1) * count / rows;
  return begin + step < end ? place{begin + step, true} : place{std::max(begin, end - 1), false};
}

}  // namespace trainer
