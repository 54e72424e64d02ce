#pragma once
#include <moe/attention/attention.hpp>
#include <moe/attention/detail/backward.cuh>
#include <moe/core/elementwise.cuh>

namespace moe::inline MOE_ISA {

namespace detail {

/// The scratch of attention_backward, which is also its size. d_q, and where several blocks share the columns of a head d_k and d_v, pass through it
/// where a gradient takes the place of its operand: the other blocks still read that.
template <attention_shape C, class T>
struct attention_cuda_scratch {
  using slices = attention_gradient_slices<C.d_head, T>;
  accumulator<T>* delta;
  matrix_view<T> d_q, d_k, d_v;
  attention_cuda_scratch(arena& from, index_t tokens)
      : delta(from.take<accumulator<T>>(tokens * C.heads)), d_q(from.mat<T>(tokens, index_t{C.heads} * C.d_head)) {
    if constexpr (slices::slices > 1)
      for (auto* x : {&d_k, &d_v}) *x = from.mat<T>(tokens, index_t{C.kv_heads} * C.d_head);
  }
};

}  // namespace detail

/// The contract of attention(cpu), with all views in device memory; asynchronous on `space.stream`. It needs no scratch.
///
/// Order   s as on the CPU. Keys are taken in tiles of 64 from the first one of the sequence on, with a running maximum: before a tile, l and o are
///         multiplied by exp(old maximum - new maximum). o: one chain of madd over u ascending between these products. l: lane u mod 16 sums its four
///         terms of a tile, ascending, and madds its sum so far; at the end a tree of halves. A row's bits depend neither on the other rows, nor on
///         the number of rows of the call (attention_cached), nor on where a tile of rows begins.
/// Cost    plain tiles of 64 x 64 in accumulators, no tensor cores; query heads that share a key/value head share its tiles. Rows or heads that do
///         not start at multiples of 16 bytes are loaded element by element. A d_head above 256 (in double above 64) computes the scores once for
///         every 256 (64) columns.
template <attention_shape C, class T>
void attention(cuda const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k, in<T, dyn, dyn> v, index_t seq, tensor<T, dyn, dyn> o,
               std::type_identity_t<tensor<accumulator<T>, dyn, dyn>> lse, arena& /*scratch*/) {
  detail::check_attention<C>(q, k, v, seq, o, lse);
  index_t const tokens = o.template extent<0>();
  if (tokens == 0) return;
  detail::attend_tiles<C.d_head, C.heads / C.kv_heads, 4, T>("attention", space, {q, k, v, o, lse}, {tokens / seq, seq, 0}, C.kv_heads);
}

/// The contract of attention_cached(cpu), with all views in device memory; asynchronous on `space.stream`. It needs no scratch.
///
/// Order   as attention(cuda): the same bits as its rows.
/// Cost    few rows are taken in tiles of 16, (row, head of the group) pairs. The keys of a head are not dealt to several blocks, because the order
///         of their sums would then depend on how many there are: a single sequence with few heads leaves most of a GPU idle.
template <attention_shape C, class T>
void attention_cached(cuda const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k_cache, in<T, dyn, dyn> v_cache, index_t position, tensor<T, dyn, dyn> o,
                      arena& /*scratch*/) {
  detail::check_attention_cached<C>(q, k_cache, v_cache, position, o);
  index_t const n = o.template extent<0>();
  if (n == 0) return;
  constexpr int group = C.heads / C.kv_heads;
  detail::attention_operands<T> const x{q, k_cache, v_cache, o, {}};
  if (n * group <= 32) detail::attend_tiles<C.d_head, group, 1, T>("attention_cached", space, x, {1, n, position}, C.kv_heads);
  else detail::attend_tiles<C.d_head, group, 4, T>("attention_cached", space, x, {1, n, position}, C.kv_heads);
}

/// The contract of attention_backward(cpu), with all views in device memory; asynchronous on `space.stream`. Deterministic: no atomics.
///
/// Order   as on the CPU but for D: lane i mod 32 over i ascending, then a tree of halves. Where D is the same, so are all bits (in double: where exp
///         is).
/// Cost    one kernel for d_q, one for d_k and d_v: 7 products instead of 5. Otherwise as attention(cuda), with 128 columns instead of 256 (in double
///         64 as there).
template <attention_shape C, class T>
void attention_backward(cuda const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k, in<T, dyn, dyn> v, in<T, dyn, dyn> o,
                        std::type_identity_t<tensor<accumulator<T> const, dyn, dyn>> lse, in<T, dyn, dyn> d_o, index_t seq, tensor<T, dyn, dyn> d_q,
                        std::type_identity_t<tensor<T, dyn, dyn>> d_k, std::type_identity_t<tensor<T, dyn, dyn>> d_v, arena& scratch) {
  using A = accumulator<T>;
  detail::attention_gradient<T> g{q, k, v, o, lse, d_o, d_q, d_k, d_v};
  detail::check_attention_backward<C>(g, seq);
  constexpr int group = C.heads / C.kv_heads;
  index_t const tokens = q.template extent<0>(), sequences = tokens / (seq > 0 ? seq : 1);
  if (tokens == 0) return;
  detail::check_scratch("attention_backward", scratch, attention_scratch_bytes<C, T>(space, tokens, seq));
  arena::scope const scope(scratch);
  detail::attention_cuda_scratch<C, T> const m(scratch, tokens);
  using S = typename detail::attention_cuda_scratch<C, T>::slices;
  bool const in_place = d_q.data() == q.data() || d_k.data() == k.data() || d_v.data() == v.data();
  if (in_place) {
    g.d_q = m.d_q;
    if constexpr (S::slices > 1) g.d_k = m.d_k, g.d_v = m.d_v;
  }
  A const scale = detail::attention_head<C.d_head, T>::scale();
  std::size_t const bytes = sizeof(detail::attention_layout<A, 4, S::n>);
  for_each_row("attention_backward", space, tokens * C.heads, detail::attention_delta_row<C.d_head, T>{d_o, o, m.delta, C.heads});
  launch("attention_backward", attention_d_q_kernel<C.d_head, group, S::n, T>,
         {.blocks = detail::attention_items<group>(64, seq, C.kv_heads, S::slices, sequences),
          .threads = detail::attention_threads,
          .shared_bytes = bytes},
         space, g, m.delta, sequences, seq, C.kv_heads, scale);
  launch(
      "attention_backward", attention_d_kv_kernel<C.d_head, group, S::n, T>,
      {.blocks = detail::attention_items<1>(64, seq, C.kv_heads, S::slices, sequences), .threads = detail::attention_threads, .shared_bytes = bytes},
      space, g, m.delta, sequences, seq, C.kv_heads, scale);
  if (in_place) {
    copy<T>(space, m.d_q, d_q);
    if constexpr (S::slices > 1) copy<T>(space, m.d_k, d_k), copy<T>(space, m.d_v, d_v);
  }
}

/// Bytes of scratch that attention and attention_backward need for `tokens` rows in sequences of `seq`.
template <attention_shape C, class T>
std::size_t attention_scratch_bytes(cuda const&, index_t tokens, index_t seq) {
  detail::check_attention_shape<C>();
  detail::check_sequences("attention_scratch_bytes", tokens, seq);
  arena measure;
  detail::attention_cuda_scratch<C, T>(measure, tokens);
  return measure.peak();
}

/// attention_cached(cuda) needs none.
template <attention_shape C, class T>
std::size_t attention_cached_scratch_bytes(cuda const&, index_t /*n*/, index_t /*position*/) {
  detail::check_attention_shape<C>();
  return 0;
}

}  // namespace moe::inline MOE_ISA
