#pragma once
#include <cmath>
#include <limits>

#include <moe/attention/detail/pack.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>

namespace moe::inline MOE_ISA::detail {

/// Constants of one head of `Depth` elements stored as T.
template <int Depth, class T>
struct attention_head {
  using A = accumulator<T>;
  using tile = attention_tile<A>;
  static constexpr int depth = Depth, width = tile::width, panel = tile::panel, rows = tile::rows;
  static constexpr int vectors = (Depth + width - 1) / width, padded = vectors * width;  ///< of a row in accumulators, zero beyond Depth
  static A scale() { return A(1) / std::sqrt(A(Depth)); }
  static constexpr index_t panels(index_t keys) { return keys / panel + (keys % panel != 0); }
};

template <class A>
struct softmax_result {
  A top, sum;
};

/// x in the first n lanes, -infinity in the others.
template <class A>
MOE_INLINE simd<A> first_lanes(simd<A> x, index_t n) {
  alignas(alignment) static constexpr A index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  auto const inside = simd<A>::load(index).v < simd<A>::all(static_cast<A>(n)).v;
  return {inside ? x.v : simd<A>::all(-std::numeric_limits<A>::infinity()).v};
}

/// s = exp(s - max s) in place over the first `keys` elements of a row of scores [panels][Rows][panel]; zero in the rest of their last vector.
/// Maximum and sum run over the vectors from key 0, so lanes hold the same keys whoever asks.
template <int Rows, class A>
inline softmax_result<A> softmax_row(A* s, index_t keys) {
  using V = simd<A>;
  auto const at = [&](index_t vector) { return s + (vector >> 1) * (Rows * attention_tile<A>::panel) + (vector & 1) * V::width; };
  index_t const last = (keys - 1) / V::width;
  V top = first_lanes(V::load(at(last)), keys - last * V::width);
  top.store(at(last));
  for (index_t i = 0; i < last; ++i) top = max(top, V::load(at(i)));
  A const m = max(top);
  V sums = V::zero();
  for (index_t i = 0; i <= last; ++i) {
    V const e = exp(V::load(at(i)) - V::all(m));
    e.store(at(i));
    sums = sums + e;
  }
  return {m, sum(sums)};
}

/// Keys and values of one head of one sequence.
template <class A>
struct attention_memory {
  A const* key_panels;  ///< [panels][depth][panel]
  A const* values;      ///< rows `value_stride` apart, whole vectors readable
  index_t value_stride;
};

/// `Rows` query rows of one head; row i sees keys 0 .. first + i.
///   q  [Rows, H::padded]  scaled      s  [panels][Rows][panel]  scratch
///   o  [Rows, depth]  rows o_stride apart      lse  one per row, lse_stride apart, or null
template <class H, int Rows, class T>
inline void attend_block(typename H::A const* q, attention_memory<typename H::A> const& m, index_t first, typename H::A* s, T* o, index_t o_stride,
                         typename H::A* lse, index_t lse_stride) {
  using A = typename H::A;
  constexpr index_t panel = H::panel;
  for (index_t key = 0; key < first + Rows; key += panel) {
    A const* const k = m.key_panels + key * H::depth;
    if (first + Rows - key > H::width) attention_scores<Rows, 2, H::depth, H::padded>(q, k, s + key * Rows);
    else attention_scores<Rows, 1, H::depth, H::padded>(q, k, s + key * Rows);
  }
  A sums[Rows];
  for (int i = 0; i < Rows; ++i) {
    auto const r = softmax_row<Rows>(s + i * panel, first + 1 + i);
    sums[i] = r.sum;
    if (lse != nullptr) lse[i * lse_stride] = r.top + std::log(r.sum);
  }
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    register_block<Rows, vectors, A> block;
    block.clear();
    A const* const v = m.values + vector * H::width;
    for (index_t key = 0; key <= first; key += panel)  // keys that all rows see
      block.template steps<panel, 1>(std::min(panel, first + 1 - key), s + key * Rows, v + key * m.value_stride, m.value_stride);
    auto const weights = [&](int k) { return s + (first + k) / panel * (Rows * panel) + (first + k) % panel; };
    block.template upper_steps<panel>(weights, v + first * m.value_stride, m.value_stride);  // key first + k: rows from k on
    block.template divide_store<H::depth>(sums, o, o_stride, vector * H::width);
  });
}

/// Any number of rows: blocks of H::rows, then halves of it.
template <class H, int Rows = H::rows, class T>
inline void attend_rows(T const* q, index_t q_stride, index_t rows, attention_memory<typename H::A> const& m, index_t first, typename H::A* s, T* o,
                        index_t o_stride, typename H::A* lse, index_t lse_stride) {
  index_t i = 0;
  for (; i + Rows <= rows; i += Rows) {
    alignas(alignment) typename H::A packed[Rows * H::padded];
    pack_rows_scaled<H::depth, H::padded>(packed, q + i * q_stride, q_stride, Rows, H::scale());
    attend_block<H, Rows>(packed, m, first + i, s, o + i * o_stride, o_stride, lse == nullptr ? nullptr : lse + i * lse_stride, lse_stride);
  }
  if constexpr (Rows > 1)
    if (i < rows)
      attend_rows<H, Rows / 2>(q + i * q_stride, q_stride, rows - i, m, first + i, s, o + i * o_stride, o_stride,
                               lse == nullptr ? nullptr : lse + i * lse_stride, lse_stride);
}

/// Shapes of a call: `sequences` times `queries` rows, the first of which sees keys 0 .. position.
struct attention_extent {
  index_t sequences, queries, position;
  MOE_HD index_t keys() const { return position + queries; }
};

/// The memory of attend, which is also its size: take it from a measuring arena.
template <class H>
struct attention_scratch {
  using A = typename H::A;
  A *key_panels, *values, *scores;
  attention_scratch(arena& from, int threads, int kv_heads, attention_extent const& e)
      : key_panels(from.take<A>(elements(e.sequences, kv_heads, H::panels(e.keys()), H::panel, H::depth))),
        values(from.take<A>(elements(e.sequences, kv_heads, H::panels(e.keys()), H::panel, H::padded))),
        scores(from.take<A>(elements(threads, H::panels(e.keys()), H::panel, H::rows))) {}
};

inline constexpr index_t attention_tile_rows = 32;  ///< query rows per work item

/// o = softmax(q k^T) v for all heads. Keys and values are copied once into the order the registers want (values of few queries are read where they
/// are); then tiles of query rows are dealt to the threads.
template <class H, int Heads, int KvHeads, class T>
void attend(cpu const& space, tensor<T const, dyn, dyn> q, tensor<T const, dyn, dyn> k, tensor<T const, dyn, dyn> v, attention_extent const& e,
            tensor<T, dyn, dyn> o, tensor<typename H::A, dyn, dyn> lse, arena& scratch) {
  using A = typename H::A;
  constexpr index_t group = Heads / KvHeads;
  arena::scope const scope(scratch);
  attention_scratch<H> const mem(scratch, thread_count(space), KvHeads, e);
  index_t const panels = H::panels(e.keys()), head_size = panels * H::panel;
  bool const copy_values = !std::is_same_v<A, T> || H::depth != H::padded || e.queries * group >= 8;

  parallel_for(space, e.sequences * KvHeads * panels, 2.0 * H::panel * H::depth, [&](index_t item) {
    index_t const key = item % panels * H::panel, head = item / panels % KvHeads, row = item / panels / KvHeads * e.keys() + key;
    index_t const count = std::min<index_t>(H::panel, e.keys() - key);
    pack_panel<H::depth>(mem.key_panels + item * H::panel * H::depth, k.row(row) + head * H::depth, k.row_stride(), count);
    if (copy_values)
      pack_rows_scaled<H::depth, H::padded>(mem.values + item * H::panel * H::padded, v.row(row) + head * H::depth, v.row_stride(), count, A(1));
  });

  index_t const tiles = (e.queries + attention_tile_rows - 1) / attention_tile_rows;
  double const work = 4.0 * H::depth * static_cast<double>(std::min(e.queries, attention_tile_rows)) * static_cast<double>(e.position + e.keys()) / 2;
  parallel_for(space, e.sequences * Heads * tiles, work, [&](index_t item) {
    index_t const tile = item % tiles, head = item / tiles % Heads, sequence = item / tiles / Heads;
    index_t const begin = tile * attention_tile_rows, row = sequence * e.queries + begin, kv_head = head / group;
    attention_memory<A> m{mem.key_panels + (sequence * KvHeads + kv_head) * head_size * H::depth,
                          mem.values + (sequence * KvHeads + kv_head) * head_size * H::padded, H::padded};
    if constexpr (std::is_same_v<A, T>)
      if (!copy_values) m.values = v.row(sequence * e.keys()) + kv_head * H::depth, m.value_stride = v.row_stride();
    A* const s = mem.scores + thread_index() * head_size * H::rows;
    attend_rows<H>(q.row(row) + head * H::depth, q.row_stride(), std::min(attention_tile_rows, e.queries - begin), m, e.position + begin, s,
                   o.row(row) + head * H::depth, o.row_stride(), lse.data() == nullptr ? nullptr : lse.row(row) + head, lse.row_stride());
  });
}

}  // namespace moe::inline MOE_ISA::detail
