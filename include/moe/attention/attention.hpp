#pragma once
#include <moe/attention/detail/backward.hpp>
#include <moe/attention/detail/forward.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/detail/check.hpp>
#include <moe/core/space.hpp>

namespace moe::inline MOE_ISA {

/// heads: of the queries; kv_heads: of keys and values, each shared by heads / kv_heads query heads; d_head: elements per head.
struct attention_shape {
  int heads, kv_heads, d_head;
};

namespace detail {
template <attention_shape C>
constexpr void check_attention_shape() {
  static_assert(C.heads >= 1 && C.kv_heads >= 1 && C.d_head >= 1, "moe::attention: heads, kv_heads and d_head must be at least 1");
  static_assert(C.kv_heads < 1 || C.heads % C.kv_heads == 0,
                "moe::attention: heads must be a multiple of kv_heads, so that every key/value head serves a whole group");
}

inline void check_sequences(char const* op, index_t tokens, index_t seq) {
  expects(tokens == 0 || (seq >= 1 && tokens % seq == 0), errc::shape_mismatch, op, ": seq is ", seq, ", needs to be at least 1 and to divide ",
          tokens, " tokens");
}

// What both spaces check before they start.
template <attention_shape C>
void check_attention(auto const& q, auto const& k, auto const& v, index_t seq, auto const& o, auto const& lse) {
  check_attention_shape<C>();
  index_t const tokens = o.template extent<0>();
  check_matrix("attention", "q", q, tokens, index_t{C.heads} * C.d_head);
  check_matrix("attention", "k", k, tokens, index_t{C.kv_heads} * C.d_head);
  check_matrix("attention", "v", v, tokens, index_t{C.kv_heads} * C.d_head);
  check_matrix("attention", "o", o, tokens, index_t{C.heads} * C.d_head);
  check_matrix("attention", "lse", lse, tokens, C.heads);
  check_sequences("attention", tokens, seq);
}

template <attention_shape C>
void check_attention_cached(auto const& q, auto const& k_cache, auto const& v_cache, index_t position, auto const& o) {
  check_attention_shape<C>();
  index_t const n = o.template extent<0>(), capacity = k_cache.template extent<0>();
  check_matrix("attention_cached", "q", q, n, index_t{C.heads} * C.d_head);
  check_matrix("attention_cached", "k_cache", k_cache, capacity, index_t{C.kv_heads} * C.d_head);
  check_matrix("attention_cached", "v_cache", v_cache, capacity, index_t{C.kv_heads} * C.d_head);
  check_matrix("attention_cached", "o", o, n, index_t{C.heads} * C.d_head);
  expects(position >= 0, errc::bad_argument, "attention_cached: position is ", position, ", needs to be at least 0");
  expects(n <= capacity && position <= capacity - n, errc::shape_mismatch, "attention_cached: position ", position, " and ", n,
          " new rows need a cache of that many rows, it has ", capacity);
}

template <attention_shape C, class T>
void check_attention_backward(attention_gradient<T> const& g, index_t seq) {
  check_attention_shape<C>();
  constexpr index_t columns = index_t{C.heads} * C.d_head, kv_columns = index_t{C.kv_heads} * C.d_head;
  char const* const op = "attention_backward";
  index_t const tokens = g.q.template extent<0>();
  check_matrix(op, "q", g.q, tokens, columns);
  check_matrix(op, "k", g.k, tokens, kv_columns);
  check_matrix(op, "v", g.v, tokens, kv_columns);
  check_matrix(op, "o", g.o, tokens, columns);
  check_matrix(op, "lse", g.lse, tokens, C.heads);
  check_matrix(op, "d_o", g.d_o, tokens, columns);
  check_matrix(op, "d_q", g.d_q, tokens, columns);
  check_matrix(op, "d_k", g.d_k, tokens, kv_columns);
  check_matrix(op, "d_v", g.d_v, tokens, kv_columns);
  check_sequences(op, tokens, seq);
}
}  // namespace detail

/// Causal scaled dot-product attention within each sequence of `seq` consecutive rows. Query head h uses key/value head g = h / (heads / kv_heads):
///
///   s[t, u]    = sum_i (q[t, i] / sqrt(d_head)) k[u, i]          u <= t, same sequence
///   o[t, :]    = sum_u exp(s[t, u] - m_t) v[u, :] / l_t          m_t = max_u s[t, u],  l_t = sum_u exp(s[t, u] - m_t)
///   lse[t, h]  = m_t + ln l_t                                    all that the backward needs besides its inputs and o
///
///   q    [tokens, heads * d_head]     in   rows may be strided: q, k and v may be columns of one matrix
///   k    [tokens, kv_heads * d_head]  in
///   v    [tokens, kv_heads * d_head]  in
///   o    [tokens, heads * d_head]     out  must not overlap an input
///   lse  [tokens, heads]              out
///
/// Edges   0 tokens write nothing. Row t reads q[t] and keys 0 .. t and nothing else: a NaN or infinity in a later token leaves it as it is, bit for bit.
///         A row with a NaN or +infinity among its scores is NaN.
/// Throws  shape_mismatch if extents disagree or seq does not divide the tokens; out_of_memory if scratch holds less than attention_scratch_bytes.
/// Order   s: one chain of madd over i ascending; l: four chains over u mod 4, u ascending, then (0 + 2) + (1 + 3); o: one chain over u ascending.
///         A row's bits depend neither on threads, on other rows and sequences, nor on how many rows are in the call (attention_cached).
/// Cost    2 tokens (seq + 1) heads d_head flops, half as many exponentials / d_head; reads every input once, but k and v again for each part of a head:
///         heads are cut in parts only where sequences times kv_heads are fewer than 4 per thread.
/// Source  Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245 (grouped queries).
template <attention_shape C, class T>
void attention(cpu const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k, in<T, dyn, dyn> v, index_t seq, tensor<T, dyn, dyn> o,
               std::type_identity_t<tensor<accumulator<T>, dyn, dyn>> lse, arena& scratch) {
  detail::check_attention<C>(q, k, v, seq, o, lse);
  index_t const tokens = o.template extent<0>();
  if (tokens == 0) return;
  detail::check_scratch("attention", scratch, attention_scratch_bytes<C, T>(space, tokens, seq));
  detail::attend<detail::attention_head<C.d_head, T>, C.heads, C.kv_heads, T>(space, {q, k, v, o, lse}, {tokens / seq, seq, 0}, scratch);
}

/// Attention of n new rows after a cache of `position` rows: row i sees keys 0 .. position + i, which the caller has put into the cache, the new ones included.
///
///   q        [n, heads * d_head]            in
///   k_cache  [capacity, kv_heads * d_head]  in   rows beyond position + n are not read
///   v_cache  [capacity, kv_heads * d_head]  in
///   o        [n, heads * d_head]            out  the same bits as rows position .. position + n - 1 of attention() over the whole sequence
///
/// Edges   n == 0 writes nothing; others as attention().
/// Throws  shape_mismatch if extents disagree or position + n exceeds the capacity; bad_argument if position < 0;
///         out_of_memory if scratch holds less than attention_cached_scratch_bytes.
/// Order   as attention().
/// Cost    4 n (position + n / 2) heads d_head flops; reads the used part of the cache once.
template <attention_shape C, class T>
void attention_cached(cpu const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k_cache, in<T, dyn, dyn> v_cache, index_t position, tensor<T, dyn, dyn> o,
                      arena& scratch) {
  detail::check_attention_cached<C>(q, k_cache, v_cache, position, o);
  index_t const n = o.template extent<0>();
  if (n == 0) return;
  detail::check_scratch("attention_cached", scratch, attention_cached_scratch_bytes<C, T>(space, n, position));
  detail::attend<detail::attention_head<C.d_head, T>, C.heads, C.kv_heads, T>(space, {q, k_cache, v_cache, o, {}}, {1, n, position}, scratch);
}

/// Gradients of attention() from d_o = d loss / d o, with scale = 1 / sqrt(d_head):
///
///   p = exp(s - lse),  D[t] = sum_i d_o[t, i] o[t, i],  d_s[t, u] = p[t, u] (sum_i d_o[t, i] v[u, i] - D[t])
///   d_q[t] = scale sum_u d_s[t, u] k[u],   d_k[u] = sum_t d_s[t, u] (scale q[t]),   d_v[u] = sum_t p[t, u] d_o[t]
///
///   q, k, v, o, lse, d_o  in   as of attention()
///   d_q, d_k, d_v         out  overwritten; may be q, k and v themselves
///
/// Edges   0 tokens write nothing. A NaN reaches d_k[u] and d_v[u] from rows t >= u only, d_q[t] from keys u <= t only.
/// Throws  as attention().
/// Order   sums over i and u: chains of madd, ascending; over t: ascending, head after head of the group; D: lanes, then the tree of sum().
///         However the work is shared out, each gradient is one chain in that order: the same bits for any number of threads and of other sequences.
/// Cost    5 tokens (seq + 1) heads d_head flops; the scores are computed again, nothing of size seq * seq is kept. Work is shared out by sequence and
///         key/value head; where that would leave more than 2 of 7 threads idle, d_q and then d_k and d_v are computed by parts of a head: 7 tokens
///         (seq + 1) heads d_head flops, and scratch for d_q.
/// Source  Dao 2023, arXiv:2307.08691, algorithm 2.
template <attention_shape C, class T>
void attention_backward(cpu const& space, in<T, dyn, dyn> q, in<T, dyn, dyn> k, in<T, dyn, dyn> v, in<T, dyn, dyn> o,
                        std::type_identity_t<tensor<accumulator<T> const, dyn, dyn>> lse, in<T, dyn, dyn> d_o, index_t seq, tensor<T, dyn, dyn> d_q,
                        std::type_identity_t<tensor<T, dyn, dyn>> d_k, std::type_identity_t<tensor<T, dyn, dyn>> d_v, arena& scratch) {
  using H = detail::attention_head<C.d_head, T>;
  detail::attention_gradient<T> const g{q, k, v, o, lse, d_o, d_q, d_k, d_v};
  detail::check_attention_backward<C>(g, seq);
  index_t const tokens = q.template extent<0>();
  if (tokens == 0) return;
  detail::check_scratch("attention_backward", scratch, attention_scratch_bytes<C, T>(space, tokens, seq));
  detail::attend_backward<H, C.heads, C.kv_heads>(space, g, seq, scratch);
}

/// Bytes of scratch that attention and attention_backward need for `tokens` rows in sequences of `seq`.
template <attention_shape C, class T>
std::size_t attention_scratch_bytes(cpu const& space, index_t tokens, index_t seq) {
  detail::check_attention_shape<C>();
  using H = detail::attention_head<C.d_head, T>;
  if (tokens == 0) return 0;
  detail::check_sequences("attention_scratch_bytes", tokens, seq);
  arena forward, backward;
  detail::attention_scratch<H>(forward, thread_count(space), C.heads, C.kv_heads, {tokens / seq, seq, 0});
  detail::attention_backward_scratch<H>(backward, thread_count(space), tokens / seq * C.heads, tokens / seq * C.kv_heads, seq);
  return std::max(forward.peak(), backward.peak());
}

/// Bytes of scratch that attention_cached needs for n new rows after `position`. Grows with both: n rows after capacity - n is the most.
template <attention_shape C, class T>
std::size_t attention_cached_scratch_bytes(cpu const& space, index_t n, index_t position) {
  detail::check_attention_shape<C>();
  expects(n >= 0 && position >= 0 && position <= INT64_MAX - n, errc::bad_argument, "attention_cached_scratch_bytes: ", n, " rows after ", position,
          ", must not be negative and must fit 64 bits");
  using H = detail::attention_head<C.d_head, T>;
  index_t const few = std::min(n, detail::few_queries - 1);
  arena many, fewer;
  detail::attention_scratch<H>(many, thread_count(space), C.heads, C.kv_heads, {1, n, position});
  detail::attention_scratch<H>(fewer, thread_count(space), C.heads, C.kv_heads, {1, few, position + n - few});  // so that it grows with n
  return std::max(many.peak(), fewer.peak());
}

}  // namespace moe::inline MOE_ISA
