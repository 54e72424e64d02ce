#pragma once
#include <moe/attention/detail/forward.hpp>

namespace moe::inline MOE_ISA::detail {

/// The memory of one thread of attention_backward: keys, values and their gradients for one key/value head, and one square tile.
template <class H>
struct attention_backward_scratch {
  using A = typename H::A;
  A *key_panels, *value_panels, *keys, *d_keys, *d_values;
  A *q, *d_o, *d_q;             ///< [panel, padded]
  A *p, *d_s;                   ///< [panel, panel]
  A *lse, *delta;               ///< [panel]
  attention_backward_scratch(arena& from, index_t seq) {
    index_t const rows = elements(H::panels(seq), H::panel);
    key_panels = from.take<A>(elements(rows, H::depth));
    value_panels = from.take<A>(elements(rows, H::depth));
    for (A** x : {&keys, &d_keys, &d_values}) *x = from.take<A>(elements(rows, H::padded));
    for (A** x : {&q, &d_o, &d_q}) *x = from.take<A>(H::panel * H::padded);
    for (A** x : {&p, &d_s}) *x = from.take<A>(H::panel * H::panel);
    for (A** x : {&lse, &delta}) *x = from.take<A>(H::panel);
  }
};

/// Bytes of it, one thread after the other.
template <class H>
index_t attention_backward_stride(index_t seq) {
  arena measure;
  attention_backward_scratch<H>(measure, seq);
  return static_cast<index_t>(measure.peak());
}

/// d_q[i] += sum_j d_s[i, j] keys[j], j ascending over the panel; on the diagonal over j <= i.
template <class H, class A>
inline void add_query_gradient(A* d_q, A const* d_s, A const* keys, index_t rows, bool diagonal) {
  constexpr int R = H::rows;
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    int const column = vector * H::width;
    for (index_t i = 0; i < rows; i += R) {
      register_block<R, vectors, A> block;
      block.load(d_q + i * H::padded + column, H::padded);
      A const *const a = d_s + i * H::panel, *const b = keys + column;
      block.template steps<H::panel, 1>(diagonal ? i + 1 : H::panel, a, b, H::padded);
      if (diagonal) block.template upper_steps<H::panel>([&](int k) { return a + i + k; }, b + i * H::padded, H::padded);
      block.store(d_q + i * H::padded + column, H::padded);
    }
  });
}

/// d_k[j] += sum_i d_s[i, j] q[i], i ascending over `rows` rows of the tile; on the diagonal over i >= j.
template <class H, class A>
inline void add_key_gradient(A* d_k, A const* d_s, A const* q, index_t rows, bool diagonal) {
  constexpr int R = H::rows;
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    int const column = vector * H::width;
    for (index_t j = 0; j < (diagonal ? rows : H::panel); j += R) {
      register_block<R, vectors, A> block;
      block.load(d_k + j * H::padded + column, H::padded);
      A const *const a = d_s + j, *const b = q + column;
      index_t const begin = diagonal ? std::min<index_t>(j + R, rows) : 0;
      if (diagonal) block.template lower_steps<1, H::panel>(rows - j, a + j * H::panel, b + j * H::padded, H::padded);
      block.template steps<1, H::panel>(rows - begin, a + begin * H::panel, b + begin * H::padded, H::padded);
      block.store(d_k + j * H::padded + column, H::padded);
    }
  });
}

/// p = exp(s - lse), d_s = p (d_p - delta) over one tile, in place of s and d_p.
template <class H, class A>
inline void softmax_gradient(A* p, A* d_s, A const* lse, A const* delta, index_t rows) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = i * H::panel; j < (i + 1) * H::panel; j += V::width) {
      V const e = exp(V::load(p + j) - V::all(lse[i]));
      e.store(p + j);
      (e * (V::load(d_s + j) - V::all(delta[i]))).store(d_s + j);
    }
}

/// delta = sum_k d_o[k] o[k]: lanes over k ascending, then their tree.
template <class H, class T>
inline typename H::A attention_delta(typename H::A const* d_o, T const* o) {
  using V = simd<typename H::A>;
  V sums = V::zero();
  for (int k = 0; k < H::padded; k += V::width) sums = madd(V::load(d_o + k), V::load(o + k, H::depth - k), sums);
  return sum(sums);
}

/// Operands of attention_backward.
template <class T>
struct attention_gradient {
  using A = accumulator<T>;
  tensor<T const, dyn, dyn> q, k, v, o;
  tensor<A const, dyn, dyn> lse;
  tensor<T const, dyn, dyn> d_o;
  tensor<T, dyn, dyn> d_q, d_k, d_v;
};

/// One tile of query rows [begin, begin + rows) of the sequence that starts at row `base`, against all panels of keys it sees.
template <class H, class T>
inline void backward_tile(attention_gradient<T> const& g, attention_backward_scratch<H> const& m, index_t base, index_t begin, index_t rows, index_t head) {
  using A = typename H::A;
  constexpr index_t panel = H::panel;
  index_t const row = base + begin, column = head * H::depth;
  std::fill_n(m.q, panel * H::padded, A(0));  // rows beyond the sequence: computed, never used
  std::fill_n(m.d_o, panel * H::padded, A(0));
  std::fill_n(m.d_q, panel * H::padded, A(0));
  pack_rows_scaled<H::depth, H::padded>(m.q, g.q.row(row) + column, g.q.row_stride(), rows, H::scale());
  pack_rows_scaled<H::depth, H::padded>(m.d_o, g.d_o.row(row) + column, g.d_o.row_stride(), rows, A(1));
  for (index_t i = 0; i < rows; ++i) {
    m.lse[i] = g.lse.row(row + i)[head];
    m.delta[i] = attention_delta<H>(m.d_o + i * H::padded, g.o.row(row + i) + column);
  }
  for (index_t key = 0; key <= begin; key += panel) {
    bool const diagonal = key == begin;
    for (index_t i = 0; i < rows; i += H::rows) {
      attention_scores<H::rows, 2, H::depth, H::padded>(m.q + i * H::padded, m.key_panels + key * H::depth, m.p + i * panel);
      attention_scores<H::rows, 2, H::depth, H::padded>(m.d_o + i * H::padded, m.value_panels + key * H::depth, m.d_s + i * panel);
    }
    softmax_gradient<H>(m.p, m.d_s, m.lse, m.delta, rows);
    add_query_gradient<H>(m.d_q, m.d_s, m.keys + key * H::padded, rows, diagonal);
    add_key_gradient<H>(m.d_values + key * H::padded, m.p, m.d_o, rows, diagonal);
    add_key_gradient<H>(m.d_keys + key * H::padded, m.d_s, m.q, rows, diagonal);
  }
  unpack_rows_scaled<H::depth, H::padded>(g.d_q.row(row) + column, g.d_q.row_stride(), m.d_q, rows, H::scale());
}

/// One key/value head of one sequence, with all query heads of its group.
template <class H, class T>
inline void backward_head(attention_gradient<T> const& g, attention_backward_scratch<H> const& m, index_t base, index_t seq, index_t kv_head, index_t group) {
  using A = typename H::A;
  index_t const column = kv_head * H::depth, padded_rows = H::panels(seq) * H::panel;
  for (index_t key = 0; key < seq; key += H::panel) {
    index_t const count = std::min<index_t>(H::panel, seq - key);
    pack_panel<H::depth>(m.key_panels + key * H::depth, g.k.row(base + key) + column, g.k.row_stride(), count);
    pack_panel<H::depth>(m.value_panels + key * H::depth, g.v.row(base + key) + column, g.v.row_stride(), count);
  }
  pack_rows_scaled<H::depth, H::padded>(m.keys, g.k.row(base) + column, g.k.row_stride(), seq, A(1));
  std::fill(m.keys + seq * H::padded, m.keys + padded_rows * H::padded, A(0));
  std::fill_n(m.d_keys, padded_rows * H::padded, A(0));
  std::fill_n(m.d_values, padded_rows * H::padded, A(0));
  for (index_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for (index_t begin = 0; begin < seq; begin += H::panel)
      backward_tile<H>(g, m, base, begin, std::min<index_t>(H::panel, seq - begin), head);
  unpack_rows_scaled<H::depth, H::padded>(g.d_k.row(base) + column, g.d_k.row_stride(), m.d_keys, seq, A(1));
  unpack_rows_scaled<H::depth, H::padded>(g.d_v.row(base) + column, g.d_v.row_stride(), m.d_values, seq, A(1));
}

}  // namespace moe::inline MOE_ISA::detail
