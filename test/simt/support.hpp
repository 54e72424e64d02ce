#pragma once
#include "test/simt/simt.hpp"
#include "test/support.hpp"

namespace test {

/// Runs f, which fills `out`, under every schedule; each must leave the same bits. `out` is poisoned before each run.
template <class T, class F>
void check_schedules(array<T>& out, F&& f) {
  std::vector<T> reference;
  simt::for_each_schedule(
      [&] {
        out.poison();
        f();
        return out.values();
      },
      [&](simt::schedule const& s, std::vector<T> const& result) {
        if (s.name == simt::schedules[0].name) reference = result;
        CHECK_MESSAGE(same_bits(result, reference), "schedule " << s.name << " gives other bits than " << simt::schedules[0].name);
      });
  out.poison();
  f();  // leaves the result of the reference schedule
}

/// The message of the failure that the stand-in reports; empty if none.
template <class F>
std::string failure_of(F&& f) {
  try {
    f();
  } catch (simt::failure const& e) {
    return e.what();
  }
  return {};
}

inline constexpr int schedule_count = static_cast<int>(std::size(simt::schedules));

/// What became of a kernel under all schedules.
struct outcome {
  int same = 0, different = 0, failures = 0;
  std::string report;  ///< the first failure
};
/// Runs f, which fills `to`, under every schedule, and counts how often it gives the bits of `expected`.
template <class T, class F>
outcome outcomes(array<T>& to, std::vector<T> const& expected, F&& f) {
  outcome o;
  simt::for_each_schedule(
      [&] {
        to.poison();
        return failure_of(f);
      },
      [&](simt::schedule const&, std::string const& report) {
        if (report.empty()) ++(same_bits(to.values(), expected) ? o.same : o.different);
        else if (o.failures++ == 0) o.report = report;
      });
  return o;
}

}  // namespace test
