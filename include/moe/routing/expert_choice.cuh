#pragma once
#include <moe/core/block.cuh>
#include <moe/routing/detail/softmax_row.cuh>
#include <moe/routing/expert_choice.hpp>

namespace moe::inline MOE_ISA {

struct expert_choice_tuning {
  index_t small_pool = 1024;  ///< members that a warp looks through; a block does where there are more
};

namespace detail {

inline constexpr int choice_threads = 512;

/// The bits of a score, which compare as the scores do; all NaN are one, above the others.
template <class A>
__device__ score_key<A> key_of_score(A p) {
  constexpr score_key<A> nan = sizeof(A) == 4 ? score_key<A>(0x7fc00000) : score_key<A>(0x7ff8000000000000);
  return p == p ? __builtin_bit_cast(score_key<A>, p) : nan;
}

template <class A>
struct cuda_expert_choice_scratch {
  using key = score_key<A>;
  matrix_view<key> score;  ///< [pools * experts, pools.size]
  vector_view<key> least;  ///< [pools * experts]  the smallest score that is taken
  vector_view<int> last;   ///< [pools * experts]  the last member that is taken with it
  cuda_expert_choice_scratch(arena& memory, token_groups const& pools, index_t experts)
      : score(memory.mat<key>(elements(pools.count(), experts), pools.size)), least(memory.vec<key>(elements(pools.count(), experts))),
        last(memory.vec<int>(elements(pools.count(), experts))) {}
};

/// Column i of the launch is member i % size of pool i / size: the softmax of its row, experts ascending in one chain, so that neighbouring threads write
/// neighbours.
template <int E, class A, class T>
struct score_member {
  tensor<T const, dyn, dyn> logits;
  token_groups pools;
  tensor<score_key<A>, dyn, dyn> score;
  __device__ void operator()(index_t, index_t i) const {
    index_t const pool = i / pools.size, member = i % pools.size;
    T const* const row = logits.row(pools.row(pool, member));
    A top = -static_cast<A>(__builtin_inff()), sum = 0;
    for (int e = 0; e < E; ++e) top = static_cast<A>(row[e]) > top ? static_cast<A>(row[e]) : top;
    for (int e = 0; e < E; ++e) sum += exp_scalar(static_cast<A>(row[e]) - top);
    A const inverse = A(1) / sum;
    for (int e = 0; e < E; ++e) score(pool * E + e, member) = key_of_score(product(exp_scalar(static_cast<A>(row[e]) - top), inverse));
  }
};

/// Threads that look through a column of scores together: a warp, or a block.
struct warp_team {
  int rank;
  static constexpr int size = lanes;
  __device__ int sum(int x) { return warp_sum(x); }
};
struct block_team {
  int rank;
  warp_partials<int, choice_threads>* partials;  ///< two, by turns: a sum has one barrier
  int turn = 0;
  static constexpr int size = choice_threads;
  __device__ int sum(int x) {
    turn = 1 - turn;
    return block_sum<choice_threads>(x, partials[turn]);
  }
};

/// What the capacity largest of n keys have in common: they are above `least`, or equal to it and not behind `last`. Bit by bit from the top, the largest
/// number that capacity keys reach; then, where more keys than are left equal it, likewise the place. All threads of the team call it.
template <class Key, class Team>
__device__ void choose_column(Team team, Key const* key, int n, int capacity, Key& least, int& last) {
  auto const count = [&](auto const& counted) {
    int mine = 0;
    for (int i = team.rank; i < n; i += Team::size) mine += counted(i) ? 1 : 0;
    return team.sum(mine);
  };
  Key found = 0;
  int reached = n;
  for (int bit = static_cast<int>(8 * sizeof(Key)) - 2; bit >= 0 && reached != capacity; --bit) {
    Key const next = found | (Key(1) << bit);
    struct reaches {
      Key const* key;
      Key least;
      __device__ bool operator()(int i) const { return key[i] >= least; }
    };
    int const those = count(reaches{key, next});
    if (those >= capacity) found = next, reached = those;
  }
  int end = n;  // of the members that may equal `found`
  if (reached != capacity) {
    struct taken {
      Key const* key;
      Key least;
      int end;
      __device__ bool operator()(int i) const { return key[i] > least || (key[i] == least && i < end); }
    };
    int begin = 0;  // with this end too few are taken, or just enough with `end`
    while (end - begin > 1) {
      int const middle = begin + (end - begin) / 2;
      if (count(taken{key, found, middle}) >= capacity) end = middle;
      else begin = middle;
    }
  }
  least = found, last = end - 1;
}

template <class Key>
struct choose_by_warp {
  tensor<Key const, dyn, dyn> score;
  tensor<Key, dyn> least;
  tensor<int, dyn> last;
  int capacity;
  __device__ void operator()(index_t column, int lane) const {
    Key from = 0;
    int to = 0;
    choose_column(warp_team{lane}, score.row(column), static_cast<int>(score.template extent<1>()), capacity, from, to);
    if (lane == 0) least(column) = from, last(column) = to;
  }
};

struct choice_layout {
  warp_partials<int, choice_threads> partials[2];
};
/// A block per column.
template <class Key>
__global__ void __launch_bounds__(choice_threads)
    choose_kernel(tensor<Key const, dyn, dyn> score, tensor<Key, dyn> least, tensor<int, dyn> last, int capacity) {
  choice_layout& shared = ptx::dynamic_shared<choice_layout>();
  for (index_t column = blockIdx.x; column < score.template extent<0>(); column += gridDim.x) {
    Key from = 0;
    int to = 0;
    choose_column(block_team{static_cast<int>(threadIdx.x), shared.partials}, score.row(column), static_cast<int>(score.template extent<1>()),
                  capacity, from, to);
    if (threadIdx.x == 0) least(column) = from, last(column) = to;
    __syncthreads();  // the next column begins with the first of the partial sums again
  }
}

/// Row i of the launch is member i % size of pool i / size.
template <int E, class A, class T>
struct write_choice {
  token_groups pools;
  tensor<score_key<A> const, dyn, dyn> score;
  tensor<score_key<A> const, dyn> least;
  tensor<int const, dyn> last;
  tensor<T, dyn, E> weight;
  tensor<int, dyn, E> expert;
  __device__ void operator()(index_t i, index_t e) const {
    index_t const pool = i / pools.size, member = i % pools.size, column = pool * E + e, row = pools.row(pool, member);
    score_key<A> const key = score(column, member);
    bool const taken = key > least(column) || (key == least(column) && member <= last(column));
    weight.row(row)[e] = taken ? T(__builtin_bit_cast(A, key)) : T(0.0f);
    expert.row(row)[e] = taken ? static_cast<int>(e) : -1;
  }
};
}  // namespace detail

/// Bytes of scratch for expert_choice(cuda).
template <class T, index_t E>
std::size_t expert_choice_scratch_bytes(cuda const& /*space*/, token_groups const& pools) {
  arena measure;
  detail::cuda_expert_choice_scratch<accumulator<T>>(measure, pools, E);
  return measure.peak();
}

/// The contract of expert_choice(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Order   scores by a thread per row, experts ascending: in float and bf16 the bits of the CPU operator, and so its choice.
/// Cost    three kernels. A column of scores is looked through once per bit of the smallest score taken, by a warp or, in pools of more than
///         expert_choice_tuning::small_pool tokens, by a block; and where that score has ties, again once per bit of the place.
template <class T, index_t E, expert_choice_tuning P = expert_choice_tuning{}>
void expert_choice(cuda const& space, in<T, dyn, dyn> logits, token_groups pools, index_t capacity, tensor<T, dyn, E> weight,
                   tensor<int, dyn, E> expert, arena& scratch) {
  using A = accumulator<T>;
  using key = detail::score_key<A>;
  char const* const name = "expert_choice";
  detail::check_expert_choice<E>(name, logits, pools, capacity);
  detail::check_matrix(name, "weight", weight, pools.tokens(), E);
  detail::check_matrix(name, "expert", expert, pools.tokens(), E);
  index_t const tokens = pools.tokens(), columns = pools.count() * E;
  if (tokens == 0) return;
  detail::check_scratch(name, scratch, expert_choice_scratch_bytes<T, E>(space, pools));
  arena::scope const scope(scratch);
  detail::cuda_expert_choice_scratch<A> const s(scratch, pools, E);
  constexpr int experts = static_cast<int>(E);
  int const taken = static_cast<int>(capacity);
  for_each_element(name, space, 1, tokens, detail::score_member<experts, A, T>{logits, pools, s.score});
  if (pools.size <= P.small_pool) for_each_row(name, space, columns, detail::choose_by_warp<key>{s.score, s.least, s.last, taken});
  else
    launch(name, detail::choose_kernel<key>, {.blocks = columns, .threads = detail::choice_threads, .shared_bytes = sizeof(detail::choice_layout)},
           space, s.score, s.least, s.last, taken);
  for_each_element(name, space, tokens, E, detail::write_choice<experts, A, T>{pools, s.score, s.least, s.last, weight, expert});
}

namespace detail {
template <int E, class T>
struct expert_choice_gradient {
  tensor<T const, dyn, dyn> logits;
  tensor<int const, dyn, E> expert;
  tensor<T const, dyn, dyn> d_weight;
  tensor<T, dyn, dyn> d_logits;
  __device__ void operator()(index_t t, int lane) const {
    using A = accumulator<T>;
    T const* const row = logits.row(t);
    A const top = warp_largest_logit<A>(row, E, lane);
    A sum = 0, dot = 0;
#pragma unroll 1  // the exponentials of double are calls, beside which unrolled copies would not fit the registers
    for (int e = lane; e < E; e += lanes) {
      A const x = exp_scalar(static_cast<A>(row[e]) - top), c = expert.row(t)[e] >= 0 ? static_cast<A>(d_weight.row(t)[e]) : A(0);
      sum += x;
      dot = madd(x, c, dot);
    }
    A const inverse = A(1) / warp_sum(sum), mean = product(warp_sum(dot), inverse);
#pragma unroll 1
    for (int e = lane; e < E; e += lanes) {
      A const x = exp_scalar(static_cast<A>(row[e]) - top), c = expert.row(t)[e] >= 0 ? static_cast<A>(d_weight.row(t)[e]) : A(0);
      d_logits.row(t)[e] = T(product(product(x, inverse), c - mean));
    }
  }
};
}  // namespace detail

/// The contract of expert_choice_backward(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Order   one warp per row: one chain per lane, then a tree of halves.
template <class T, index_t E, index_t R, index_t C>
void expert_choice_backward(cuda const& space, in<T, dyn, dyn> logits, in<int, dyn, E> expert, in<T, dyn, dyn> d_weight,
                            tensor<T, R, C> const& d_logits) {
  detail::check_expert_choice_backward<E>(logits, expert, d_weight, d_logits);
  for_each_row("expert_choice_backward", space, logits.template extent<0>(),
               detail::expert_choice_gradient<static_cast<int>(E), T>{logits, expert, d_weight, d_logits});
}

}  // namespace moe::inline MOE_ISA
