#include "test/simt/simt.hpp"

#include <sys/mman.h>

#include <cuda_runtime.h>
#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <map>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(SIMT_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

constexpr std::size_t stack_bytes = 256 * 1024, page_bytes = 4096;
constexpr std::size_t most_shared = 232448, most_without_attribute = 48 * 1024;  // of a Hopper block
constexpr std::size_t front_margin = 1024, back_margin = 4096, near_margin = 64;
constexpr unsigned char margin_byte = 0xa5, poison_byte = 0xff;  // 0xff: NaN in every floating-point type, -1 in integers

struct unwind {};  // thrown through suspended threads after a failure, so that their destructors run

struct stack_keeper {  // stacks are reused by all blocks of a program
  boost::context::stack_context allocate() { return {}; }
  void deallocate(boost::context::stack_context&) noexcept {}
};

boost::context::stack_context new_stack() {
  void* const p = mmap(nullptr, stack_bytes + page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || mprotect(p, page_bytes, PROT_NONE) != 0) throw failure("simt: no memory for the stack of a thread");
  boost::context::stack_context s;
  s.size = stack_bytes;
  s.sp = static_cast<char*>(p) + page_bytes + stack_bytes;
  return s;
}

struct pending_copy {
  void* to;
  void const* from;
  int bytes;
  bool landed;
  place where;
};

enum class state { ready, waiting, finished };

struct cuda_thread {
  boost::context::stack_context stack = new_stack();
  boost::context::fiber self, caller;
  uint3 index{};
  int number = 0;
  state now = state::ready;
  char const* waits_for = nullptr;
  place where{"the start of the kernel", 0};  // of the last blocking call
  std::uint32_t waits_with = 0;               // mask of a warp operation
  std::vector<std::vector<pending_copy>> copies;  // groups; the last one is open

  bool same_wait(cuda_thread const& o) const {
    return now == o.now && (now != state::waiting || (waits_for == o.waits_for && waits_with == o.waits_with && where == o.where));
  }
};

struct warp_slot {  // a warp operation that some lanes have reached
  char const* name;
  std::uint32_t mask, arrived;
  place where;
  void* lanes[32];
};

/// The path from the repository on.
std::string text(place p) {
  std::string file = p.file;
  for (char const* part : {"/include/moe/", "/test/simt/"})
    if (auto const at = file.rfind(part); at != std::string::npos) file.erase(0, at + 1);
  return p.line > 0 ? file + ":" + std::to_string(p.line) : file;
}
std::string text(uint3 i) { return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")"; }
std::string hex(std::uint32_t x) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "0x%08x", x);
  return buffer;
}

class machine {
 public:
  schedule plan = schedules[0];
  std::map<void const*, std::size_t> shared_limit;

  void run(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& body) {
    if (running_) throw failure("simt: a launch from inside a kernel");
    running_ = true;
    random_.seed(plan.seed);
    body_ = &body, shared_bytes_ = shared_bytes;
    gridDim = {grid.x, grid.y, grid.z}, blockDim = {block.x, block.y, block.z};
    try {
      std::vector<std::uint64_t> blocks(std::uint64_t{grid.x} * grid.y * grid.z);
      for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
      if (plan.threads == order::reverse || plan.threads == order::greedy_high) std::reverse(blocks.begin(), blocks.end());
      if (plan.threads == order::random || plan.threads == order::priorities) std::shuffle(blocks.begin(), blocks.end(), random_);
      for (std::uint64_t b : blocks) {
        blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y), static_cast<unsigned>(b / grid.x / grid.y)};
        run_block(static_cast<int>(block.x * block.y * block.z));
      }
    } catch (...) {
      running_ = false;
      throw;
    }
    running_ = false;
  }

  [[noreturn]] void fail(place where, std::string const& what) const {
    throw failure(what + ", thread " + std::to_string(current_ == nullptr ? -1 : current_->number) + " of block " + text(blockIdx) + " at " +
                  text(where));
  }

  void barrier(place where) {
    if (at_barrier_ > 0 && !(barrier_ == where))
      fail(where, "__syncthreads that other threads of the block await at " + text(barrier_));
    barrier_ = where;
    ++at_barrier_;
    if (at_barrier_ < alive_) return wait("__syncthreads", 0, where);
    current_->where = where;
    release_barrier();
    maybe_yield();
  }

  void collective(warp_operation const& mine, place where) {
    int const lane = current_->number % 32, first = current_->number - lane;
    check_mask(mine, lane, first, where);
    auto& slots = warps_[static_cast<std::size_t>(first / 32)];
    auto slot = std::find_if(slots.begin(), slots.end(), [&](warp_slot const& s) { return (s.mask & mine.mask) != 0; });
    if (slot == slots.end()) slot = slots.insert(slot, warp_slot{mine.name, mine.mask, 0, where, {}});
    if (slot->mask != mine.mask || (slot->name != mine.name && std::strcmp(slot->name, mine.name) != 0))
      fail(where, std::string(mine.name) + " with mask " + hex(mine.mask) + " while other lanes await " + slot->name + " with mask " +
                      hex(slot->mask) + " at " + text(slot->where));
    slot->arrived |= 1u << lane;
    slot->lanes[lane] = mine.mine;
    if (slot->arrived != slot->mask) return wait(mine.name, mine.mask, where);
    warp_slot const done = *slot;
    slots.erase(slot);
    current_->where = where;
    if (mine.finish != nullptr) mine.finish(done.lanes, done.mask);
    for (std::uint32_t rest = done.mask; rest != 0; rest &= rest - 1)
      set_ready(*threads_[static_cast<std::size_t>(first + __builtin_ctz(rest))]);
    maybe_yield();
  }

  std::byte* area(std::size_t bytes, std::size_t alignment, place where) const {
    if (bytes > shared_bytes_)
      fail(where,
           "a layout of " + std::to_string(bytes) + " bytes where the launch gave " + std::to_string(shared_bytes_) + " bytes of shared memory");
    if (alignment > 1024) fail(where, "shared memory aligned to more than 1024 bytes");
    return shared_;
  }

  void check_shared(void const* address, std::size_t bytes, std::size_t alignment, char const* what, place where) const {
    auto const* const p = static_cast<std::byte const*>(address);
    if (p < shared_ || p + bytes > shared_ + shared_bytes_) fail(where, std::string(what) + " of an address outside the block's shared memory");
    if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0)
      fail(where, std::string(what) + " of an address of shared memory that is no multiple of " + std::to_string(alignment));
  }
  void copy(void* to, void const* from, int bytes, place where) {
    check_shared(to, 16, 16, "cp.async", where);
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail(where, "cp.async from an address that is no multiple of 16");
    if (bytes < 0 || bytes > 16) fail(where, "cp.async of " + std::to_string(bytes) + " bytes");
    if (current_->copies.empty()) current_->copies.emplace_back();
    current_->copies.back().push_back({to, from, bytes, false, where});
    if (plan.copies == landing::eager || (plan.copies == landing::random && coin())) land(current_->copies.back().back());
    else std::memset(to, poison_byte, 16);
  }
  void commit() {
    if (current_->copies.empty()) current_->copies.emplace_back();
    current_->copies.emplace_back();
  }
  void wait_copies(int pending) {
    auto& groups = current_->copies;
    while (static_cast<int>(groups.size()) - 1 > pending) {
      for (pending_copy& c : groups.front()) land(c);
      groups.erase(groups.begin());
    }
  }

 private:
  bool coin() { return (random_() >> 20 & 1) != 0; }

  static void land(pending_copy& c) {
    if (c.landed) return;
    c.landed = true;
    std::memset(c.to, 0, 16);
    if (c.bytes > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.bytes));
  }

  // Scheduling

  void run_block(int count) {
    start_block(count);
    try {
      for (int last = -1; alive_ > 0;) {
        int const next = pick(last);
        if (next < 0) throw failure(deadlock());
        resume(*threads_[static_cast<std::size_t>(next)]);
        if (failed_) std::rethrow_exception(std::exchange(failed_, nullptr));
        check_margins(near_margin, next);
        last = next;
      }
      check_margins(back_margin, -1);
    } catch (...) {
      unwinding_ = true;
      for (int i = 0; i < count_; ++i) {
        cuda_thread& t = *threads_[static_cast<std::size_t>(i)];
        if (t.now != state::finished) resume(t);
      }
      throw;
    }
  }

  void start_block(int count) {
    if (shared_ == nullptr) {
      void* const p = mmap(nullptr, front_margin + most_shared + back_margin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) throw failure("simt: no memory for a block");
      shared_ = static_cast<std::byte*>(p) + front_margin;
    }
    std::memset(shared_ - front_margin, margin_byte, front_margin);
    std::memset(shared_, poison_byte, shared_bytes_);
    std::memset(shared_ + shared_bytes_, margin_byte, back_margin);
    while (static_cast<int>(threads_.size()) < count) threads_.push_back(std::make_unique<cuda_thread>());
    auto const n = static_cast<std::size_t>(count);
    count_ = alive_ = count, at_barrier_ = 0, unwinding_ = false, failed_ = nullptr;
    warps_.assign((n + 31) / 32, {});
    priority_.resize((n + 31) / 32);
    std::generate(priority_.begin(), priority_.end(), random_);
    ready_.assign((n + 63) / 64, 0);
    for (int i = 0; i < count; ++i) {
      cuda_thread& t = *threads_[static_cast<std::size_t>(i)];
      auto const u = static_cast<unsigned>(i);
      t.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
      t.number = i, t.where = {"the start of the kernel", 0}, t.copies.clear();
      set_ready(t);
      t.self = boost::context::fiber(std::allocator_arg, boost::context::preallocated(t.stack.sp, t.stack.size, t.stack), stack_keeper{},
                                     [this, &t](boost::context::fiber&& caller) { return run_thread(t, std::move(caller)); });
    }
  }

  boost::context::fiber run_thread(cuda_thread& t, boost::context::fiber&& caller) {
    arrived(nullptr);
    t.caller = std::move(caller);
    try {
      if (!unwinding_) {
        (*body_)();
        leave(t);
      }
    } catch (unwind const&) {
    } catch (...) {
      if (!failed_) failed_ = std::current_exception();
    }
    t.now = state::finished;
    clear_ready(t);
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(nullptr, scheduler_bottom_, scheduler_size_);  // nullptr: this stack's bookkeeping ends
#endif
    return std::move(t.caller);
  }

  void resume(cuda_thread& t) {
    current_ = &t;
    threadIdx = t.index;
#if defined(SIMT_ASAN)
    void* mine = nullptr;
    __sanitizer_start_switch_fiber(&mine, static_cast<char*>(t.stack.sp) - t.stack.size, t.stack.size);
#endif
    t.self = std::move(t.self).resume();
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
    current_ = nullptr;
  }
  void suspend() {
    cuda_thread& t = *current_;
    void* mine = nullptr;
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(&mine, scheduler_bottom_, scheduler_size_);
#endif
    t.caller = std::move(t.caller).resume();
    arrived(mine);
    if (unwinding_) throw unwind{};
  }
  void arrived([[maybe_unused]] void* mine) {
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(mine, &scheduler_bottom_, &scheduler_size_);
#endif
  }

  void wait(char const* what, std::uint32_t mask, place where) {
    cuda_thread& t = *current_;
    t.now = state::waiting, t.waits_for = what, t.waits_with = mask, t.where = where;
    clear_ready(t);
    suspend();
  }
  void maybe_yield() {
    if ((plan.threads == order::random || plan.threads == order::priorities) && coin()) suspend();
  }

  void set_ready(cuda_thread& t) {
    t.now = state::ready;
    ready_[static_cast<std::size_t>(t.number / 64)] |= std::uint64_t{1} << (t.number % 64);
  }
  void clear_ready(cuda_thread const& t) { ready_[static_cast<std::size_t>(t.number / 64)] &= ~(std::uint64_t{1} << (t.number % 64)); }
  bool is_ready(int i) const { return (ready_[static_cast<std::size_t>(i / 64)] >> (i % 64) & 1) != 0; }
  int first_from(int i) const {  // -1: none
    for (; i < count_; i = (i / 64 + 1) * 64)
      if (std::uint64_t const word = ready_[static_cast<std::size_t>(i / 64)] >> (i % 64); word != 0) return i + __builtin_ctzll(word);
    return -1;
  }
  int last_up_to(int i) const {
    for (; i >= 0; i = i / 64 * 64 - 1)
      if (std::uint64_t const word = ready_[static_cast<std::size_t>(i / 64)] << (63 - i % 64); word != 0) return i - __builtin_clzll(word);
    return -1;
  }

  int pick(int last) {
    switch (plan.threads) {
      case order::forward: {
        int const next = first_from(last + 1);
        return next >= 0 ? next : first_from(0);
      }
      case order::reverse: {
        int const next = last > 0 ? last_up_to(last - 1) : -1;
        return next >= 0 ? next : last_up_to(count_ - 1);
      }
      case order::greedy_low:
        return first_from(0);
      case order::greedy_high:
        return last_up_to(count_ - 1);
      case order::priorities:
        return pick_priority();
      case order::random:
        break;
    }
    int const next = first_from(static_cast<int>(random_() % static_cast<std::uint64_t>(count_)));
    return next >= 0 ? next : first_from(0);
  }
  int pick_priority() {
    if (random_() % 256 == 0) priority_[random_() % priority_.size()] = random_();
    int best = -1;
    for (int w = 0; w < static_cast<int>(priority_.size()); ++w) {
      int const t = first_from(32 * w);
      bool const here = t >= 0 && t < 32 * (w + 1);
      if (here && (best < 0 || priority_[static_cast<std::size_t>(w)] > priority_[static_cast<std::size_t>(best / 32)])) best = t;
    }
    return best;
  }

  // Barriers and warp operations

  void release_barrier() {
    at_barrier_ = 0;
    for (int i = 0; i < count_; ++i) {
      cuda_thread& t = *threads_[static_cast<std::size_t>(i)];
      if (t.now == state::waiting && t.waits_with == 0) set_ready(t);
    }
  }

  void leave(cuda_thread& t) {
    for (auto const& group : t.copies)
      for (pending_copy const& c : group) fail(c.where, "the kernel ends with a cp.async in flight");
    for (warp_slot const& s : warps_[static_cast<std::size_t>(t.number / 32)])
      if ((s.mask >> (t.number % 32) & 1) != 0)
        fail(s.where, std::string(s.name) + " awaits lane " + std::to_string(t.number % 32) + ", which has left the kernel");
    --alive_;
    if (alive_ > 0 && at_barrier_ == alive_) release_barrier();
  }

  void check_mask(warp_operation const& mine, int lane, int first, place where) const {
    if ((mine.mask >> lane & 1) == 0)
      fail(where, std::string(mine.name) + " from lane " + std::to_string(lane) + ", which is not in its mask " + hex(mine.mask));
    for (int l = 0; l < 32; ++l) {
      if ((mine.mask >> l & 1) == 0) continue;
      if (first + l >= count_) fail(where, std::string(mine.name) + " names lane " + std::to_string(l) + ", which the block does not have");
      if (threads_[static_cast<std::size_t>(first + l)]->now == state::finished)
        fail(where, std::string(mine.name) + " names lane " + std::to_string(l) + ", which has left the kernel");
    }
    if (mine.source != -1 && (mine.source < 0 || mine.source > 31 || (mine.mask >> mine.source & 1) == 0))
      fail(where, std::string(mine.name) + " reads lane " + std::to_string(mine.source) + ", which is not in its mask " + hex(mine.mask));
  }

  // Reports

  void check_margins(std::size_t reach, int thread) const {
    auto const* const p = reinterpret_cast<unsigned char const*>(shared_);
    auto const report = [&](std::string const& byte) {
      throw failure(
          "a store to shared memory " + byte + " the " + std::to_string(shared_bytes_) + " bytes of the launch, in block " + text(blockIdx) +
          (thread < 0 ? std::string()
                      : " by thread " + std::to_string(thread) + " before it came to " + text(threads_[static_cast<std::size_t>(thread)]->where)));
    };
    for (std::size_t i = 0; i < reach; ++i)
      if (p[shared_bytes_ + i] != margin_byte) report(std::to_string(i + 1) + " bytes behind the end of");
    for (std::size_t i = 1; i <= std::min(reach, front_margin); ++i)
      if (*(p - i) != margin_byte) report(std::to_string(i) + " bytes before");
  }

  std::string deadlock() const {
    std::string s = "deadlock in block " + text(blockIdx) + ":";
    for (int i = 0; i < count_;) {
      cuda_thread const& t = *threads_[static_cast<std::size_t>(i)];
      int end = i + 1;
      while (end < count_ && t.same_wait(*threads_[static_cast<std::size_t>(end)])) ++end;
      s += end - i == 1 ? "\n  thread " + std::to_string(i) : "\n  threads " + std::to_string(i) + "-" + std::to_string(end - 1);
      if (t.now == state::finished) s += ": finished";
      else s += std::string(": ") + t.waits_for + (t.waits_with != 0 ? " with mask " + hex(t.waits_with) : "") + " at " + text(t.where);
      i = end;
    }
    return s;
  }

  bool running_ = false, unwinding_ = false;
  std::function<void()> const* body_ = nullptr;
  std::size_t shared_bytes_ = 0;
  std::byte* shared_ = nullptr;
  std::vector<std::unique_ptr<cuda_thread>> threads_;
  std::vector<std::vector<warp_slot>> warps_;
  std::vector<std::uint64_t> ready_, priority_;
  std::mt19937_64 random_;
  cuda_thread* current_ = nullptr;
  std::exception_ptr failed_;
  int count_ = 0, alive_ = 0, at_barrier_ = 0;
  place barrier_{"", 0};
#if defined(SIMT_ASAN)
  void const* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
#endif
};

machine& the_machine() {
  static machine m;
  return m;
}
cudaError_t last_error = cudaSuccess;
cudaError_t remember(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

}  // namespace

void use(schedule const& s) { the_machine().plan = s; }
void run_grid(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& thread) {
  the_machine().run(grid, block, shared_bytes, thread);
}
void fail_at(place where, std::string const& what) { the_machine().fail(where, what); }
void block_barrier(place where) { the_machine().barrier(where); }
void warp_collective(warp_operation const& mine, place where) { the_machine().collective(mine, where); }
std::byte* shared_area(std::size_t bytes, std::size_t alignment, place where) { return the_machine().area(bytes, alignment, where); }
void check_shared(void const* p, std::size_t bytes, std::size_t alignment, char const* what, place where) {
  the_machine().check_shared(p, bytes, alignment, what, where);
}
void copy_async(void* to, void const* from, int bytes, place where) { the_machine().copy(to, from, bytes, where); }
void copy_commit() { the_machine().commit(); }
void copy_wait(int pending) { the_machine().wait_copies(pending); }

cudaError_t set_shared_limit(void const* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<std::size_t>(bytes) > most_shared) return remember(cudaErrorInvalidValue);
  the_machine().shared_limit[kernel] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

cudaError_t check_launch(cudaLaunchConfig_t const& c, void const* kernel) {
  auto const product = [](dim3 d) { return std::uint64_t{d.x} * d.y * d.z; };
  if (product(c.gridDim) == 0 || c.gridDim.x > 0x7fffffffu || c.gridDim.y > 65535 || c.gridDim.z > 65535)
    return remember(cudaErrorInvalidConfiguration);
  if (product(c.blockDim) == 0 || product(c.blockDim) > 1024 || c.blockDim.z > 64) return remember(cudaErrorInvalidConfiguration);
  auto const limit = the_machine().shared_limit.find(kernel);
  std::size_t const allowed = std::max(most_without_attribute, limit == the_machine().shared_limit.end() ? 0 : limit->second);
  if (c.dynamicSmemBytes > allowed) return remember(cudaErrorInvalidValue);
  return cudaSuccess;
}

}  // namespace simt

cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
char const* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
  }
  return "unrecognized error code";
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  if (bytes > (std::size_t{1} << 36)) return simt::remember(cudaErrorMemoryAllocation);
  *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*p == nullptr) return simt::remember(cudaErrorMemoryAllocation);
  std::memset(*p, simt::poison_byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
