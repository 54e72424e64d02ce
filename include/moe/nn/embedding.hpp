#pragma once
#include <moe/core/buffer.hpp>
#include <moe/nn/detail/vectors.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline void check_tokens(char const* op, vector_view<int const> token, index_t vocab) {
  for (index_t t = 0; t < token.size(); ++t)
    expects(token.data()[t] >= 0 && token.data()[t] < vocab, errc::bad_argument, op, ": token[", t, "] is ", token.data()[t], ", needs to be in [0, ",
            vocab, ")");
}

/// The positions of each token, ascending: order[end(v - 1) .. end(v)) for token v.
struct token_positions {
  vector_view<index_t> end, order;
  token_positions(arena& a, index_t tokens, index_t vocab) : end(a.vec<index_t>(vocab)), order(a.vec<index_t>(tokens)) {}

  void sort(vector_view<int const> token) const {  // by counting
    index_t* const next = end.data();
    std::fill_n(next, end.size(), index_t{0});
    for (index_t t = 0; t < token.size(); ++t) ++next[token.data()[t]];
    for (index_t v = 0, first = 0; v < end.size(); ++v) first += std::exchange(next[v], first);
    for (index_t t = 0; t < token.size(); ++t) order.data()[next[token.data()[t]]++] = t;
  }
  index_t begin_of(index_t v) const { return v == 0 ? 0 : end.data()[v - 1]; }
};
}  // namespace detail

/// y[t] = table[token[t]]
///
///   token  [tokens]      in   in [0, vocab)
///   table  [vocab, d]    in
///   y      [tokens, d]   out
///
/// Edges   tokens == 0 writes nothing.
/// Throws  bad_argument with position and value of the first token out of range; shape_mismatch if the shapes differ.
/// Order   no sums.
/// Cost    reads and writes tokens * d elements.
template <class T>
void embedding(cpu const& space, in<int, dyn> token, in<T, dyn, dyn> table, tensor<T, dyn, dyn> y) {
  index_t const d = table.template extent<1>();
  detail::check_matrix("embedding", "y", y, token.size(), d);
  detail::check_tokens("embedding", token, table.template extent<0>());
  parallel_for(space, token.size(), static_cast<double>(d), [&](index_t t) { std::copy_n(table.row(token.data()[t]), d, y.row(t)); });
}

/// Bytes of scratch of embedding_backward.
inline std::size_t embedding_backward_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t vocab) {
  arena measure;
  detail::token_positions(measure, tokens, vocab);
  return measure.peak();
}

/// d_table[v] += sum of d_y[t] over the t with token[t] == v
///
///   token    [tokens]      in      in [0, vocab)
///   d_y      [tokens, d]   in
///   d_table  [vocab, d]    in/out  of type accumulator<T>: float where T is bf16; added to; must not overlap d_y.
///                                  Rows of absent tokens are not touched
///
/// Edges   tokens == 0 changes nothing.
/// Throws  bad_argument with position and value of the first token out of range; shape_mismatch if the shapes differ; out_of_memory if scratch holds
///         less than embedding_backward_scratch_bytes.
/// Order   each element of d_table is one chain that starts from what it holds, t ascending.
/// Cost    O(tokens + vocab) integer operations (a counting sort), reads tokens * d elements, reads and writes the rows of the tokens that occur.
template <class T, index_t R, index_t D>
void embedding_backward(cpu const& space, in<int, dyn> token, tensor<T, R, D> const& d_y, tensor<accumulator<T>, dyn, dyn> d_table, arena& scratch) {
  using A = accumulator<T>;
  using V = simd<A>;
  index_t const vocab = d_table.template extent<0>(), d = d_table.template extent<1>(), tokens = token.size();
  detail::check_matrix("embedding_backward", "d_y", d_y, tokens, d);
  detail::check_tokens("embedding_backward", token, vocab);
  if (tokens == 0 || d == 0) return;
  detail::check_scratch("embedding_backward", scratch, embedding_backward_scratch_bytes(space, tokens, vocab));
  arena::scope const scope(scratch);
  detail::token_positions const positions(scratch, tokens, vocab);
  positions.sort(token);
  constexpr index_t block = 128;  // columns per work item: one frequent token is shared by several threads
  index_t const blocks = (d + block - 1) / block;
  double const work = static_cast<double>(tokens) * static_cast<double>(block) / static_cast<double>(vocab);
  parallel_for(space, vocab * blocks, work, [&](index_t item) {
    index_t const v = item / blocks, first = item % blocks * block;
    index_t const *const begin = positions.order.data() + positions.begin_of(v), *const end = positions.order.data() + positions.end.data()[v];
    if (begin == end) return;
    A* const row = d_table.row(v) + first;
    detail::row_vectors<A>(std::min(block, d - first), [&](index_t c, auto n) {
      V sum = V::load(row + c, n);
      for (index_t const* t = begin; t < end; ++t) sum = sum + V::load(d_y.row(*t) + first + c, n);
      sum.store(row + c, n);
    });
  });
}

}  // namespace moe::inline MOE_ISA
