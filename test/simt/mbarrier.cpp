// mbarriers. All state is in the 64 bits themselves: phase 1, bytes outstanding 23 (biased), arrivals of the phase 20, arrivals pending 20.
#include <algorithm>

#include "test/simt/machine.hpp"

namespace simt {
namespace {

constexpr int byte_bias = 1 << 22;
constexpr std::uint64_t field = (1u << 20) - 1;

struct mbarrier_state {
  std::uint32_t phase;  // parity of the phase under way
  std::int64_t bytes;
  std::uint32_t count, pending;
};

std::vector<std::uint64_t const*> initialised;

mbarrier_state load(std::uint64_t const* barrier) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, barrier, sizeof bits);
  return {static_cast<std::uint32_t>(bits >> 63), static_cast<std::int64_t>(bits >> 40 & ((1u << 23) - 1)) - byte_bias,
          static_cast<std::uint32_t>(bits >> 20 & field), static_cast<std::uint32_t>(bits & field)};
}

std::string name(std::uint64_t const* barrier) {
  return "mbarrier shared+" + std::to_string(reinterpret_cast<std::byte const*>(barrier) - the_machine().shared());
}

void store(std::uint64_t* barrier, mbarrier_state const& s) {
  std::uint64_t const bits =
      std::uint64_t{s.phase} << 63 | static_cast<std::uint64_t>(s.bytes + byte_bias) << 40 | std::uint64_t{s.count} << 20 | s.pending;
  std::memcpy(barrier, &bits, sizeof bits);
}

/// Stores the new state; where nothing is outstanding any more, that of the next phase.
void update(std::uint64_t* barrier, mbarrier_state s, place where) {
  if (s.bytes >= byte_bias / 4 || s.bytes <= -byte_bias / 4)  // 2^20 - 1 is the limit of the hardware
    the_machine().fail(where, name(barrier) + " has " + std::to_string(s.bytes) + " bytes outstanding");
  bool const complete = s.pending == 0 && s.bytes == 0;
  if (complete) s.phase ^= 1, s.pending = s.count;
  store(barrier, s);
  if (complete) the_machine().wake_all(barrier);
}

std::string describe(waiting const& w) {
  auto const* const barrier = static_cast<std::uint64_t const*>(w.object);
  mbarrier_state const s = load(barrier);
  return name(barrier) + " parity " + std::to_string(w.number) + " (phase " + std::to_string(s.phase) + ", " + std::to_string(s.pending) + " of " +
         std::to_string(s.count) + " arrivals pending, " + std::to_string(s.bytes) + " bytes expected)";
}

}  // namespace

void reset_mbarriers() { initialised.clear(); }

void check_mbarrier(std::uint64_t const* barrier, place where) {
  check_shared(barrier, 8, 8, "mbarrier", where);
  if (std::find(initialised.begin(), initialised.end(), barrier) == initialised.end())
    the_machine().fail(where, name(barrier) + " is used before its initialisation");
}

void mbarrier_init(std::uint64_t* barrier, std::uint32_t count, place where) {
  check_shared(barrier, 8, 8, "mbarrier", where);
  if (count < 1 || count > field) the_machine().fail(where, name(barrier) + " initialised for " + std::to_string(count) + " arrivals");
  if (std::find(initialised.begin(), initialised.end(), barrier) != initialised.end())
    the_machine().fail(where, name(barrier) + " is initialised a second time");
  initialised.push_back(barrier);
  store(barrier, {0, 0, count, count});
}

void mbarrier_arrive(std::uint64_t* barrier, std::uint32_t expected_bytes, place where) {
  check_mbarrier(barrier, where);
  mbarrier_state s = load(barrier);
  s.bytes += expected_bytes;
  if (s.pending == 0) the_machine().fail(where, name(barrier) + " has more arrivals than the " + std::to_string(s.count) + " it was initialised for");
  --s.pending;
  update(barrier, s, where);
}

void mbarrier_complete(std::uint64_t* barrier, std::size_t bytes, place where) {
  mbarrier_state s = load(barrier);
  s.bytes -= static_cast<std::int64_t>(bytes);
  update(barrier, s, where);
}

/// Returns when the phase of that parity is over. A thread that misses two ends of phases sleeps on, as on the device. In random orders the first
/// attempt may fail, as an attempt may there: callers must loop.
bool mbarrier_try_wait(std::uint64_t* barrier, std::uint32_t parity, place where) {
  machine& m = the_machine();
  check_mbarrier(barrier, where);
  if (parity > 1) m.fail(where, name(barrier) + " awaited with parity " + std::to_string(parity));
  cuda_thread& t = m.current();
  if (load(barrier).phase != parity) {
    m.maybe_yield();
  } else if (m.random_order() && !t.was_refused && m.coin()) {
    t.was_refused = true;
    m.yield();
    return false;
  } else {
    while (load(barrier).phase == parity) m.wait({"mbarrier", parity, barrier, describe}, where);
  }
  t.was_refused = false;
  return true;
}

}  // namespace simt
