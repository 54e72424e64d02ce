#pragma once
#include <moe/attention/detail/operands.hpp>
#include <moe/attention/detail/softmax.hpp>
#include <moe/core/parallel.hpp>

namespace moe::inline MOE_ISA::detail {

/// Fewer queries than this would leave most lanes of a panel of them empty: keys stand in the lanes instead. The same chains, so the same bits.
inline constexpr index_t few_queries = 8;
inline constexpr int few_rows = 4;  ///< rows (heads of a group times queries) that share loads of keys and values

template <class H>
constexpr bool is_few(attention_extent const& e) {
  return e.sequences == 1 && e.queries < few_queries;
}

/// The memory of attend_few. Row r of a key/value head is query r % queries of the head r / queries of its group; scores of a block of rows lie side
/// by side: [panels][rows of the block][panel].
template <class H>
struct attention_few_scratch {
  using A = typename H::A;
  A *panel = nullptr, *values = nullptr, *q = nullptr, *s = nullptr;
  attention_few_scratch() = default;
  attention_few_scratch(arena& from, int threads, int heads, int kv_heads, attention_extent const& e) {
    index_t const keys = elements(H::panels(e.keys()), H::panel);
    panel = from.take<A>(elements(threads, H::depth, H::panel));
    values = from.take<A>(elements(kv_heads, keys, H::padded));
    q = from.take<A>(elements(heads, e.queries, H::padded));
    s = from.take<A>(elements(heads, e.queries, keys));
  }
};

template <class A>
struct softmax_result {
  A top, sum;
};

/// softmax_columns for one row of scores [panels][Rows][panel], keys in the lanes; zero in the rest of the last vector.
template <class H, int Rows, class A = typename H::A>
inline softmax_result<A> softmax_row(A* s, index_t keys) {
  using V = simd<A>;
  typedef A chains __attribute__((vector_size(weight_chains * sizeof(A))));
  auto const at = [&](index_t u) { return s + u / H::panel * (Rows * H::panel) + u % H::panel; };
  index_t const full = keys / V::width * V::width, end = (keys + weight_chains - 1) / weight_chains * weight_chains;
  V top = minus_infinity<A>();
  for (index_t u = full; u < end; u += V::width) lanes_before(V::load(at(u)), keys - u).store(at(u));
  for (index_t u = 0; u < end; u += V::width) top = larger(V::load(at(u)), top);
  A const m = max(top);
  for (index_t u = 0; u < end; u += V::width) exp(V::load(at(u)) - V::all(m)).store(at(u));
  chains sums{};
  for (index_t u = 0; u < end; u += weight_chains) {
    chains x;
    std::memcpy(&x, at(u), sizeof x);
    sums = sums + x;
  }
  A const sum[weight_chains] = {sums[0], sums[1], sums[2], sums[3]};
  return {m, sum_of_chains(sum)};
}

/// f(first row, number of rows), the latter a constant: blocks of Rows, then of halves of it.
template <int Rows = few_rows, class F>
MOE_INLINE void for_each_row_block(index_t begin, index_t end, F const& f) {
  for (; begin + Rows <= end; begin += Rows) f(begin, std::integral_constant<int, Rows>{});
  if constexpr (Rows > 1)
    if (begin < end) for_each_row_block<Rows / 2>(begin, end, f);
}

/// Rows [first, first + Rows) of a key/value head, their scores known.
///   v  [keys, depth]  rows v_stride apart, whole vectors readable
template <class H, int Rows, index_t Group, class T>
inline void attend_few_block(attention_operands<T> const& x, attention_extent const& e, index_t kv_head, index_t first, typename H::A* s,
                             typename H::A const* v, index_t v_stride) {
  using A = typename H::A;
  auto const query = [&](int i) { return (first + i) % e.queries; };
  auto const head = [&](int i) { return kv_head * Group + (first + i) / e.queries; };
  auto const end = [&](int i) { return e.position + query(i) + 1; };
  index_t common = end(0);
  A sums[Rows];
  for (int i = 0; i < Rows; ++i) {
    auto const r = softmax_row<H, Rows>(s + i * H::panel, end(i));
    common = std::min(common, end(i)), sums[i] = r.sum;
    if (A* const lse = x.lse_at(query(i), head(i)); lse != nullptr) *lse = r.top + std::log(r.sum);
  }
  for_each_column_block<H::vectors>([&](auto vector, auto vectors) {
    register_block<Rows, vectors, A> block;
    block.clear();
    A const* const column = v + vector * H::width;
    for (index_t u = 0; u < common; u += H::panel)
      block.template steps<H::panel, 1>(std::min<index_t>(H::panel, common - u), s + u * Rows, column + u * v_stride, v_stride);
    block.template row_steps<H::panel>(
        common, end, [&](index_t u) { return s + u / H::panel * (Rows * H::panel) + u % H::panel; }, column, v_stride);
    block.template divide_store<H::depth>(
        sums, Rows, [&](int i) { return x.o.row(query(i)) + head(i) * H::depth; }, vector * H::width);
  });
}

/// attend for few queries of one sequence: first the scores, dealt by panel of keys, then the rest, dealt by block of rows. Values are read where
/// they are if they are what registers want.
template <class H, int Heads, int KvHeads, class T>
void attend_few(cpu const& space, attention_operands<T> const& x, attention_extent const& e, attention_few_scratch<H> const& m) {
  using A = typename H::A;
  constexpr index_t group = Heads / KvHeads;
  constexpr bool copy_values = !std::is_same_v<A, T> || H::depth != H::padded;
  index_t const rows = group * e.queries, panels = H::panels(e.keys()), keys = panels * H::panel;
  for (index_t h = 0; h < Heads; ++h)
    pack_rows_scaled<H::depth, H::padded>(m.q + h * e.queries * H::padded, x.q.row(0) + h * H::depth, x.q.row_stride(), e.queries, H::scale());

  parallel_for(space, KvHeads * panels, 2.0 * H::panel * H::depth * static_cast<double>(rows + 4), [&](index_t item) {
    index_t const kv_head = item / panels, p = item % panels, u = p * H::panel, count = std::min<index_t>(H::panel, e.keys() - u);
    A* const panel = m.panel + thread_index() * (H::depth * H::panel);
    pack_panel<H::depth>(panel, x.k.row(u) + kv_head * H::depth, x.k.row_stride(), count);
    for_each_row_block(0, rows, [&](index_t first, auto n) {
      attention_scores<n, 2, H::depth, H::padded>(m.q + (kv_head * rows + first) * H::padded, panel, m.s + (kv_head * rows + first) * keys + u * n);
    });
    if (copy_values)
      pack_rows_scaled<H::depth, H::padded>(m.values + (kv_head * keys + u) * H::padded, x.v.row(u) + kv_head * H::depth, x.v.row_stride(), count,
                                            A(1));
  });

  index_t const blocks = (rows + few_rows - 1) / few_rows;
  parallel_for(space, KvHeads * blocks, 2.0 * H::depth * few_rows * static_cast<double>(e.keys()), [&](index_t item) {
    index_t const kv_head = item / blocks, begin = item % blocks * few_rows;
    A const* v = m.values + kv_head * keys * H::padded;
    index_t v_stride = H::padded;
    if constexpr (!copy_values) v = x.v.row(0) + kv_head * H::depth, v_stride = x.v.row_stride();
    for_each_row_block(begin, std::min(begin + few_rows, rows), [&](index_t first, auto n) {
      attend_few_block<H, n, group>(x, e, kv_head, first, m.s + (kv_head * rows + first) * keys, v, v_stride);
    });
  });
}

}  // namespace moe::inline MOE_ISA::detail
