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

}  // namespace test
