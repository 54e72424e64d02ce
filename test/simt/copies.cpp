// cp.async, and the boxes of a tensor that TMA moves.
#include "test/simt/machine.hpp"
#include "test/simt/tensor_map.hpp"

namespace simt {

namespace {

void land(pending_copy& c) {
  if (c.landed) return;
  c.landed = true;
  std::memset(c.to, 0, 16);
  if (c.bytes > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.bytes));
}

/// Moves the box between its place in the tensor and memory that stands for shared memory from `address` on. What lies outside the tensor is loaded
/// as zeros and not stored.
void move_box(tensor_map const& map, std::byte* memory, std::uint32_t address, box_corner const& corner, bool load) {
  std::size_t const row_bytes = map.box[0] * map.element_bytes;
  std::int64_t rows = 1;
  for (int d = 1; d < map.rank; ++d) rows *= map.box[d];
  for (std::int64_t r = 0; r < rows; ++r) {
    std::byte* row = map.base;
    bool inside = true;
    std::int64_t rest = r;
    for (int d = 1; d < map.rank; rest /= map.box[d++]) {
      std::int64_t const i = corner.at[d] + rest % map.box[d];
      inside = inside && i >= 0 && i < map.size[d];
      row += i * map.stride[d];
    }
    for (std::size_t byte = 0; byte < row_bytes; byte += 16) {
      auto const linear = address + static_cast<std::uint32_t>(static_cast<std::size_t>(r) * row_bytes + byte);
      std::byte* const chunk = memory + (map.swizzled(linear) - address);
      if (load) std::memset(chunk, 0, 16);
      for (std::size_t e = 0; inside && e < 16; e += map.element_bytes) {
        std::int64_t const x = corner.at[0] + static_cast<std::int64_t>((byte + e) / map.element_bytes);
        if (x < 0 || x >= map.size[0]) continue;
        std::byte* const element = row + x * static_cast<std::int64_t>(map.element_bytes);
        std::memcpy(load ? chunk + e : element, load ? element : chunk + e, map.element_bytes);
      }
    }
  }
}
/// The chunks of a swizzled box change places within whole lines.
std::size_t touched_bytes(tensor_map const& map) { return map.swizzle_bits > 0 ? (map.box_bytes() + 127) / 128 * 128 : map.box_bytes(); }

tensor_map decode(CUtensorMap const& map, box_corner const& corner, place where) {
  tensor_map const m = tensor_map::of(map);
  if (!m.valid()) fail_at(where, "TMA with a tensor map that cuTensorMapEncodeTiled did not make");
  if (m.rank != corner.rank)
    fail_at(where, "TMA with " + std::to_string(corner.rank) + " coordinates of a tensor map of rank " + std::to_string(m.rank));
  return m;
}

}  // namespace

void copy_async(void* to, void const* from, int bytes, place where) {
  machine& m = the_machine();
  m.check_shared(to, 16, 16, "cp.async", where);
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) m.fail(where, "cp.async from an address that is no multiple of 16");
  if (bytes < 0 || bytes > 16) m.fail(where, "cp.async of " + std::to_string(bytes) + " bytes");
  auto& groups = m.current().copies;
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back({to, from, bytes, false, where});
  if (m.acts_at_once()) land(groups.back().back());
  else std::memset(to, poison_byte, 16);
}
void copy_commit() {
  auto& groups = the_machine().current().copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}
void copy_wait(int pending) {
  auto& groups = the_machine().current().copies;
  while (static_cast<int>(groups.size()) - 1 > pending) {
    for (pending_copy& c : groups.front()) land(c);
    groups.erase(groups.begin());
  }
}
void copy_arrive(std::uint64_t* barrier, place where) {
  machine& m = the_machine();
  auto act = [barrier, where, copies = std::exchange(m.current().copies, {})]() mutable {
    for (auto& group : copies)
      for (pending_copy& c : group) land(c);
    mbarrier_arrive(barrier, 0, where);
  };
  if (m.acts_at_once()) act();
  else m.enqueue({"a cp.async", false, where, m.current().number, std::move(act)});
}

void tensor_load(void* to, CUtensorMap const& map, std::uint64_t* barrier, box_corner corner, place where) {
  machine& m = the_machine();
  tensor_map const source = decode(map, corner, where);  // a copy: the parameter lives on the stack of the thread
  m.check_shared(to, touched_bytes(source), 128, "TMA load", where);
  check_mbarrier(barrier, where);
  auto* const memory = static_cast<std::byte*>(to);
  auto act = [=] {
    move_box(source, memory, shared_address(memory, where), corner, true);
    mbarrier_complete(barrier, source.box_bytes(), where);
  };
  if (m.acts_at_once()) return act();
  std::memset(to, poison_byte, source.box_bytes());
  m.enqueue({"a TMA load", false, where, m.current().number, act});
}

/// In two steps, the second perhaps much later: what stands in shared memory is read, then the tensor is written.
void tensor_store(CUtensorMap const& map, void const* from, box_corner corner, place where) {
  machine& m = the_machine();
  tensor_map const target = decode(map, corner, where);
  m.check_shared(from, touched_bytes(target), 128, "TMA store", where);
  auto const pending = std::make_shared<pending_store>(pending_store{false, false, false, where});
  auto& groups = m.current().stores;
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back(pending);
  int const thread = m.current().number;
  std::uint32_t const address = shared_address(from, where);
  auto const read = [=, &m] {
    auto const* const memory = static_cast<std::byte const*>(from);
    auto write = [=, &m, box = std::vector<std::byte>(memory, memory + touched_bytes(target))]() mutable {
      move_box(target, box.data(), address, corner, false);
      pending->written = true;
      m.wake_all(&m.thread(thread).stores);
    };
    pending->read = true;
    m.wake_all(&m.thread(thread).stores);
    if (m.acts_at_once()) write();
    else m.enqueue({"a TMA store", true, where, thread, std::move(write)});
  };
  if (m.acts_at_once()) read();
  else m.enqueue({"a TMA store", false, where, thread, read});
}
void store_commit() {
  auto& groups = the_machine().current().stores;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}
void store_wait(int pending, bool only_read, place where) {
  machine& m = the_machine();
  auto& groups = m.current().stores;
  auto const done = [&] {
    for (std::size_t g = 0; g + 1 + static_cast<std::size_t>(pending) < groups.size(); ++g)
      for (auto const& s : groups[g])
        if (only_read ? !s->read : !s->written) return false;
    return true;
  };
  auto const describe = [](waiting const& w) { return "bulk stores, all but the last " + std::to_string(w.number) + " groups"; };
  while (!done()) m.wait({only_read ? "bulk stores (read)" : "bulk stores", static_cast<std::uint32_t>(pending), &groups, describe}, where);
  for (std::size_t g = 0; g + 1 + static_cast<std::size_t>(pending) < groups.size(); ++g)
    for (auto const& s : groups[g]) s->awaited = true;
}

void check_copies_at_exit(cuda_thread const& t) {
  for (auto const& group : t.copies)
    for (pending_copy const& c : group) fail_at(c.where, "the kernel ends with a cp.async in flight");
  for (auto const& group : t.stores)
    for (auto const& s : group)
      if (!s->awaited) fail_at(s->where, "the kernel ends with a TMA store that nobody awaited");
}

}  // namespace simt
