#pragma once
#include <moe/attention/detail/few_queries.hpp>
#include <moe/core/parallel.hpp>

namespace moe::inline MOE_ISA::detail {

/// Scores of `Rows` keys (rows of `keys`) with the queries of a panel from vector `First` on, and the larger of them and `top`:
///   s[u, t] = sum_i q[i, t] keys[u, i],  i ascending
///   q     [Depth, panel]       packed by pack_panel, scaled
///   keys  [Rows, H::padded]
///   s     [Rows, panel]        where Masked: -infinity for t < begin + u, keys that come after the query
///   top   [panel]              in/out
template <class H, int Rows, int First, bool Masked>
MOE_NOINLINE void panel_scores(typename H::A const* q, typename H::A const* keys, typename H::A* s, typename H::A* top,
                               [[maybe_unused]] index_t begin) {
  using A = typename H::A;
  using V = simd<A>;
  constexpr int vectors = 2 - First;
  register_block<Rows, vectors, A> block;
  block.clear();
  block.template steps<H::padded, 1>(H::depth, keys, q + First * H::width, H::panel);
  MOE_UNROLL(2)
  for (int c = 0; c < vectors; ++c) {
    int const lane = (First + c) * H::width;
    V largest = V::load(top + lane);
    MOE_UNROLL(16)
    for (int u = 0; u < Rows; ++u) {
      if constexpr (Masked) block.sum[u][c] = lanes_from(block.sum[u][c], begin + u - lane);
      largest = larger(block.sum[u][c], largest);
    }
    largest.store(top + lane);
  }
  block.store(s + First * H::width, H::panel);
}

/// The memory of one item of attend: keys and values of one head, then a panel of queries with its scores.
template <class H>
struct attention_memory {
  using A = typename H::A;
  A *keys, *values;                                                             ///< [rows, padded]
  A *q, *s;                                                                     ///< [depth, panel], [rows, panel]
  static index_t rows(index_t keys) { return keys + H::panel + H::long_rows; }  ///< the last panel may begin at the last key
  attention_memory(arena& from, index_t n) {
    for (A** x : {&keys, &values}) *x = from.take<A>(elements(rows(n), H::padded));
    q = from.take<A>(H::depth * H::panel);
    s = from.take<A>(elements(rows(n), H::panel));
  }
  static index_t bytes(index_t keys) {
    arena measure;
    attention_memory(measure, keys);
    return static_cast<index_t>(measure.peak());
  }
};

/// A panel of queries, rows 0 .. rows - 1 of it in use: row i sees keys 0 .. first + i.
///   o  [rows, depth]  rows o_stride apart      lse  one per row, lse_stride apart, or null      fetch  called now and then
template <class H, class T, class Fetch>
inline void attend_panel(attention_memory<H> const& m, index_t first, index_t rows, T* o, index_t o_stride, typename H::A* lse, index_t lse_stride,
                         Fetch& fetch) {
  using A = typename H::A;
  using V = simd<A>;
  constexpr int R = H::long_rows, D = H::rows;
  alignas(alignment) A top[H::panel], sums[H::panel];
  for (int c = 0; c < 2; ++c) minus_infinity<A>().store(top + c * H::width);
  index_t u = 0;
  for (; u + R <= first + 1; u += R, fetch.next()) panel_scores<H, R, 0, false>(m.q, m.keys + u * H::padded, m.s + u * H::panel, top, 0);
  for (; u < first + H::width; u += D, fetch.next()) panel_scores<H, D, 0, true>(m.q, m.keys + u * H::padded, m.s + u * H::panel, top, u - first);
  if (rows > H::width)
    for (; u < first + H::panel; u += D) panel_scores<H, D, 1, true>(m.q, m.keys + u * H::padded, m.s + u * H::panel, top, u - first);
  for (int c = 0; c < 2 && c * H::width < rows; ++c)
    softmax_columns(m.s + c * H::width, H::panel, first + (c + 1) * H::width, V::load(top + c * H::width)).store(sums + c * H::width);
  for (int i = 0; lse != nullptr && i < rows; ++i) lse[i * lse_stride] = top[i] + std::log(sums[i]);
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    for (index_t i = 0; i < rows; i += D) {
      register_block<D, vectors, A> block;
      block.clear();
      A const *const s = m.s + i, *const v = m.values + vector * H::width;
      index_t const end = first + i;  // all rows of the block see the keys before
      block.template steps<1, H::panel>(end, s, v, H::padded);
      block.template step<1>(s + end * H::panel, v + end * H::padded);
      block.template upper_steps<1>([&](int k) { return s + (end + k) * H::panel; }, v + end * H::padded, H::padded);
      block.template divide_store<H::depth>(
          sums + i, rows - i, [&](int k) { return o + (i + k) * o_stride; }, vector * H::width);
    }
  });
}

/// One of `parts` parts of the panels of all query heads of a key/value head; which head comes next.
struct attention_part {
  index_t sequence, kv_head, part, parts, next_sequence, next_head;
};
template <class H, index_t Group, class T>
inline void attend_part(attention_operands<T> const& x, attention_extent const& e, attention_part const& p, attention_memory<H> const& m) {
  index_t const panels = H::panels(e.queries), items = panels * Group, column = p.kv_head * H::depth, row = p.sequence * e.keys();
  rows_fetch<H::depth, T, 3> fetch;  // keys and values of the work item that this thread will probably get next, queries of the next panel
  if (p.parts == 1 && p.next_sequence < e.sequences) {
    index_t const next_row = p.next_sequence * e.keys(), next_column = p.next_head * H::depth;
    fetch.part[0] = {x.k.row(next_row) + next_column, x.k.row_stride(), e.keys()};
    fetch.part[1] = {x.v.row(next_row) + next_column, x.v.row_stride(), e.keys()};
  }
  for (index_t item = p.part; item < items; item += p.parts) {
    index_t const begin = (panels - 1 - item / Group) * H::panel, rows = std::min<index_t>(H::panel, e.queries - begin);  // the longest first
    if (item == p.part) {
      index_t const keys = e.position + begin + rows, rest = (m.rows(keys) - keys) * H::padded;
      pack_rows_scaled<H::depth, H::padded>(m.keys, x.k.row(row) + column, x.k.row_stride(), keys, typename H::A(1));
      pack_rows_scaled<H::depth, H::padded>(m.values, x.v.row(row) + column, x.v.row_stride(), keys, typename H::A(1));
      std::fill_n(m.keys + keys * H::padded, rest, typename H::A(0));  // computed with, never used
      std::fill_n(m.values + keys * H::padded, rest, typename H::A(0));
    }
    index_t const head = p.kv_head * Group + item % Group, query = p.sequence * e.queries + begin;
    pack_panel<H::depth>(m.q, x.q.row(query) + head * H::depth, x.q.row_stride(), rows, H::scale());
    if (Group == 1 && begin > 0) fetch.part[2] = {x.q.row(query - H::panel) + head * H::depth, x.q.row_stride(), H::panel};
    attend_panel<H>(m, e.position + begin, rows, x.o.row(query) + head * H::depth, x.o.row_stride(), x.lse_at(query, head), x.lse.row_stride(),
                    fetch);
  }
}

/// The memory of attend, which is also its size: take it from a measuring arena.
template <class H>
struct attention_scratch {
  std::byte* memory = nullptr;
  attention_few_scratch<H> few;
  attention_scratch(arena& from, int threads, int heads, int kv_heads, attention_extent const& e) {
    if (is_few<H>(e)) few = attention_few_scratch<H>(from, threads, heads, kv_heads, e);
    else memory = from.take<std::byte>(elements(threads, attention_memory<H>::bytes(e.keys())));
  }
};

/// o = softmax(q k^T) v for all heads. A work item copies the keys and values of one head, then takes its query rows a panel at a time: all of them,
/// or, where there are few heads, some.
template <class H, int Heads, int KvHeads, class T>
void attend(cpu const& space, attention_operands<T> const& x, attention_extent const& e, arena& scratch) {
  constexpr index_t group = Heads / KvHeads;
  arena::scope const scope(scratch);
  attention_scratch<H> const mem(scratch, thread_count(space), Heads, KvHeads, e);
  if (is_few<H>(e)) return attend_few<H, Heads, KvHeads>(space, x, e, mem.few);
  index_t const heads = e.sequences * KvHeads, bytes = attention_memory<H>::bytes(e.keys());
  index_t const parts = std::clamp<index_t>((4 * thread_count(space) + heads - 1) / heads, 1, H::panels(e.queries) * group);
  double const work = 4.0 * H::depth * static_cast<double>(group) * static_cast<double>(e.queries) * static_cast<double>(e.position + e.keys()) / 2;
  parallel_for(space, heads * parts, work / static_cast<double>(parts), [&](index_t item) {
    arena own(mem.memory + thread_index() * bytes, static_cast<std::size_t>(bytes));
    attention_memory<H> const m(own, e.keys());
    index_t const head = item / parts, next = head + thread_count(space);
    attend_part<H, group>(x, e, {head / KvHeads, head % KvHeads, item % parts, parts, next / KvHeads, next % KvHeads}, m);
  });
}

}  // namespace moe::inline MOE_ISA::detail
