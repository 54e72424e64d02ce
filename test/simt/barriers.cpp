// Barriers of a block, operations of a warp, and what a thread must not leave behind.
#include <algorithm>

#include "test/simt/machine.hpp"

namespace simt {
namespace {

std::string with_mask(waiting const& w) { return std::string(w.what) + " with mask " + hex(w.number); }

}  // namespace

void machine::barrier(place where) {
  block_barrier_state& b = barriers_[0];
  if (b.arrived > 0 && !(b.where == where)) fail(where, "__syncthreads that other threads of the block await at " + text(b.where));
  b.where = where;
  if (++b.arrived < alive_) return wait({"__syncthreads", 0, &b, nullptr}, where);
  current_->where = where;
  b.arrived = 0;
  wake_all(&b);
  maybe_yield();
}

void machine::named_barrier(int id, int threads, bool waits, place where) {
  block_barrier_state& b = barriers_[id];
  std::string const name = "the named barrier " + std::to_string(id);
  if (threads <= 0 || threads % 32 != 0 || threads > 1024) fail(where, name + " for " + std::to_string(threads) + " threads: whole warps only");
  if (b.arrived > 0 && b.expected != threads)
    fail(where,
         name + " for " + std::to_string(threads) + " threads, which others reached for " + std::to_string(b.expected) + " at " + text(b.where));
  b.expected = threads, b.where = where;
  if (++b.arrived < threads) {
    auto const describe = [](waiting const& w) {
      auto const& s = *static_cast<block_barrier_state const*>(w.object);
      return "named barrier " + std::to_string(w.number) + " (" + std::to_string(s.arrived) + " of " + std::to_string(s.expected) + " threads)";
    };
    if (waits) wait({"named barrier", static_cast<std::uint32_t>(id), &b, describe}, where);
    return;
  }
  current_->where = where;
  b.arrived = 0;
  wake_all(&b);
  maybe_yield();
}

void machine::collective(warp_operation const& mine, place where) {
  int const lane = current_->number % 32, first = current_->number - lane;
  check_mask(mine, lane, first, where);
  auto& slots = warps_[static_cast<std::size_t>(first / 32)];
  // Operations of other masks may overlap: who is awaited by one may come to another first. Two that await the same lanes can never both end.
  auto slot = std::find_if(slots.begin(), slots.end(), [&](warp_slot const& s) { return s.mask == mine.mask; });
  if (slot == slots.end()) slot = slots.insert(slot, warp_slot{mine.name, mine.mask, 0, where, {}});
  if (slot->name != mine.name && std::strcmp(slot->name, mine.name) != 0)
    fail(where, std::string(mine.name) + " with mask " + hex(mine.mask) + " while other lanes await " + slot->name + " with mask " + hex(slot->mask) +
                    " at " + text(slot->where));
  slot->arrived |= 1u << lane;
  slot->lanes[lane] = mine.mine;
  if (slot->arrived != slot->mask) return wait({mine.name, mine.mask, nullptr, with_mask}, where);
  warp_slot const done = *slot;
  slots.erase(slot);
  current_->where = where;
  if (mine.finish != nullptr) mine.finish(done.lanes, done.mask);
  for (std::uint32_t rest = done.mask; rest != 0; rest &= rest - 1) set_ready(thread(first + __builtin_ctz(rest)));
  maybe_yield();
}

void machine::check_mask(warp_operation const& mine, int lane, int first, place where) const {
  if ((mine.mask >> lane & 1) == 0)
    fail(where, std::string(mine.name) + " from lane " + std::to_string(lane) + ", which is not in its mask " + hex(mine.mask));
  for (int l = 0; l < 32; ++l) {
    if ((mine.mask >> l & 1) == 0) continue;
    if (first + l >= count_) fail(where, std::string(mine.name) + " names lane " + std::to_string(l) + ", which the block does not have");
    if (thread(first + l).now == state::finished)
      fail(where, std::string(mine.name) + " names lane " + std::to_string(l) + ", which has left the kernel");
  }
  if (mine.source != -1 && (mine.source < 0 || mine.source > 31 || (mine.mask >> mine.source & 1) == 0))
    fail(where, std::string(mine.name) + " reads lane " + std::to_string(mine.source) + ", which is not in its mask " + hex(mine.mask));
}

void machine::leave(cuda_thread& t) {
  check_copies_at_exit(t);
  check_products_at_exit(t);
  for (warp_slot const& s : warps_[static_cast<std::size_t>(t.number / 32)])
    if ((s.mask >> (t.number % 32) & 1) != 0)
      fail(s.where, std::string(s.name) + " awaits lane " + std::to_string(t.number % 32) + ", which has left the kernel");
  --alive_;
  if (alive_ > 0 && barriers_[0].arrived == alive_) {
    barriers_[0].arrived = 0;
    wake_all(&barriers_[0]);
  }
}

void machine::check_shared(void const* address, std::size_t bytes, std::size_t alignment, char const* what, place where) const {
  auto const* const p = static_cast<std::byte const*>(address);
  if (p < shared_ || p + bytes > shared_ + shared_bytes_) fail(where, std::string(what) + " of an address outside the block's shared memory");
  if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0)
    fail(where, std::string(what) + " of an address of shared memory that is no multiple of " + std::to_string(alignment));
}

void block_barrier(place where) { the_machine().barrier(where); }
void named_barrier(int id, int threads, bool waits, place where) { the_machine().named_barrier(id, threads, waits, where); }
void warp_collective(warp_operation const& mine, place where) { the_machine().collective(mine, where); }
void check_shared(void const* p, std::size_t bytes, std::size_t alignment, char const* what, place where) {
  the_machine().check_shared(p, bytes, alignment, what, where);
}
std::byte* shared_area(std::size_t bytes, std::size_t alignment, place where) {
  machine const& m = the_machine();
  if (bytes > m.shared_bytes())
    m.fail(where,
           "a layout of " + std::to_string(bytes) + " bytes where the launch gave " + std::to_string(m.shared_bytes()) + " bytes of shared memory");
  if (alignment > 1024) m.fail(where, "shared memory aligned to more than 1024 bytes");
  return m.shared();
}

}  // namespace simt
