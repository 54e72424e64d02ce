#pragma once
#include <cmath>
#include <concepts>
#include <limits>
#include <memory>
#include <numbers>
#include <utility>

#include <moe/core/error.hpp>
#include <moe/core/math.hpp>

namespace moe::inline MOE_ISA {

/// A learning rate over a run: a pure function of the step, which is 1 for the first update.
template <class S>
concept learning_rate_schedule = std::copyable<S> && requires(S const& s, index_t step) {
  { s.at(step) } -> std::convertible_to<double>;
};

/// Learning rate over a run: linear from 0 at step 0 to `peak` at step `warmup`, half a cosine down to `floor` at step `total`, then `floor`:
///   peak t / warmup                                                          t <= warmup
///   floor + (peak - floor) (1 + cos(pi (t - warmup) / (total - warmup))) / 2   warmup < t < total
/// A pure function of the step: a resumed run continues it. The first of `total` updates, counted from 1, is at(1).
///
/// Throws  bad_argument unless total >= 1, 0 <= warmup < total, peak and floor are finite, 0 <= floor <= peak.
/// Source  Loshchilov and Hutter 2016, arXiv:1608.03983.
class warmup_cosine {
 public:
  warmup_cosine(double peak, index_t warmup, index_t total, double floor) : peak_(peak), floor_(floor), warmup_(warmup), total_(total) {
    expects(total >= 1, errc::bad_argument, "warmup_cosine: total is ", total, " steps, needs at least 1");
    expects(warmup >= 0 && warmup < total, errc::bad_argument, "warmup_cosine: warmup is ", warmup, " steps, needs to be in [0, total = ", total,
            ")");
    expects(peak >= 0 && peak <= std::numeric_limits<double>::max(), errc::bad_argument, "warmup_cosine: peak is ", peak,
            ", needs to be finite and not negative");
    expects(floor >= 0 && floor <= peak, errc::bad_argument, "warmup_cosine: floor is ", floor, ", needs to be in [0, peak = ", peak,
            "] (a learning rate, not a part of the peak)");
  }

  /// Throws  bad_argument if step < 0.
  double at(index_t step) const {
    expects(step >= 0, errc::bad_argument, "warmup_cosine: step is ", step, ", needs to be at least 0");
    if (step >= total_) return floor_;
    if (step == warmup_) return peak_;
    if (step < warmup_) return peak_ * (static_cast<double>(step) / static_cast<double>(warmup_));
    double const part = static_cast<double>(step - warmup_) / static_cast<double>(total_ - warmup_);
    return madd(0.5 * (peak_ - floor_), 1.0 + std::cos(std::numbers::pi * part), floor_);
  }
  double peak() const { return peak_; }
  double floor() const { return floor_; }
  index_t warmup() const { return warmup_; }
  index_t total() const { return total_; }

 private:
  double peak_, floor_;
  index_t warmup_, total_;
};

/// Any schedule, its type forgotten, so that parameter groups can have different ones. Copies share the schedule, which nobody can change.
class any_schedule {
 public:
  template <class S>
    requires(!std::same_as<S, any_schedule> && learning_rate_schedule<S>)
  any_schedule(S schedule)
      : schedule_(std::make_shared<S const>(std::move(schedule))),
        at_([](void const* s, index_t step) { return static_cast<double>(static_cast<S const*>(s)->at(step)); }) {
    if constexpr (requires(S const& s) { static_cast<double>(s.peak()); })
      peak_ = static_cast<double>(static_cast<S const*>(schedule_.get())->peak());
  }

  /// Throws  as the schedule.
  double at(index_t step) const { return at_(schedule_.get(), step); }
  /// The largest rate of the run if the schedule has a function that says it, else 0.
  double peak() const { return peak_; }

 private:
  std::shared_ptr<void const> schedule_;
  double (*at_)(void const*, index_t);
  double peak_ = 0;
};

}  // namespace moe::inline MOE_ISA
