#pragma once
// Runs CUDA kernels on the CPU, one fiber per thread of a block. It shows whether our kernels agree with our reading of the CUDA and PTX manuals;
// it is no proof that they work on a GPU. One launch at a time, from one thread.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

namespace simt {

/// What a GPU would answer with a hang, a fault or garbage: a deadlock, a wrong address, a shuffle from a lane that has left.
struct failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Which ready thread runs next. The greedy orders let one warp run as far as it can: they show a missing barrier before a buffer is used again,
/// which
/// orders that keep all warps in step do not.
enum class order { forward, reverse, greedy_low, greedy_high, priorities, random };
/// When asynchronous copies act: when issued, when waited for (until then their destination is poison), or either.
enum class landing { eager, lazy, random };

struct schedule {
  char const* name;
  order threads;
  landing copies;
  std::uint64_t seed;
};

/// The first one is the reference.
inline constexpr schedule schedules[] = {
    {"forward, eager", order::forward, landing::eager, 0},
    {"reverse, lazy", order::reverse, landing::lazy, 0},
    {"greedy low, eager", order::greedy_low, landing::eager, 0},
    {"greedy low, lazy", order::greedy_low, landing::lazy, 0},
    {"greedy high, eager", order::greedy_high, landing::eager, 0},
    {"greedy high, lazy", order::greedy_high, landing::lazy, 0},
    {"priorities 1", order::priorities, landing::random, 1},
    {"priorities 2", order::priorities, landing::eager, 2},
    {"priorities 3", order::priorities, landing::lazy, 3},
    {"random 4", order::random, landing::random, 4},
    {"random 5", order::random, landing::random, 5},
};

/// Launches follow this schedule until another one is used.
void use(schedule const& s);

/// Runs f under each schedule, with a call of `each(schedule, result)` behind every run.
template <class F, class Each>
void for_each_schedule(F&& f, Each&& each) {
  for (schedule const& s : schedules) {
    use(s);
    each(s, f());
  }
  use(schedules[0]);
}

struct size3 {
  unsigned x = 1, y = 1, z = 1;
};

// What the replaced headers call.
void run_grid(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& thread);

struct place {
  char const* file;
  int line;
  bool operator==(place const& p) const { return line == p.line && (file == p.file || std::strcmp(file, p.file) == 0); }
};
[[noreturn]] void fail_at(place where, std::string const& what);

void block_barrier(place where);
/// One lane's part in a warp operation. The lane waits for the others of `mask`; the last to arrive calls `finish` with what each lane brought, which
/// reads and writes for all of them.
struct warp_operation {
  char const* name;
  std::uint32_t mask;
  void* mine;
  void (*finish)(void* const* lanes, std::uint32_t mask);
  int source = -1;  ///< of a shuffle: the lane to read from
};
void warp_collective(warp_operation const& mine, place where);

std::byte* shared_area(std::size_t bytes, std::size_t alignment, place where);  ///< throws unless the launch gave that many
void check_shared(void const* p, std::size_t bytes, std::size_t alignment, char const* what, place where);  ///< throws unless inside the area

}  // namespace simt
