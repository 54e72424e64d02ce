#pragma once
#include <climits>

#include <moe/core/parallel.hpp>
#include <moe/core/token_groups.hpp>
#include <moe/routing/detail/largest_members.hpp>
#include <moe/routing/detail/row_group.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <index_t E>
void check_expert_choice(char const* who, auto const& logits, token_groups const& pools, index_t capacity) {
  static_assert(E >= 1, "moe::expert_choice: needs at least 1 expert");
  index_t const tokens = logits.template extent<0>();
  check_matrix(who, "logits", logits, tokens, E);
  expects(pools.size >= 1 && pools.sequences % pools.size == 0, errc::bad_argument, who, ": ", pools.sequences,
          " sequences do not make whole pools of ", pools.size);
  expects(pools.tokens() == tokens, errc::shape_mismatch, who, ": pools of ", pools.tokens(), " tokens, logits has ", tokens, " rows");
  expects(tokens <= INT_MAX, errc::bad_argument, who, ": ", tokens, " tokens, at most ", INT_MAX, " can be numbered");
  expects(tokens == 0 || (capacity >= 1 && capacity <= pools.size), errc::bad_argument, who, ": capacity is ", capacity,
          ", needs to be in [1, pools.size = ", pools.size, "]");
}

/// Scores by expert, and what the selection of a column of them needs. Small pools are a worker's own, a few at a time; of a large one all of them.
template <class T, index_t E>
struct expert_choice_scratch {
  using key = score_key<accumulator<T>>;
  static constexpr index_t width = simd<accumulator<T>>::width, small_pool = 512;
  bool shared;             ///< one pool after the other, its scores in memory of all workers
  index_t pools_at_once;   ///< else: of a worker
  index_t members;         ///< of the pools at once, in whole vectors
  index_t pitch;           ///< elements between columns: not a multiple of a page, whose lines would evict each other
  matrix_view<key> score;  ///< [E or workers * E, pitch], and what reading past the last key reads
  matrix_view<key> sample;
  matrix_view<int> place;
  matrix_view<index_t> row;  ///< [workers, members]
  expert_choice_scratch(arena& memory, cpu const& space, token_groups const& pools)
      : shared(pools.size > small_pool), pools_at_once(shared ? 1 : (width + pools.size - 1) / pools.size),
        members(elements(chunks(elements(pools_at_once, pools.size), width), width)), pitch(members + (members > 256 ? width : 0)),
        score(memory.mat<key>(elements(shared ? 1 : thread_count(space), E) + chunks(few_members<key>, pitch), pitch)),
        sample(memory.mat<key>(thread_count(space), member_places(pools.size))),
        place(memory.mat<int>(thread_count(space), member_places(pools.size))), row(memory.mat<index_t>(thread_count(space), shared ? 0 : members)) {}
};

/// The softmax of as many rows as a vector has lanes: the key of expert e and row l is at column[e * pitch + l]. Lane by lane, experts ascending.
template <index_t E, class A, class T>
MOE_INLINE void score_rows(row_group<A, T> const& rows, score_key<A>* column, index_t pitch) {
  using V = simd<A>;
  constexpr A infinity = std::numeric_limits<A>::infinity(), nan = std::numeric_limits<A>::quiet_NaN();
  auto const at = [&](index_t e) { return reinterpret_cast<A*>(column + e * pitch); };
  V x[E], top = V::all(-infinity), sum = V::zero(), block[V::width];
  for (index_t e = 0; e < E; e += V::width) {
    rows.columns(e, E, block);
    for (index_t i = 0; i < V::width && e + i < E; ++i) x[e + i] = block[i], top.v = block[i].v > top.v ? block[i].v : top.v;
  }
  for (V& y : x) {
    y = exp(y - top);
    sum = sum + y;
  }
  V inverse = V::all(A(1)) / sum;
  if (moe::sum(sum - sum) == A(0)) [[likely]] {
    for (index_t e = 0; e < E; ++e) (x[e] * inverse).store(at(e));
  } else {
    for (index_t e = 0; e < E; ++e) V{sum.v == sum.v ? (x[e] * inverse).v : V::all(nan).v}.store(at(e));  // one NaN: its bits are compared
  }
}

/// Scores of n rows row_of(0), row_of(1), ... into columns of `scores`; and those rows of the outputs without choices.
template <index_t E, class T, class F>
void score_members(tensor<T const, dyn, dyn> logits, index_t n, F const& row_of, score_key<accumulator<T>>* scores, index_t pitch,
                   tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  using A = accumulator<T>;
  for (index_t i = 0; i < n; i += simd<A>::width)
    score_rows<E>(row_group<A, T>(logits, n - i, [&](index_t l) { return row_of(i + l); }), scores + i, pitch);
  for (index_t i = 0; i < n; ++i) {
    std::fill_n(weight.row(row_of(i)), E, T(0.0f));
    std::fill_n(expert.row(row_of(i)), E, -1);
  }
}

/// The choice of expert e in the pool of n members row_of(0), row_of(1), ..., whose scores are `score`.
template <class T, index_t E, class F>
void choose_members(expert_choice_scratch<T, E> const& s, score_key<accumulator<T>> const* score, index_t n, F const& row_of, index_t e,
                    index_t capacity, tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  auto const take = [&](index_t member) {
    index_t const row = row_of(member);
    weight.row(row)[e] = T(__builtin_bit_cast(accumulator<T>, score[member]));
    expert.row(row)[e] = static_cast<int>(e);
  };
  if (n <= few_members<score_key<accumulator<T>>>) largest_of_few(score, n, capacity, take);
  else largest_of_many(score, n, capacity, s.place.row(thread_index()), s.sample.row(thread_index()), take);
}

/// The pools [first, last), by one worker.
template <class T, index_t E>
void choose_small_pools(expert_choice_scratch<T, E> const& s, tensor<T const, dyn, dyn> logits, token_groups const& pools, index_t first,
                        index_t last, index_t capacity, tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  index_t const n = pools.size;
  index_t* const row = s.row.row(thread_index());
  for (index_t pool = first, i = 0; pool < last; ++pool)
    for (index_t m = 0, r = pools.row(pool, 0); m < n; ++m, r += pools.length) row[i++] = r;
  auto* const score = s.score.row(thread_index() * E);
  score_members<E, T>(
      logits, (last - first) * n, [=](index_t i) { return row[i]; }, score, s.pitch, weight, expert);
  for (index_t e = 0; e < E; ++e)
    for (index_t i = 0; i < (last - first) * n; i += n)
      choose_members(
          s, score + e * s.pitch + i, n, [=](index_t m) { return row[i + m]; }, e, capacity, weight, expert);
}
}  // namespace detail

/// Bytes of scratch for expert_choice.
template <class T, index_t E>
std::size_t expert_choice_scratch_bytes(cpu const& space, token_groups const& pools) {
  arena measure;
  detail::expert_choice_scratch<T, E>(measure, space, pools);
  return measure.peak();
}

/// Experts choose tokens: with p[t, :] = softmax(logits[t, :]) over the experts, expert e takes of each pool the `capacity` tokens of largest p[t, e]:
///   expert[t, e] = e,  weight[t, e] = p[t, e]   where expert e took token t;   -1 and 0 elsewhere
/// Every expert gets capacity tokens of each pool, so the load is balanced without a loss; a token gets as many experts as want it, 0 to all of them,
/// on average experts * capacity / pools.size.
///
/// A token's experts depend on the other tokens of its pool. One pool of the whole batch (one_group) lets later positions decide about earlier ones: a
/// language model trained so sees the future, and cannot be decoded as it was trained. Pools of examples at one position (groups_of) are causal.
///
///   logits    [tokens, experts]  in
///   pools                        in   which rows of a batch stand for election together
///   capacity                     in   tokens that an expert takes of a pool, in [1, pools.size]
///   weight    [tokens, experts]  out
///   expert    [tokens, experts]  out  what make_dispatch takes, with k = experts
///
/// Edges   tokens == 0 writes nothing. Ties: the earlier member of the pool. A row whose largest logit is NaN or infinite (either sign) has scores of
///         NaN, which rank above all others: it is taken, its weights are NaN, the ids are valid. capacity == pools.size takes everything: weight is the
///         softmax.
/// Throws  shape_mismatch if extents disagree; bad_argument for pools that are not whole or a capacity outside [1, pools.size]; out_of_memory if scratch
///         holds less than expert_choice_scratch_bytes.
/// Order   one worker per row of logits: experts ascending in one chain. The choice is of integers. The same bits for any number of threads.
/// Cost    one exponential per logit; scores are laid out by expert, so that a row is a lane. Of a pool of more than 512 tokens each expert looks closely
///         at those alone that pass a bound taken from a sample of 256; of a pool that fits four vectors it takes the largest `capacity` times.
/// Source  Zhou et al. 2022, arXiv:2202.09368, section 3.2.
template <class T, index_t E>
void expert_choice(cpu const& space, in<T, dyn, dyn> logits, token_groups pools, index_t capacity, tensor<T, dyn, E> weight,
                   tensor<int, dyn, E> expert, arena& scratch) {
  char const* const name = "expert_choice";
  detail::check_expert_choice<E>(name, logits, pools, capacity);
  detail::check_matrix(name, "weight", weight, pools.tokens(), E);
  detail::check_matrix(name, "expert", expert, pools.tokens(), E);
  if (pools.tokens() == 0) return;
  detail::check_scratch(name, scratch, expert_choice_scratch_bytes<T, E>(space, pools));
  arena::scope const scope(scratch);
  detail::expert_choice_scratch<T, E> const s(scratch, space, pools);
  index_t const count = pools.count(), at_once = s.pools_at_once;
  if (!s.shared)
    return parallel_for(space, (count + at_once - 1) / at_once, 20.0 * static_cast<double>(s.members * E), [&](index_t u) {
      detail::choose_small_pools<T, E>(s, logits, pools, u * at_once, std::min((u + 1) * at_once, count), capacity, weight, expert);
    });
  for (index_t pool = 0; pool < count; ++pool) {
    auto const row_of = [first = pools.row(pool, 0), step = pools.length](index_t member) { return first + member * step; };
    parallel_chunks(space, pools.size, s.width, 10.0 * E, [&](index_t, index_t begin, index_t end) {
      auto const of = [&](index_t i) { return row_of(begin + i); };
      detail::score_members<E, T>(logits, end - begin, of, s.score.data() + begin, s.pitch, weight, expert);
    });
    parallel_for(space, E, static_cast<double>(pools.size),
                 [&](index_t e) { detail::choose_members(s, s.score.row(e), pools.size, row_of, e, capacity, weight, expert); });
  }
}

namespace detail {
template <index_t E>
void check_expert_choice_backward(auto const& logits, auto const& expert, auto const& d_weight, auto const& d_logits) {
  char const* const name = "expert_choice_backward";
  index_t const tokens = logits.template extent<0>();
  check_matrix(name, "logits", logits, tokens, E);
  check_matrix(name, "expert", expert, tokens, E);
  check_matrix(name, "d_weight", d_weight, tokens, E);
  check_matrix(name, "d_logits", d_logits, tokens, E);
}

/// The first n elements of d where there is a choice, 0 elsewhere.
template <class A, class T>
MOE_INLINE simd<A> chosen_gradient(T const* d, int const* expert, index_t n) {
  using V = simd<A>;
  using L = lane_integers<A>;
  typename L::vector id;
  if constexpr (sizeof(A) == 4) {
    if (n >= V::width) std::memcpy(&id, expert, sizeof id);
    else id = L::all(-1), std::memcpy(&id, expert, static_cast<std::size_t>(n) * sizeof *expert);
  } else {
    for (int l = 0; l < V::width; ++l) id[l] = l < n ? expert[l] : -1;
  }
  return {id >= L::all(0) ? V::load(d, n).v : V::zero().v};
}
}  // namespace detail

/// Gradient of expert_choice, the selection held fixed. With p the softmax of row t, and c = d_weight[t, e] where an expert took the token, else 0:
///   d_logits[t, e] = p_e (c_e - sum_i p_i c_i)
///
///   logits    [tokens, experts]  in
///   expert    [tokens, experts]  in   what expert_choice wrote: an id that is negative is no choice
///   d_weight  [tokens, experts]  in   read where there is a choice
///   d_logits  [tokens, experts]  out  overwritten; may be d_weight itself, must not overlap logits
///
/// Edges   tokens == 0 writes nothing. A token that no expert took gets zeros. A row without a softmax gets NaN.
/// Throws  shape_mismatch if extents disagree.
/// Order   one worker per row; sums over experts in one chain per vector lane, then a fixed tree.
/// Cost    one exponential per logit, one pass.
template <class T, index_t E, index_t R, index_t C>
void expert_choice_backward(cpu const& space, in<T, dyn, dyn> logits, in<int, dyn, E> expert, in<T, dyn, dyn> d_weight,
                            tensor<T, R, C> const& d_logits) {
  using A = accumulator<T>;
  using V = simd<A>;
  detail::check_expert_choice_backward<E>(logits, expert, d_weight, d_logits);
  parallel_for(space, logits.template extent<0>(), 10.0 * E, [&](index_t t) {
    constexpr index_t vectors = (E + V::width - 1) / V::width;
    T const* const row = logits.row(t);
    V const top = V::all(detail::largest_logit<A>(row, E));
    V x[vectors], c[vectors], total = V::zero(), dot = V::zero();
    for (index_t v = 0, e = 0; v < vectors; ++v, e += V::width) {
      x[v] = exp(detail::load_logits<A>(row + e, E - e) - top);
      c[v] = detail::chosen_gradient<A>(d_weight.row(t) + e, expert.row(t) + e, E - e);
      total = total + x[v];
      dot = madd(x[v], c[v], dot);
    }
    V const inverse = V::all(A(1) / sum(total)), mean = V::all(sum(dot)) * inverse;
    for (index_t v = 0, e = 0; v < vectors; ++v, e += V::width) (x[v] * inverse * (c[v] - mean)).store(d_logits.row(t) + e, E - e);
  });
}

}  // namespace moe::inline MOE_ISA
