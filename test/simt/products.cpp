// wgmma: each thread of a warpgroup records its part; when all 128 have, the product is complete and may act, in order within the warpgroup.
#include <algorithm>
#include <deque>

#include "test/simt/machine.hpp"
#include "test/simt/matrix.hpp"

namespace simt {
namespace {

constexpr int group_threads = 128;

struct group_product {
  product what;
  place where;
  int arrived = 0;
  float* d[group_threads] = {};
};
/// The accumulators of one thread while products on them are in flight: their registers hold NaN, the values are here.
struct shadow {
  float* d;
  int pending;
  std::vector<float> value;
};
struct warpgroup {
  std::deque<group_product> queue;  // recorded by at least one thread and not done
  std::uint64_t done = 0;           // so many were done before the first in the queue
  std::vector<shadow> shadows[group_threads];
};
std::vector<warpgroup> groups;

/// Fields in units of 16 bytes; a tile of rows of 128 bytes whose chunks are permuted.
struct descriptor {
  std::uint32_t start, leading, stride, base_offset, swizzle;
  explicit descriptor(std::uint64_t bits)
      : start(static_cast<std::uint32_t>(bits & 0x3fff) << 4), leading(static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4), base_offset(static_cast<std::uint32_t>(bits >> 49 & 7)),
        swizzle(static_cast<std::uint32_t>(bits >> 62)) {}
  /// The address of element (row, k), the operand's rows being contiguous in k, or running down k.
  std::uint32_t address(std::uint32_t row, std::uint32_t k, bool down) const {
    std::uint32_t const a =
        down ? start + row % 64 * 2 + row / 64 * leading + k % 8 * 128 + k / 8 * stride : start + row % 8 * 128 + row / 8 * stride + 2 * k;
    return a ^ (a >> 7 & 7) << 4;
  }
};

/// Fills to[k * rows + row].
void read_operand(std::uint64_t bits, int rows, bool down, float* to, place where) {
  machine const& m = the_machine();
  descriptor const d(bits);
  if (d.swizzle != 1 || d.base_offset != 0)
    m.fail(where, "wgmma with a descriptor of swizzle mode " + std::to_string(d.swizzle) + " and base offset " + std::to_string(d.base_offset) +
                      ", where the stand-in knows mode 1 (128 bytes) and offset 0");
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k) {
      std::int64_t const offset = std::int64_t{d.address(static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(k), down)} - shared_base;
      if (offset < 0 || offset + 2 > static_cast<std::int64_t>(m.shared_bytes()))
        m.fail(where, "wgmma reads shared+" + std::to_string(offset) + " of " + std::to_string(m.shared_bytes()) + " bytes");
      std::uint16_t element = 0;
      std::memcpy(&element, m.shared() + offset, 2);
      to[k * rows + row] = __builtin_bit_cast(float, std::uint32_t{element} << 16);
    }
}

shadow& shadow_of(warpgroup& g, int thread, float* d) {
  for (shadow& s : g.shadows[thread])
    if (s.d == d) return s;
  return g.shadows[thread].emplace_back(shadow{d, 0, {}});
}

/// Calls f(thread, element, row, column) for the accumulators of the warpgroup.
template <class F>
void for_each_accumulator(int columns, F&& f) {
  for (int t = 0; t < group_threads; ++t)
    for (int i = 0; i < columns / 2; ++i) f(t, i, t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2), i / 4 * 8 + t % 4 * 2 + i % 2);
}

void act_on_oldest(warpgroup& g) {
  group_product const p = std::move(g.queue.front());
  g.queue.pop_front();
  ++g.done;
  auto const n = static_cast<std::size_t>(p.what.columns);
  std::vector<float> a(64 * 16), b(n * 16), d(64 * n, 0.0f);
  read_operand(p.what.a, 64, p.what.a_down, a.data(), p.where);
  read_operand(p.what.b, p.what.columns, p.what.b_down, b.data(), p.where);
  auto const at = [&](int row, int column) { return static_cast<std::size_t>(row) * n + static_cast<std::size_t>(column); };
  std::vector<shadow*> parts;
  for (int t = 0; t < group_threads; ++t) parts.push_back(&shadow_of(g, t, p.d[t]));
  auto const value = [&](int t, int i) -> float& { return parts[static_cast<std::size_t>(t)]->value[static_cast<std::size_t>(i)]; };
  if (p.what.accumulate) for_each_accumulator(p.what.columns, [&](int t, int i, int row, int column) { d[at(row, column)] = value(t, i); });
  for (std::size_t row = 0; row < 64; ++row)
    for (std::size_t k = 0; k < 16; ++k)
      for (std::size_t column = 0; column < n; ++column) multiply_add(d[row * n + column], a[k * 64 + row], b[k * n + column]);
  for_each_accumulator(p.what.columns, [&](int t, int i, int row, int column) { value(t, i) = d[at(row, column)]; });
  for (int t = 0; t < group_threads; ++t) {
    shadow& s = *parts[static_cast<std::size_t>(t)];
    if (--s.pending > 0) continue;
    auto const* const bytes = reinterpret_cast<unsigned char const*>(s.d);
    if (std::any_of(bytes, bytes + s.value.size() * sizeof(float), [](unsigned char byte) { return byte != poison_byte; }))
      the_machine().fail(p.where, "an accumulator was written while its wgmma was in flight", t + 128 * static_cast<int>(&g - groups.data()));
    std::memcpy(s.d, s.value.data(), s.value.size() * sizeof(float));
    s = g.shadows[t].back();
    g.shadows[t].pop_back();
  }
  the_machine().wake_all(&g);
}

bool complete(warpgroup const& g) { return !g.queue.empty() && g.queue.front().arrived == group_threads; }

}  // namespace

std::uint32_t descriptor_address(std::uint64_t bits, std::uint32_t row, std::uint32_t k, bool down) { return descriptor(bits).address(row, k, down); }

void reset_products(int threads) {
  groups.clear();
  groups.resize(static_cast<std::size_t>((threads + group_threads - 1) / group_threads));
}

void product_async(product const& p, float* d, place where) {
  machine& m = the_machine();
  cuda_thread& t = m.current();
  int const number = t.number % group_threads, first = t.number - number;
  if (first + group_threads > m.count()) m.fail(where, "wgmma from a warpgroup of fewer than 128 threads");
  warpgroup& g = groups[static_cast<std::size_t>(first / group_threads)];
  std::size_t const index = static_cast<std::size_t>(t.products.back()++ - g.done);
  if (index == g.queue.size()) g.queue.push_back({p, where});
  group_product& mine = g.queue[index];
  product const& q = mine.what;
  if (q.columns != p.columns || q.a != p.a || q.b != p.b || q.accumulate != p.accumulate || q.a_down != p.a_down || q.b_down != p.b_down)
    m.fail(where, "wgmma with operands other than those of the warpgroup's other threads at " + text(mine.where));
  mine.d[number] = d;
  shadow& s = shadow_of(g, number, d);
  auto const n = static_cast<std::size_t>(p.columns / 2);
  if (s.pending++ == 0) {
    s.value.assign(d, d + n);
    std::memset(d, poison_byte, n * sizeof(float));
  }
  if (++mine.arrived < group_threads) return;
  if (m.acts_at_once()) {
    for (std::uint64_t const end = t.products.back(); g.done < end;) act_on_oldest(g);
  } else {  // it may outlive the block: what nobody awaited is found when its threads leave, and what a later one has taken along is over
    m.enqueue({"a wgmma", true, where, t.number, [&g, end = t.products.back()] {
                 while (g.done < end && complete(g)) act_on_oldest(g);
               }});
  }
}
void product_commit() {
  auto& ends = the_machine().current().products;
  ends.push_back(ends.back());
}
void product_wait(int pending, place where) {
  machine& m = the_machine();
  cuda_thread& t = m.current();
  std::ptrdiff_t const last = static_cast<std::ptrdiff_t>(t.products.size()) - 2 - pending;
  if (last < 0) return;
  std::uint64_t const end = t.products[static_cast<std::size_t>(last)];
  warpgroup& g = groups[static_cast<std::size_t>(t.number / group_threads)];
  auto const describe = [](waiting const& w) {
    auto const& q = static_cast<warpgroup const*>(w.object)->queue;
    return "wgmma.wait_group " + std::to_string(w.number) + " (" + std::to_string(q.empty() ? group_threads : q.front().arrived) +
           " of 128 threads have issued the product)";
  };
  while (g.done < end) m.wait({"wgmma.wait_group", static_cast<std::uint32_t>(pending), &g, describe}, where);
  t.awaited_products = std::max(t.awaited_products, end);
  t.products.erase(t.products.begin(), t.products.begin() + last);  // what is over need not be counted again
}
void check_products_at_exit(cuda_thread const& t) {
  if (t.awaited_products < t.products.back()) fail_at(t.where, "the kernel ends with a wgmma in flight that nobody awaited; the last wait was");
}

std::uint32_t shared_address(void const* p, place where) {
  machine const& m = the_machine();
  std::ptrdiff_t const offset = static_cast<std::byte const*>(p) - m.shared();
  if (offset < 0 || offset > static_cast<std::ptrdiff_t>(m.shared_bytes()))
    m.fail(where, "shared_address of something outside the block's shared memory");
  return shared_base + static_cast<std::uint32_t>(offset);
}

}  // namespace simt
