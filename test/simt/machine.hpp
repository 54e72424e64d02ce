#pragma once
// Inside the stand-in: the threads of a block as fibers, who runs next, what each waits for, and the engines that act behind their backs.
#include <boost/context/fiber.hpp>
#include <exception>
#include <memory>
#include <random>
#include <vector>

#include "test/simt/engines.hpp"
#include "test/simt/simt.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

namespace simt {

inline constexpr unsigned char poison_byte = 0xff;  // NaN in every floating-point type, -1 in integers

/// What a thread waits for. Threads with equal waits share a line of the deadlock report.
struct waiting {
  char const* what = nullptr;
  std::uint32_t number = 0;  // the mask of a warp operation, the parity of an mbarrier, a number of groups
  void const* object = nullptr;
  std::string (*describe)(waiting const&) = nullptr;
  bool operator==(waiting const& w) const { return what == w.what && number == w.number && object == w.object; }
};

struct pending_copy {  // a cp.async
  void* to;
  void const* from;
  int bytes;
  bool landed;
  place where;
};
struct pending_store {  // a bulk store from shared memory
  bool read = false, written = false, awaited = false;
  place where{};
};

enum class state { ready, waiting, finished };

struct alignas(64) cuda_thread {
  // What every switch touches
  boost::context::fiber self, caller;
  unsigned x = 0, y = 0, z = 0;
  int number = 0;
  state now = state::ready;
  void const* awaited = nullptr;              // the object of *waits
  waiting const* waits = nullptr;             // on the stack of the thread, while it waits
  place where{"the start of the kernel", 0};  // of the last blocking call
  // and the rest
  boost::context::stack_context stack;
  std::vector<std::vector<pending_copy>> copies;                    // groups; the last one is open
  std::vector<std::vector<std::shared_ptr<pending_store>>> stores;  // likewise
  std::vector<std::uint64_t> products{0};                           // wgmma: how many were issued when each group was closed; the last one is open
  std::uint64_t awaited_products = 0;                               // how many of them wgmma_wait has seen
  bool was_refused = false;                                         // the last mbarrier_try_wait came back with false
};

struct warp_slot {  // a warp operation that some lanes have reached
  char const* name;
  std::uint32_t mask, arrived;
  place where;
  void* lanes[32];
};

struct block_barrier_state {
  int arrived = 0, expected = 0;
  place where{};
};

/// An operation of an asynchronous engine. One that is still queued when the block ends is a fault, unless it may outlive the block.
struct operation {
  char const* what;
  bool outlives_block;
  place where;
  int thread;
  std::function<void()> act;
};

class machine {
 public:
  schedule plan = schedules[0];

  void run(size3 grid, size3 block, std::size_t shared_bytes, std::function<void()> const& body);
  [[noreturn]] void fail(place where, std::string const& what, int thread = -1) const;

  // For the pieces
  cuda_thread& current() { return *current_; }
  cuda_thread& thread(int i) { return *threads_[static_cast<std::size_t>(i)]; }
  cuda_thread const& thread(int i) const { return *threads_[static_cast<std::size_t>(i)]; }
  int count() const { return count_; }
  std::byte* shared() const { return shared_; }
  std::size_t shared_bytes() const { return shared_bytes_; }
  void wait(waiting const& w, place where);
  void wake_all(void const* object);
  void yield();
  void maybe_yield();
  bool coin() { return (random_() >> 20 & 1) != 0; }
  bool random_order() const { return plan.threads == order::random || plan.threads == order::priorities; }
  /// Whether an operation that is issued now acts at once.
  bool acts_at_once() { return plan.copies == landing::eager || (plan.copies == landing::random && coin()); }
  void enqueue(operation op) { queue_.push_back(std::move(op)); }

  // Barriers and warp operations
  void barrier(place where);
  void named_barrier(int id, int threads, bool waits, place where);
  void collective(warp_operation const& mine, place where);
  void check_shared(void const* address, std::size_t bytes, std::size_t alignment, char const* what, place where) const;

 private:
  // machine.cpp
  void run_block(int count);
  void start_block(int count);
  void end_block();
  boost::context::fiber run_thread(cuda_thread& t, boost::context::fiber&& caller);
  void resume(cuda_thread& t);
  void suspend();
  void arrived(void* mine);
  int pick(int last);
  int pick_priority();
  bool act_one(bool any);
  void set_ready(cuda_thread& t);
  void clear_ready(cuda_thread const& t) { ready_[static_cast<std::size_t>(t.number / 64)] &= ~(std::uint64_t{1} << (t.number % 64)); }
  int first_from(int i) const;
  int last_up_to(int i) const;
  void prepare_margins();
  void check_margins(std::size_t reach, int thread) const;
  std::string deadlock() const;
  // barriers.cpp
  void leave(cuda_thread& t);
  void check_mask(warp_operation const& mine, int lane, int first, place where) const;

  bool running_ = false, unwinding_ = false;
  std::function<void()> const* body_ = nullptr;
  std::size_t shared_bytes_ = 0;
  std::byte* shared_ = nullptr;
  std::vector<std::unique_ptr<cuda_thread>> threads_;
  std::vector<std::vector<warp_slot>> warps_;
  std::vector<std::uint64_t> ready_, priority_;
  std::vector<operation> queue_;
  std::mt19937_64 random_;
  cuda_thread* current_ = nullptr;
  std::exception_ptr failed_;
  int count_ = 0, alive_ = 0;
  block_barrier_state barriers_[16];        // 0: __syncthreads
  void const* scheduler_bottom_ = nullptr;  // of the stack that the scheduler runs on, for the address sanitizer
  std::size_t scheduler_size_ = 0;
};

machine& the_machine();

// What the pieces forget when a block starts, and check when a thread or a block ends.
void reset_mbarriers();
void check_mbarrier(std::uint64_t const* barrier, place where);  ///< throws unless initialised
void mbarrier_complete(std::uint64_t* barrier, std::size_t bytes, place where);
void reset_products(int threads);
void check_copies_at_exit(cuda_thread const& t);
void check_products_at_exit(cuda_thread const& t);

std::string text(place p);  ///< the path from the repository on, and the line
std::string hex(std::uint32_t x);

}  // namespace simt
