#pragma once
#include <vector>

#include <moe/optim/parameter_group.hpp>
#include <moe/optim/schedule.hpp>

namespace moe::inline MOE_ISA {

/// What adamw needs to know of a group at one step.
struct group_rate {
  double lr = 0, weight_decay = 0;
  friend bool operator==(group_rate const&, group_rate const&) = default;
};

/// Learning rate and weight decay of every parameter group over a run:
///   at(group, step) = {scale[group] * schedule[group].at(step), weight_decay[group]}
/// A pure function of group and step, so a resumed run continues it. All groups begin alike; each with_ and scaled returns a copy with one changed:
///   auto const rates = group_schedule(warmup_cosine(1e-3, 100, 1000, 1e-4), /*weight_decay=*/0.1)
///                          .scaled(parameter_group::router, 0.5)
///                          .with_weight_decay(parameter_group::norm, 0);
/// A schedule says how a rate moves over the run, a scale by how much a group differs throughout: a multiplier of muP is a scale, a scale of 0 freezes
/// the weights of a group.
///
/// Throws  bad_argument where it is made: a scale or weight decay negative or not finite, a schedule whose first step throws or is negative or not
///         finite, scale * peak * weight_decay above 1 (adamw would refuse it in the middle of a run).
class group_schedule {
 public:
  explicit group_schedule(any_schedule const& all, double weight_decay = 0) : rules_(parameter_group_count, rule{all, 1, weight_decay}) {
    check(parameter_group{});
  }

  /// Replaces the schedule of a group; its scale stays.
  [[nodiscard]] group_schedule with_schedule(parameter_group g, any_schedule const& own) const {
    return changed(g, [&](rule& r) { r.schedule = own; });
  }
  /// Multiplies the scale of a group, which is 1 at first.
  [[nodiscard]] group_schedule scaled(parameter_group g, double factor) const {
    expects(not_negative(factor), errc::bad_argument, "group_schedule: the scale of ", name_of(g), " is ", factor,
            ", needs to be finite and not negative");
    return changed(g, [&](rule& r) { r.scale *= factor; });
  }
  [[nodiscard]] group_schedule with_weight_decay(parameter_group g, double weight_decay) const {
    return changed(g, [&](rule& r) { r.weight_decay = weight_decay; });
  }

  /// Throws  bad_argument as the group's schedule, and if that returns a number that is negative or not finite.
  group_rate at(parameter_group g, index_t step) const {
    rule const& r = rules_[index_of(g)];
    double const lr = r.scale * r.schedule.at(step);
    expects(not_negative(lr), errc::bad_argument, "group_schedule: the learning rate of ", name_of(g), " at step ", step, " is ", lr,
            ", needs to be finite and not negative");
    return {lr, r.weight_decay};
  }

 private:
  struct rule {
    any_schedule schedule;
    double scale, weight_decay;
  };
  static bool not_negative(double x) { return x >= 0 && x <= std::numeric_limits<double>::max(); }

  template <class F>
  group_schedule changed(parameter_group g, F const& change) const {
    group_schedule copy = *this;
    change(copy.rules_[index_of(g)]);
    copy.check(g);
    return copy;
  }
  void check(parameter_group g) const {
    rule const& r = rules_[index_of(g)];
    expects(not_negative(r.weight_decay), errc::bad_argument, "group_schedule: the weight decay of ", name_of(g), " is ", r.weight_decay,
            ", needs to be finite and not negative");
    at(g, 1);
    double const most = r.scale * r.schedule.peak() * r.weight_decay;
    expects(most <= 1, errc::bad_argument, "group_schedule: the learning rate of ", name_of(g), " peaks at ", r.scale * r.schedule.peak(),
            ", which times its weight decay of ", r.weight_decay, " is ", most, ", needs to be at most 1");
  }

  std::vector<rule> rules_;
};

}  // namespace moe::inline MOE_ISA
