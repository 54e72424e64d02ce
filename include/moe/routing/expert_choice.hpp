#pragma once
#include <climits>
#include <cstring>

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

/// Scores by expert, and what the selection of a column of them needs and finds. Small pools are a worker's own, a few at a time; of a large one all.
template <class T, index_t E>
struct expert_choice_scratch {
  using key = score_key<accumulator<T>>;
  static constexpr index_t width = simd<accumulator<T>>::width, small_pool = 512, padded = (E + width - 1) / width * width;
  bool shared;             ///< one pool after the other, its scores in memory of all workers
  index_t pools_at_once;   ///< else: of a worker
  index_t members;         ///< of the pools at once, in whole vectors
  index_t pitch;           ///< elements between columns: not a multiple of a page, whose lines would evict each other
  matrix_view<key> score;  ///< [E or workers * E, pitch], and what reading past the last key reads
  matrix_view<key> sample;
  matrix_view<key> least, last;  ///< [pools at once or workers * them, padded]  taken_keys of each expert
  matrix_view<index_t> row;      ///< [workers, members]
  expert_choice_scratch(arena& memory, cpu const& space, token_groups const& pools)
      : shared(pools.size > small_pool), pools_at_once(shared ? 1 : (width + pools.size - 1) / pools.size),
        members(elements(chunks(elements(pools_at_once, pools.size), width), width)), pitch(members + (members > 256 ? width : 0)),
        score(memory.mat<key>(elements(owners(space), E) + chunks(few_members<key>, pitch), pitch)),
        sample(memory.mat<key>(thread_count(space), sample_keys(pools.size))), least(memory.mat<key>(elements(owners(space), pools_at_once), padded)),
        last(memory.mat<key>(elements(owners(space), pools_at_once), padded)), row(memory.mat<index_t>(thread_count(space), shared ? 0 : members)) {}
  index_t owners(cpu const& space) const { return shared ? 1 : thread_count(space); }
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

/// Scores of n rows row_of(0), row_of(1), ... into columns of `scores`.
template <index_t E, class T, class F>
void score_members(tensor<T const, dyn, dyn> logits, index_t n, F const& row_of, score_key<accumulator<T>>* scores, index_t pitch) {
  using A = accumulator<T>;
  for (index_t i = 0; i < n; i += simd<A>::width)
    score_rows<E>(row_group<A, T>(logits, n - i, [&](index_t l) { return row_of(i + l); }), scores + i, pitch);
}

/// What expert e takes of a pool, whose scores are `score`.
template <class T, index_t E>
void choose_members(expert_choice_scratch<T, E> const& s, score_key<accumulator<T>> const* score, index_t n, index_t pool, index_t e,
                    index_t capacity) {
  using key = score_key<accumulator<T>>;
  taken_keys<key> const t =
      n <= few_members<key> ? largest_of_few(score, n, capacity) : largest_of_many(score, n, capacity, s.sample.row(thread_index()));
  s.least(pool, e) = t.least, s.last(pool, e) = t.last;
}

/// Of the scores of a row by experts e, e + 1, ..., of which the first n exist, those that the taken_keys of each expert say.
template <class A, class T>
MOE_INLINE void write_row(simd<A> score, score_key<A> const* least, score_key<A> const* last, score_key<A> member, index_t e, index_t n, T* weight,
                          int* expert) {
  using L = lane_integers<A>;
  using keys = typename L::vector;
  keys bound, behind, id;
  std::memcpy(&bound, least, sizeof bound);
  std::memcpy(&behind, last, sizeof behind);
  bound -= behind < L::all(member);  // a comparison that holds is -1: behind the last tie a key has to be larger
  auto const taken = __builtin_bit_cast(keys, score.v) >= bound;
  simd<A>{taken ? score.v : simd<A>::zero().v}.store(weight, n);
  id = taken ? L::iota() + L::all(static_cast<score_key<A>>(e)) : L::all(-1);
  if constexpr (sizeof(A) == 4) {
    if (n >= simd<A>::width) return void(std::memcpy(expert, &id, sizeof id));
  }
  for (int l = 0; l < simd<A>::width && l < n; ++l) expert[l] = static_cast<int>(id[l]);
}

/// Writes the choices of n rows row_of(0), row_of(1), ...: the first is member `member` of a pool of `size`, whose taken_keys are row `pool` of s.
template <class T, index_t E, class F>
void write_choices(expert_choice_scratch<T, E> const& s, index_t n, F const& row_of, score_key<accumulator<T>> const* scores, index_t pool,
                   index_t member, index_t size, tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  using V = simd<accumulator<T>>;
  using key = score_key<accumulator<T>>;
  struct {
    T* weight;
    int* expert;
    key const *least, *last;
    key member;
  } row[V::width];
  for (index_t i = 0; i < n; i += V::width) {
    index_t const rows = n - i < V::width ? n - i : V::width;
    for (index_t l = 0; l < rows; ++l) {
      index_t const at = row_of(i + l);
      row[l] = {weight.row(at), expert.row(at), s.least.row(pool), s.last.row(pool), static_cast<key>(member)};
      if (++member == size) member = 0, ++pool;
    }
    for (index_t e = 0; e < E; e += V::width) {
      V block[V::width];
      for (index_t j = 0; j < V::width; ++j)
        block[j] = V::load(reinterpret_cast<accumulator<T> const*>(scores + (e + j < E ? e + j : E - 1) * s.pitch + i));
      transpose(block);
      for (index_t l = 0; l < rows; ++l)
        write_row(block[l], row[l].least + e, row[l].last + e, row[l].member, e, E - e, row[l].weight + e, row[l].expert + e);
    }
  }
}

/// The pools [first, last), by one worker.
template <class T, index_t E>
void choose_small_pools(expert_choice_scratch<T, E> const& s, tensor<T const, dyn, dyn> logits, token_groups const& pools, index_t first,
                        index_t last, index_t capacity, tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  index_t const n = pools.size, members = (last - first) * n, mine = thread_index() * s.pools_at_once;
  index_t* const row = s.row.row(thread_index());
  for (index_t pool = first, i = 0; pool < last; ++pool)
    for (index_t m = 0, r = pools.row(pool, 0); m < n; ++m, r += pools.length) row[i++] = r;
  auto* const score = s.score.row(thread_index() * E);
  auto const row_of = [row](index_t i) { return row[i]; };
  score_members<E, T>(logits, members, row_of, score, s.pitch);
  for (index_t e = 0; e < E; ++e)
    for (index_t pool = 0; pool < last - first; ++pool) choose_members(s, score + e * s.pitch + pool * n, n, mine + pool, e, capacity);
  write_choices(s, members, row_of, score, mine, 0, n, weight, expert);
}

/// One pool, by all workers.
template <class T, index_t E>
void choose_large_pool(cpu const& space, expert_choice_scratch<T, E> const& s, tensor<T const, dyn, dyn> logits, token_groups const& pools,
                       index_t pool, index_t capacity, tensor<T, dyn, E> const& weight, tensor<int, dyn, E> const& expert) {
  auto const row_of = [first = pools.row(pool, 0), step = pools.length](index_t member) { return first + member * step; };
  constexpr index_t chunk = 64;
  parallel_chunks(space, pools.size, chunk, 10.0 * E, [&](index_t, index_t begin, index_t end) {
    score_members<E, T>(
        logits, end - begin, [&](index_t i) { return row_of(begin + i); }, s.score.data() + begin, s.pitch);
  });
  parallel_for(space, E, static_cast<double>(pools.size), [&](index_t e) { choose_members(s, s.score.row(e), pools.size, 0, e, capacity); });
  parallel_chunks(space, pools.size, chunk, 4.0 * E, [&](index_t, index_t begin, index_t end) {
    write_choices(
        s, end - begin, [&](index_t i) { return row_of(begin + i); }, s.score.data() + begin, 0, begin, pools.size, weight, expert);
  });
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
  if (!s.shared) {
    constexpr index_t neighbours =
        4;  // positions beside each other lie beside each other: whoever has the next one fights for the lines fetched ahead
    return parallel_chunks(
        space, (count + at_once - 1) / at_once, neighbours, 20.0 * static_cast<double>(s.members * E), [&](index_t, index_t begin, index_t end) {
          for (index_t u = begin; u < end; ++u)
            detail::choose_small_pools<T, E>(s, logits, pools, u * at_once, std::min((u + 1) * at_once, count), capacity, weight, expert);
        });
  }
  for (index_t pool = 0; pool < count; ++pool) detail::choose_large_pool<T, E>(space, s, logits, pools, pool, capacity, weight, expert);
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
