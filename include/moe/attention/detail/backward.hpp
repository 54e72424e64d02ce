#pragma once
#include <moe/attention/detail/forward.hpp>

namespace moe::inline MOE_ISA::detail {

/// Keys whose weights and their gradients are held at a time, with those of one panel of queries: a multiple of every block of rows.
inline constexpr index_t chunk_keys = 96;

/// Operands of attention_backward.
template <class T>
struct attention_gradient {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> q, k, v, o;
  tensor<A const, dyn, dyn> lse;
  tensor<T const, dyn, dyn> d_o;
  tensor<T, dyn, dyn> d_q, d_k, d_v;
};

/// The memory of one work item of attention_backward: `keys` rows of one key/value head with their gradients, and one panel of queries.
template <class H>
struct attention_backward_memory {
  using A = typename H::A;
  A *keys, *values, *d_keys, *d_values;  ///< [rows, padded]
  A *q_rows, *d_o_rows, *d_q;            ///< [panel, padded]
  A *q, *d_o;                            ///< [depth, panel]
  A *p, *d_s;                            ///< [chunk_keys + long_rows, panel]
  A *lse, *delta;                        ///< [panel]
  static index_t rows(index_t n) { return elements(H::panels(n), H::panel) + H::long_rows; }
  attention_backward_memory(arena& from, index_t n) {
    for (A** x : {&keys, &values, &d_keys, &d_values}) *x = from.take<A>(elements(rows(n), H::padded));
    for (A** x : {&q_rows, &d_o_rows, &d_q}) *x = from.take<A>(H::panel * H::padded);
    for (A** x : {&q, &d_o}) *x = from.take<A>(H::depth * H::panel);
    for (A** x : {&p, &d_s}) *x = from.take<A>((chunk_keys + H::long_rows) * H::panel);
    for (A** x : {&lse, &delta}) *x = from.take<A>(H::panel);
  }
  static index_t bytes(index_t n) {
    arena measure;
    attention_backward_memory(measure, n);
    return static_cast<index_t>(measure.peak());
  }
};

/// Keys [begin, end) of the sequence, seen from a panel of `rows` queries from `first` on: begin is a multiple of chunk_keys, end at most the
/// next one or first + panel.
struct backward_range {
  index_t begin, end, first, rows;
};

/// s[u, t] = sum_i a[t, i] keys[u, i]:  a packed by pack_panel, `keys` and s begin with key range.begin. Rows beyond the end may be written.
template <class H>
inline void chunk_scores(typename H::A const* a, typename H::A const* keys, typename H::A* s, backward_range const& r) {
  constexpr int R = H::long_rows, D = H::rows;
  index_t u = r.begin;
  auto const at = [&] { return keys + (u - r.begin) * H::padded; };
  auto const to = [&] { return s + (u - r.begin) * H::panel; };
  for (; u + R <= std::min(r.end, r.first); u += R) attention_scores<R, 2, H::depth, H::padded>(at(), a, to());
  for (; u < std::min(r.end, r.first + H::width); u += D) attention_scores<D, 2, H::depth, H::padded>(at(), a, to());
  for (; u < r.end; u += D) attention_scores<D, 1, H::depth, H::padded>(at(), a + H::width, to() + H::width);
}

/// p = exp(s - lse), d_s = p (d_p - delta), in place of s and d_p.
template <class H, class A = typename H::A>
inline void softmax_gradient(A* p, A* d_s, A const* lse, A const* delta, backward_range const& r) {
  using V = simd<A>;
  for (int c = 0; c < H::panel; c += H::width) {
    V const l = V::load(lse + c), d = V::load(delta + c);
    index_t const end = (std::min(r.end, r.first + c + H::width) - r.begin) * H::panel;
    MOE_UNROLL(4)
    for (index_t at = c; at < end; at += H::panel) {
      V const e = exp(V::load(p + at) - l);
      e.store(p + at);
      (e * (V::load(d_s + at) - d)).store(d_s + at);
    }
  }
}

/// d_q[t] += sum_u d_s[u, t] keys[u], u ascending, u <= t.
template <class H, class A = typename H::A>
inline void add_query_gradient(A* d_q, A const* d_s, A const* keys, backward_range const& r) {
  constexpr int D = H::rows;
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    int const column = vector * H::width;
    for (index_t t = 0; t < r.rows; t += D) {
      register_block<D, vectors, A> block;
      block.load(d_q + t * H::padded + column, H::padded);
      index_t const seen = r.first + t, count = std::min(r.end, seen) - r.begin;  // what all rows of the block see; a multiple of D
      A const *const a = d_s + t, *const b = keys + column;
      block.template steps<1, H::panel>(count, a, b, H::padded);
      if (seen < r.end) {
        block.template step<1>(a + count * H::panel, b + count * H::padded);
        block.template upper_steps<1>([&](int k) { return a + (count + k) * H::panel; }, b + count * H::padded, H::padded);
      }
      block.store(d_q + t * H::padded + column, H::padded);
    }
  });
}

/// d_k[u] += sum_t d_s[u, t] q[t], t ascending over the rows of the panel, t >= u.
template <class H, class A = typename H::A>
inline void add_key_gradient(A* d_k, A const* d_s, A const* q, backward_range const& r) {
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    index_t const before = std::min(r.end, r.first) - r.begin, end = std::min(r.end, r.first + r.rows) - r.begin;
    A const* const b = q + vector * H::width;
    index_t u = 0;
    auto const whole = [&](auto rows) {
      A* const to = d_k + u * H::padded + vector * H::width;
      register_block<rows, vectors, A> block;
      block.load(to, H::padded);
      block.template steps<H::panel, 1>(r.rows, d_s + u * H::panel, b, H::padded);
      block.store(to, H::padded);
      u += rows;
    };
    while (u + H::long_rows <= before) whole(std::integral_constant<int, H::long_rows>{});
    if (u + H::rows <= before) whole(std::integral_constant<int, H::rows>{});
    if (u < before) whole(std::integral_constant<int, H::rows / 2>{});
    for (; u < end; u += H::rows) {
      A* const to = d_k + u * H::padded + vector * H::width;
      index_t const t = u + r.begin - r.first, begin = std::min<index_t>(t + H::rows, r.rows);
      register_block<H::rows, vectors, A> block;
      block.load(to, H::padded);
      A const* const a = d_s + u * H::panel;
      block.template lower_steps<H::panel, 1>(r.rows - t, a + t, b + t * H::padded, H::padded);
      block.template steps<H::panel, 1>(r.rows - begin, a + begin, b + begin * H::padded, H::padded);
      block.store(to, H::padded);
    }
  });
}

/// delta = sum_k d_o[k] o[k]: lanes over k ascending, then their tree.
template <class H, class T>
inline typename H::A attention_delta(typename H::A const* d_o, T const* o) {
  using V = simd<typename H::A>;
  V sums = V::zero();
  for (int k = 0; k < H::padded; k += V::width) sums = madd(V::load(d_o + k), V::load(o + k, H::depth - k), sums);
  return sum(sums);
}

/// One head of one sequence, the rows of which begin at `row`.
struct backward_head {
  index_t row, seq, head, kv_head;
};

/// A panel of queries from row `first` of the sequence on; returns how many of them there are.
template <class H, class T>
inline index_t pack_queries(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head const& h, index_t first) {
  using A = typename H::A;
  index_t const rows = std::min<index_t>(H::panel, h.seq - first), row = h.row + first, column = h.head * H::depth;
  T const *const q = g.q.row(row) + column, *const d_o = g.d_o.row(row) + column;
  pack_panel<H::depth>(m.q, q, g.q.row_stride(), rows, H::scale());
  pack_panel<H::depth>(m.d_o, d_o, g.d_o.row_stride(), rows);
  pack_rows_scaled<H::depth, H::padded>(m.q_rows, q, g.q.row_stride(), rows, H::scale());
  pack_rows_scaled<H::depth, H::padded>(m.d_o_rows, d_o, g.d_o.row_stride(), rows, A(1));
  std::fill_n(m.d_q, H::panel * H::padded, A(0));
  for (index_t i = 0; i < H::panel; ++i) {  // rows beyond the sequence: computed, never used
    m.lse[i] = i < rows ? g.lse.row(row + i)[h.head] : A(0);
    m.delta[i] = i < rows ? attention_delta<H>(m.d_o_rows + i * H::padded, g.o.row(row + i) + column) : A(0);
  }
  return rows;
}

/// Rows [begin, begin + n) of keys and values, their gradients cleared.
template <class H, class T>
inline void pack_keys(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head const& h, index_t begin, index_t n) {
  using A = typename H::A;
  index_t const row = h.row + begin, column = h.kv_head * H::depth, all = m.rows(n) * H::padded, used = n * H::padded;
  pack_rows_scaled<H::depth, H::padded>(m.keys, g.k.row(row) + column, g.k.row_stride(), n, A(1));
  pack_rows_scaled<H::depth, H::padded>(m.values, g.v.row(row) + column, g.v.row_stride(), n, A(1));
  std::fill(m.keys + used, m.keys + all, A(0));
  std::fill(m.values + used, m.values + all, A(0));
  std::fill_n(m.d_keys, all, A(0));
  std::fill_n(m.d_values, all, A(0));
}
template <class H, class T>
inline void unpack_key_gradients(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head const& h, index_t begin,
                                 index_t n) {
  using A = typename H::A;
  index_t const row = h.row + begin, column = h.kv_head * H::depth;
  unpack_rows_scaled<H::depth, H::padded>(g.d_k.row(row) + column, g.d_k.row_stride(), m.d_keys, n, A(1));
  unpack_rows_scaled<H::depth, H::padded>(g.d_v.row(row) + column, g.d_v.row_stride(), m.d_values, n, A(1));
}

/// A chunk of keys, which stand in the memory from row `at` on, with a panel of queries.
template <class H, bool Queries, bool Keys>
inline void backward_chunk(attention_backward_memory<H> const& m, index_t at, backward_range const& r) {
  index_t const offset = at * H::padded;
  chunk_scores<H>(m.q, m.keys + offset, m.p, r);
  chunk_scores<H>(m.d_o, m.values + offset, m.d_s, r);
  softmax_gradient<H>(m.p, m.d_s, m.lse, m.delta, r);
  if constexpr (Queries) add_query_gradient<H>(m.d_q, m.d_s, m.keys + offset, r);
  if constexpr (Keys) add_key_gradient<H>(m.d_values + offset, m.p, m.d_o_rows, r);
  if constexpr (Keys) add_key_gradient<H>(m.d_keys + offset, m.d_s, m.q_rows, r);
}
/// All keys that a panel of queries sees.
template <class H, bool Keys>
inline void backward_panel(attention_backward_memory<H> const& m, index_t first, index_t rows) {
  index_t const end = first + H::panel;
  for (index_t u = 0; u < end; u += chunk_keys) backward_chunk<H, true, Keys>(m, u, {u, std::min(end, u + chunk_keys), first, rows});
}

/// All of one key/value head of one sequence.
template <class H, class T>
inline void backward_whole(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head h, index_t group) {
  pack_keys<H>(g, m, h, 0, h.seq);
  for (h.head = h.kv_head * group; h.head < (h.kv_head + 1) * group; ++h.head)
    for (index_t first = 0; first < h.seq; first += H::panel) {
      index_t const rows = pack_queries<H>(g, m, h, first), row = h.row + first;
      backward_panel<H, true>(m, first, rows);
      unpack_rows_scaled<H::depth, H::padded>(g.d_q.row(row) + h.head * H::depth, g.d_q.row_stride(), m.d_q, rows, H::scale());
    }
  unpack_key_gradients<H>(g, m, h, 0, h.seq);
}

/// d_q alone of one part of the panels of a head, into [seq, padded].
template <class H, class T>
inline void backward_queries(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head const& h, index_t part,
                             index_t parts, typename H::A* d_q) {
  pack_keys<H>(g, m, h, 0, h.seq);
  for (index_t panel = H::panels(h.seq) - 1 - part; panel >= 0; panel -= parts) {
    index_t const first = panel * H::panel, rows = pack_queries<H>(g, m, h, first);
    backward_panel<H, false>(m, first, rows);
    std::copy_n(m.d_q, rows * H::padded, d_q + first * H::padded);
  }
}
/// d_k and d_v alone of one chunk of keys.
template <class H, class T>
inline void backward_keys(attention_gradient<T> const& g, attention_backward_memory<H> const& m, backward_head h, index_t group, index_t begin) {
  index_t const n = std::min(chunk_keys, h.seq - begin);
  pack_keys<H>(g, m, h, begin, n);
  for (h.head = h.kv_head * group; h.head < (h.kv_head + 1) * group; ++h.head)
    for (index_t first = begin; first < h.seq; first += H::panel) {
      index_t const rows = pack_queries<H>(g, m, h, first);
      backward_chunk<H, false, true>(m, 0, {begin, std::min(first + H::panel, begin + chunk_keys), first, rows});
    }
  unpack_key_gradients<H>(g, m, h, begin, n);
}

/// Whether so few heads leave threads without work that it is faster to share them out: products are then computed 7 times instead of 5.
inline bool shares_heads(int threads, index_t heads, index_t panels) {
  return panels > 1 && (heads + threads - 1) / threads * threads * 5 > heads * 7;
}

/// The memory of attend_backward, which is also its size: take it from a measuring arena.
template <class H>
struct attention_backward_scratch {
  std::byte* memory;             ///< of each thread
  typename H::A* d_q = nullptr;  ///< [sequences, heads, seq, padded], where heads are shared out: d_q may be q, which is still needed
  attention_backward_scratch(arena& from, int threads, index_t heads, index_t kv_heads, index_t seq)
      : memory(from.take<std::byte>(elements(threads, attention_backward_memory<H>::bytes(seq)))) {
    if (shares_heads(threads, kv_heads, H::panels(seq))) d_q = from.take<typename H::A>(elements(heads, seq, H::padded));
  }
};

/// The three gradients. Each element is one chain, which the same functions extend in the same order however the work is shared out.
template <class H, int Heads, int KvHeads, class T>
void attend_backward(cpu const& space, attention_gradient<T> const& g, index_t seq, arena& scratch) {
  constexpr index_t group = Heads / KvHeads;
  arena::scope const scope(scratch);
  index_t const sequences = g.q.template extent<0>() / seq, heads = sequences * KvHeads, bytes = attention_backward_memory<H>::bytes(seq);
  attention_backward_scratch<H> const mem(scratch, thread_count(space), sequences * Heads, heads, seq);
  double const product = static_cast<double>(seq * seq) * H::depth * static_cast<double>(group);
  auto const run = [&](index_t items, double work, auto const& f) {
    parallel_for(space, items, work, [&](index_t item) {
      arena own(mem.memory + thread_index() * bytes, static_cast<std::size_t>(bytes));
      f(item, attention_backward_memory<H>(own, seq));
    });
  };
  auto const head = [&](index_t i) { return backward_head{i / KvHeads * seq, seq, i % KvHeads * group, i % KvHeads}; };
  if (!shares_heads(thread_count(space), heads, H::panels(seq)))
    return run(heads, 5 * product, [&](index_t item, auto const& m) { backward_whole<H>(g, m, head(item), group); });

  index_t const chunks = (seq + chunk_keys - 1) / chunk_keys, parts = std::min<index_t>(H::panels(seq), 4 * thread_count(space));
  auto const staged = [&](index_t h) { return mem.d_q + h * seq * H::padded; };
  run(heads * group * parts, 3 * product / static_cast<double>(group * parts), [&](index_t item, auto const& m) {
    backward_head h = head(item / parts / group);
    h.head += item / parts % group;
    backward_queries<H>(g, m, h, item % parts, parts, staged(item / parts));
  });
  run(heads * chunks, 4 * product / static_cast<double>(chunks),
      [&](index_t item, auto const& m) { backward_keys<H>(g, m, head(item / chunks), group, item % chunks * chunk_keys); });
  parallel_for(space, heads * group, static_cast<double>(seq) * H::depth, [&](index_t item) {
    backward_head const h = head(item / group);
    index_t const column = (h.head + item % group) * H::depth;
    unpack_rows_scaled<H::depth, H::padded>(g.d_q.row(h.row) + column, g.d_q.row_stride(), staged(item), seq, H::scale());
  });
}

}  // namespace moe::inline MOE_ISA::detail
