#include "test/simt/machine.hpp"

#include <sys/mman.h>

#include <cuda_runtime.h>
#include <algorithm>
#include <boost/context/preallocated.hpp>

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

constexpr std::size_t stack_bytes = 256 * 1024, page_bytes = 4096;
constexpr std::size_t most_shared = 232448;  // of a Hopper block
constexpr std::size_t front_margin = 1024, back_margin = 4096, near_margin = 64;
constexpr unsigned char margin_byte = 0xa5;

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

std::string text(uint3 i) { return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")"; }

}  // namespace

std::string text(place p) {
  std::string file = p.file;
  for (char const* part : {"/include/moe/", "/test/simt/"})
    if (auto const at = file.rfind(part); at != std::string::npos) file.erase(0, at + 1);
  return p.line > 0 ? file + ":" + std::to_string(p.line) : file;
}
std::string hex(std::uint32_t x) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "0x%08x", x);
  return buffer;
}

machine& the_machine() {
  static machine m;
  return m;
}

void machine::run(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& body) {
  if (running_) throw failure("simt: a launch from inside a kernel");
  running_ = true;
  random_.seed(plan.seed);
  body_ = &body, shared_bytes_ = shared_bytes;
  gridDim = {grid.x, grid.y, grid.z}, blockDim = {block.x, block.y, block.z};
  try {
    std::vector<std::uint64_t> blocks(std::uint64_t{grid.x} * grid.y * grid.z);
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    if (plan.threads == order::reverse || plan.threads == order::greedy_high) std::reverse(blocks.begin(), blocks.end());
    if (random_order()) std::shuffle(blocks.begin(), blocks.end(), random_);
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

void machine::fail(place where, std::string const& what, int thread) const {
  if (thread < 0 && current_ != nullptr) thread = current_->number;
  throw failure(what + ", thread " + std::to_string(thread) + " of block " + text(blockIdx) + " at " + text(where));
}

// A block, from start to end

void machine::run_block(int count) {
  start_block(count);
  try {
    for (int last = -1; alive_ > 0;) {
      if (plan.copies == landing::random && !queue_.empty() && coin()) act_one(true);
      int const next = pick(last);
      if (next < 0) {
        if (!act_one(plan.threads == order::random)) throw failure(deadlock());
        continue;
      }
      resume(thread(next));
      if (failed_) std::rethrow_exception(std::exchange(failed_, nullptr));
      check_margins(near_margin, next);
      last = next;
    }
    end_block();
  } catch (...) {
    unwinding_ = true;
    queue_.clear();  // before the stacks that operations point to
    for (int i = 0; i < count_; ++i)
      if (thread(i).now != state::finished) resume(thread(i));
    failed_ = nullptr;
    throw;
  }
}

void machine::start_block(int count) {
  prepare_margins();
  while (static_cast<int>(threads_.size()) < count) {
    threads_.push_back(std::make_unique<cuda_thread>());
    threads_.back()->stack = new_stack();
  }
  auto const n = static_cast<std::size_t>(count);
  count_ = alive_ = count, unwinding_ = false, failed_ = nullptr;
  std::fill(std::begin(barriers_), std::end(barriers_), block_barrier_state{});
  queue_.clear();
  reset_mbarriers();
  reset_products(count);
  warps_.assign((n + 31) / 32, {});
  priority_.resize((n + 31) / 32);
  std::generate(priority_.begin(), priority_.end(), random_);
  ready_.assign((n + 63) / 64, 0);
  for (int i = 0; i < count; ++i) {
    cuda_thread& t = thread(i);
    auto const u = static_cast<unsigned>(i);
    t.x = u % blockDim.x, t.y = u / blockDim.x % blockDim.y, t.z = u / blockDim.x / blockDim.y;
    t.number = i, t.where = {"the start of the kernel", 0}, t.was_refused = false;
    t.copies.clear(), t.stores.clear(), t.products.assign(1, 0), t.awaited_products = 0;
    set_ready(t);
    t.self = boost::context::fiber(std::allocator_arg, boost::context::preallocated(t.stack.sp, t.stack.size, t.stack), stack_keeper{},
                                   [this, &t](boost::context::fiber&& caller) { return run_thread(t, std::move(caller)); });
  }
}

void machine::end_block() {
  for (operation& op : queue_) {
    if (!op.outlives_block) fail(op.where, std::string("the block ends with ") + op.what + " in flight", op.thread);
    op.act();
  }
  queue_.clear();
  for (int id = 1; id < 16; ++id)
    if (barriers_[id].arrived > 0)
      throw failure("the block " + text(blockIdx) + " ends with " + std::to_string(barriers_[id].arrived) + " of " +
                    std::to_string(barriers_[id].expected) + " threads at the named barrier " + std::to_string(id) + " of " +
                    text(barriers_[id].where));
  check_margins(back_margin, -1);
}

// Fibers

boost::context::fiber machine::run_thread(cuda_thread& t, boost::context::fiber&& caller) {
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

void machine::resume(cuda_thread& t) {
  current_ = &t;
  threadIdx = {t.x, t.y, t.z};
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

void machine::suspend() {
  cuda_thread& t = *current_;
  void* mine = nullptr;
#if defined(SIMT_ASAN)
  __sanitizer_start_switch_fiber(&mine, scheduler_bottom_, scheduler_size_);
#endif
  t.caller = std::move(t.caller).resume();
  arrived(mine);
  if (unwinding_) throw unwind{};
}

void machine::arrived([[maybe_unused]] void* mine) {
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(mine, &scheduler_bottom_, &scheduler_size_);
#endif
}

void machine::wait(waiting const& w, place where) {
  cuda_thread& t = *current_;
  t.now = state::waiting, t.waits = &w, t.awaited = w.object, t.where = where;
  clear_ready(t);
  suspend();
}
void machine::yield() { suspend(); }
void machine::maybe_yield() {
  if (random_order() && coin()) suspend();
}
void machine::wake_all(void const* object) {
  for (int i = 0; i < count_; ++i)
    if (cuda_thread& t = thread(i); t.now == state::waiting && t.awaited == object) set_ready(t);
}

// Who runs next

void machine::set_ready(cuda_thread& t) {
  t.now = state::ready;
  ready_[static_cast<std::size_t>(t.number / 64)] |= std::uint64_t{1} << (t.number % 64);
}
int machine::first_from(int i) const {  // -1: none
  for (; i < count_; i = (i / 64 + 1) * 64)
    if (std::uint64_t const word = ready_[static_cast<std::size_t>(i / 64)] >> (i % 64); word != 0) return i + __builtin_ctzll(word);
  return -1;
}
int machine::last_up_to(int i) const {
  for (; i >= 0; i = i / 64 * 64 - 1)
    if (std::uint64_t const word = ready_[static_cast<std::size_t>(i / 64)] << (63 - i % 64); word != 0) return i - __builtin_clzll(word);
  return -1;
}

int machine::pick(int last) {
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
int machine::pick_priority() {
  if (random_() % 256 == 0) priority_[random_() % priority_.size()] = random_();
  int best = -1;
  for (int w = 0; w < static_cast<int>(priority_.size()); ++w) {
    int const t = first_from(32 * w);
    bool const here = t >= 0 && t < 32 * (w + 1);
    if (here && (best < 0 || priority_[static_cast<std::size_t>(w)] > priority_[static_cast<std::size_t>(best / 32)])) best = t;
  }
  return best;
}

/// Lets one queued operation act: any, the newest or the oldest. False if there is none.
bool machine::act_one(bool any) {
  if (queue_.empty()) return false;
  bool const newest = plan.threads == order::reverse || plan.threads == order::greedy_high;
  std::size_t const i = any ? random_() % queue_.size() : newest ? queue_.size() - 1 : 0;
  operation const op = std::move(queue_[i]);
  queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
  op.act();
  return true;
}

// What stands around the shared memory of the block

void machine::prepare_margins() {
  if (shared_ == nullptr) {
    void* const p = mmap(nullptr, front_margin + most_shared + back_margin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw failure("simt: no memory for a block");
    shared_ = static_cast<std::byte*>(p) + front_margin;
  }
#if defined(SIMT_ASAN)
  __asan_unpoison_memory_region(shared_ - front_margin, front_margin + most_shared + back_margin);
#endif
  std::memset(shared_ - front_margin, margin_byte, front_margin);
  std::memset(shared_, poison_byte, shared_bytes_);
  std::memset(shared_ + shared_bytes_, margin_byte, back_margin);
#if defined(SIMT_ASAN)
  __asan_poison_memory_region(shared_ - front_margin, front_margin);
  __asan_poison_memory_region(shared_ + shared_bytes_, most_shared + back_margin - shared_bytes_);
#endif
}

/// Whether `bytes`, a multiple of 8, hold nothing but the margin's value. It runs after every switch: by whole words.
__attribute__((no_sanitize("address"))) static bool intact(std::byte const* p, std::size_t bytes) {
  std::uint64_t pattern = 0, changed = 0;
  std::memset(&pattern, margin_byte, sizeof pattern);
  for (std::size_t i = 0; i < bytes; i += 8) {
    std::uint64_t word;
    __builtin_memcpy(&word, p + i, 8);
    changed |= word ^ pattern;
  }
  return changed == 0;
}

__attribute__((no_sanitize("address"))) void machine::check_margins(std::size_t reach, int thread) const {
  std::size_t const front = std::min(reach, front_margin);
  if (intact(shared_ - front, front) && intact(shared_ + shared_bytes_, reach)) [[likely]]
    return;
  auto const* const p = reinterpret_cast<unsigned char const*>(shared_);
  long outside = 0;  // bytes behind the end (> 0) or before the beginning
  for (std::size_t i = 0; i < reach && outside == 0; ++i)
    if (p[shared_bytes_ + i] != margin_byte) outside = static_cast<long>(i) + 1;
  for (std::size_t i = 1; i <= std::min(reach, front_margin) && outside == 0; ++i)
    if (*(p - i) != margin_byte) outside = -static_cast<long>(i);
  if (outside == 0) return;
  throw failure(
      "a store to shared memory " + std::to_string(std::abs(outside)) + (outside > 0 ? " bytes behind the end of the " : " bytes before the ") +
      std::to_string(shared_bytes_) + " bytes of the launch, in block " + text(blockIdx) +
      (thread < 0 ? std::string()
                  : " by thread " + std::to_string(thread) + " before it came to " + text(threads_[static_cast<std::size_t>(thread)]->where)));
}

std::string machine::deadlock() const {
  auto const same = [](cuda_thread const& a, cuda_thread const& b) {
    return a.now == b.now && (a.now != state::waiting || (*a.waits == *b.waits && a.where == b.where));
  };
  std::string s = "deadlock in block " + text(blockIdx) + ":";
  for (int i = 0, end; i < count_; i = end) {
    cuda_thread const& t = thread(i);
    for (end = i + 1; end < count_ && same(t, thread(end));) ++end;
    s += end - i == 1 ? "\n  thread " + std::to_string(i) : "\n  threads " + std::to_string(i) + "-" + std::to_string(end - 1);
    if (t.now == state::finished) s += ": finished";
    else s += ": " + (t.waits->describe != nullptr ? t.waits->describe(*t.waits) : std::string(t.waits->what)) + " at " + text(t.where);
  }
  return s;
}

void use(schedule const& s) { the_machine().plan = s; }
void run_grid(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& thread) {
  the_machine().run(grid, block, shared_bytes, thread);
}
void fail_at(place where, std::string const& what) { the_machine().fail(where, what); }

}  // namespace simt
