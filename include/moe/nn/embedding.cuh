#pragma once
#include <limits>

#include <moe/core/detail/counting_sort.cuh>
#include <moe/core/vectors.cuh>
#include <moe/nn/embedding.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

template <class T>
struct embedding_pack {
  tensor<int const, dyn> token;
  tensor<T const, dyn, dyn> table;
  tensor<T, dyn, dyn> y;
  __device__ void operator()(index_t t, index_t p) const {
    index_t const c = p * pack_size<T>, n = y.template extent<1>() - c, v = token(t);
    if (v >= 0 && v < table.template extent<0>()) return store_vector(y.row(t) + c, load_vector(table.row(v) + c, n), n);
    ptx::vector16<T> nothing;
    for (auto& x : nothing.v) x = T(__builtin_bit_cast(float, 0x7fc00000u));  // NaN
    store_vector(y.row(t) + c, nothing, n);
  }
};

struct token_key {
  tensor<int const, dyn> token;
  __device__ index_t operator()(index_t t) const { return token(t); }
};

/// The positions of each token, ascending: position(offset(v)) .. position(offset(v + 1) - 1) for token v.
struct device_positions {
  index_t chunk;
  int* rank;
  tensor<int, dyn, dyn> count;
  tensor<index_t, dyn> total, offset;
  tensor<int, dyn> position;

  /// Many chunks sort in parallel, but each has a count of every vocabulary row: not more of those than is worth the memory.
  static index_t chunk_for(index_t tokens, index_t vocab) {
    index_t const most = std::max<index_t>(8, 4 * tokens / std::max<index_t>(vocab, 1)), chunks = std::min((tokens + 511) / 512, most);
    return (tokens + chunks - 1) / std::max<index_t>(chunks, 1);
  }
  device_positions(arena& a, index_t tokens, index_t vocab)
      : chunk(std::max<index_t>(chunk_for(tokens, vocab), 1)), rank(a.take<int>(tokens)), count(a.mat<int>((tokens + chunk - 1) / chunk, vocab)),
        total(a.vec<index_t>(vocab)), offset(a.vec<index_t>(vocab + 1)), position(a.vec<int>(tokens)) {}
};

struct place_token {
  tensor<int const, dyn> token;
  device_positions to;
  __device__ void operator()(index_t, index_t t) const {
    if (to.rank[t] < 0) return;  // out of range
    index_t const v = token(t);
    to.position(to.offset(v) + to.count(t / to.chunk, v) + to.rank[t]) = static_cast<int>(t);
  }
};

inline void sort_tokens(char const* name, cuda const& space, tensor<int const, dyn> token, device_positions const& to) {
  rank_by_key(name, space, token.size(), to.chunk, token_key{token}, to.rank, to.count, to.total);
  offsets_of_keys(name, space, to.total, token.size(), to.offset);
  for_each_element(name, space, 1, token.size(), place_token{token, to});
}

/// Position i in sorted order: the first of a token's positions adds all of them to the token's row.
template <class T>
struct embedding_backward_pack {
  tensor<int const, dyn> token;
  device_positions sorted;
  tensor<T const, dyn, dyn> d_y;
  tensor<accumulator<T>, dyn, dyn> d_table;
  __device__ void operator()(index_t i, index_t p) const {
    constexpr int N = pack_size<T>;
    if (i >= sorted.offset(d_table.template extent<0>())) return;
    index_t const v = token(sorted.position(i)), end = sorted.offset(v + 1);
    if (sorted.offset(v) != i) return;
    index_t const c = p * N, n = d_table.template extent<1>() - c;
    auto sum = load_pack<N>(d_table.row(v) + c, n);
#pragma unroll 4
    for (index_t j = i; j < end; ++j) {
      auto const x = load_pack<N>(d_y.row(sorted.position(j)) + c, n);
      for (int k = 0; k < N; ++k) sum.v[k] += x.v[k];
    }
    store_pack(d_table.row(v) + c, sum, n);
  }
};
}  // namespace detail

/// The contract of embedding(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   a token out of range is not seen by the host: its row of y is NaN.
/// Cost    a thread per 16 bytes of y.
template <class T>
void embedding(cuda const& space, in<int, dyn> token, in<T, dyn, dyn> table, tensor<T, dyn, dyn> y) {
  index_t const d = table.template extent<1>();
  detail::check_matrix("embedding", "y", y, token.size(), d);
  for_each_element("embedding", space, token.size(), detail::packs<T>(d), detail::embedding_pack<T>{token, table, y});
}

/// Bytes of scratch of embedding_backward.
inline std::size_t embedding_backward_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t vocab) {
  arena measure;
  detail::device_positions(measure, tokens, vocab);
  return measure.peak();
}

/// The contract of embedding_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   a token out of range is not seen by the host: its row of d_y is left out.
/// Throws  also bad_argument for 2^31 tokens or more.
/// Order   that of the CPU, with its bits: no atomics, the positions are sorted by counting.
/// Cost    a sort with up to max(8 vocab, 4 tokens) counts; then a thread per 16 bytes of d_y, where one thread takes all rows of a token in turn.
template <class T, index_t R, index_t D>
void embedding_backward(cuda const& space, in<int, dyn> token, tensor<T, R, D> const& d_y, tensor<accumulator<T>, dyn, dyn> d_table, arena& scratch) {
  using S = std::remove_const_t<T>;
  index_t const vocab = d_table.template extent<0>(), d = d_table.template extent<1>(), tokens = token.size();
  detail::check_matrix("embedding_backward", "d_y", d_y, tokens, d);
  index_t const most = std::numeric_limits<int>::max();
  expects(tokens <= most, errc::bad_argument, "embedding_backward: ", tokens, " tokens, at most ", most);
  if (tokens == 0 || d == 0) return;
  detail::check_scratch("embedding_backward", scratch, embedding_backward_scratch_bytes(space, tokens, vocab));
  arena::scope const scope(scratch);
  detail::device_positions const sorted(scratch, tokens, vocab);
  detail::sort_tokens("embedding_backward", space, token, sorted);
  for_each_element("embedding_backward", space, tokens, detail::packs<S>(d), detail::embedding_backward_pack<S>{token, sorted, d_y, d_table});
}

}  // namespace moe::inline MOE_ISA
