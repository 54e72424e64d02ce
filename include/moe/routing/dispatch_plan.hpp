#pragma once
#include <algorithm>
#include <climits>
#include <utility>

#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/routing/detail/expert_ids.hpp>

namespace moe::inline MOE_ISA {

/// Where each choice of a batch goes. Choice t k + j (a "slot") is the j-th expert of token t, and may be none (-1: expert choice, where tokens have
/// different numbers of experts, a bounded slot each); kept choices become rows, sorted by expert, then by slot. How many rows there are stands in the
/// memory of the space; code that runs in any space takes most_rows.
struct dispatch_plan {
  vector_view<index_t> counts;   ///< [experts]      choices of each expert before capacity
  vector_view<index_t> offsets;  ///< [experts + 1]  rows of expert e are [offsets[e], offsets[e + 1])
  vector_view<int> token;        ///< [tokens * k]   token of each row; -1 behind the last row
  vector_view<int> slot;         ///< [tokens * k]   slot of each row; -1 behind the last row
  vector_view<int> position;     ///< [tokens * k]   row of each slot; -1 if it has none: dropped, or no choice
  index_t k = 0;                 ///< choices per token
  index_t most_rows = 0;         ///< rows that there can be: take() says slots(), who knows that slots stay without a choice may say less

  index_t experts() const { return counts.extent<0>(); }
  index_t slots() const { return position.extent<0>(); }
  /// Choices kept. Reads the plan: only where the host reaches its memory, after space.wait(). Throws where the plan has no memory.
  index_t rows() const {
    expects(offsets.extent<0>() == experts() + 1, errc::shape_mismatch, "dispatch_plan: offsets has ", offsets.extent<0>(), " entries for ",
            experts(), " experts, needs one more");
    return offsets(experts());
  }
  /// Choices beyond capacity. As rows().
  index_t dropped() const {
    index_t choices = 0;
    for (index_t e = 0; e < experts(); ++e) choices += counts(e);
    return choices - rows();
  }

  /// Views for so many choices, not initialised. On a measuring arena: counts the bytes.
  static dispatch_plan take(arena& memory, index_t tokens, index_t k, index_t experts) {
    dispatch_plan p;
    p.counts = memory.vec<index_t>(experts);
    p.offsets = memory.vec<index_t>(experts + 1);
    index_t const slots = detail::elements(tokens, k);
    p.token = memory.vec<int>(slots);
    p.slot = memory.vec<int>(slots);
    p.position = memory.vec<int>(slots);
    p.k = k;
    p.most_rows = slots;
    return p;
  }
};

namespace detail {
/// Histograms of expert ids, one per chunk of tokens.
struct dispatch_scratch {
  static constexpr index_t chunk = 2048;  ///< tokens; where the results, being integers, do not depend on it
  matrix_view<index_t> histogram;         ///< [chunks, >= 1 + experts]  column 1 + e is that of expert e, column 0 that of slots without a choice
  /// A chunk's counts share no cache line with those of another, which another thread adds to.
  dispatch_scratch(arena& memory, index_t tokens, index_t experts)
      : histogram(memory.mat<index_t>(chunks(tokens, chunk), (experts / 8 + 1) * 8)) {}
};

inline void check_plan(char const* who, dispatch_plan const& plan, index_t slots) {
  index_t const experts = plan.experts();
  expects(plan.offsets.extent<0>() == experts + 1, errc::shape_mismatch, who, ": plan.offsets has ", plan.offsets.extent<0>(), " entries for ",
          experts, " experts, needs one more");
  expects(plan.position.extent<0>() == slots && plan.token.extent<0>() == slots && plan.slot.extent<0>() == slots, errc::shape_mismatch, who,
          ": plan is for ", plan.position.extent<0>(), " choices, there are ", slots);
}

inline void check_choices(char const* who, dispatch_plan const& plan, index_t tokens, index_t k) {
  expects(k == plan.k, errc::shape_mismatch, who, ": plan is for ", plan.k, " choices per token, there are ", k);
  check_plan(who, plan, tokens * k);
}

inline void check_dispatch(in<int, dyn, dyn> expert, index_t capacity, dispatch_plan const& plan) {
  index_t const tokens = expert.extent<0>(), k = expert.extent<1>();
  expects(tokens * k <= INT_MAX, errc::bad_argument, "make_dispatch: ", tokens, " tokens of ", k, " choices, at most ", INT_MAX,
          " choices can be numbered");
  expects(capacity >= 0, errc::bad_argument, "make_dispatch: capacity is ", capacity, ", needs to be positive, or 0 for no limit");
  check_choices("make_dispatch", plan, tokens, k);
}

/// Of tokens [begin, end) the choices of each expert, and those without one in count[-1] where rows are short: one store, whatever the id.
inline void count_choices(tensor<int const, dyn, dyn> expert, index_t begin, index_t end, index_t* count) {
  index_t const k = expert.extent<1>();
  if (k < float_lanes) {
    for (index_t t = begin; t < end; ++t)
      for (int const *id = expert.row(t), *last = id + k; id != last; ++id) ++count[*id];
  } else {
    for (index_t t = begin; t < end; ++t) for_each_choice(expert.row(t), k, [&](index_t, int e) { ++count[e]; });
  }
}

/// Turns the counts of each chunk into the row at which the chunk's first choice of each expert goes; fills counts and offsets.
inline void place_chunks(matrix_view<index_t> histogram, index_t capacity, dispatch_plan const& plan) {
  index_t const chunks = histogram.extent<0>(), experts = plan.experts();
  plan.offsets(0) = 0;
  for (index_t c = 0; c < chunks; ++c) histogram(c, 0) = 0;  // not below the limit of slots without a choice, offsets(0): they get no row
  for (index_t e = 0; e < experts; ++e) {
    index_t row = plan.offsets(e);
    for (index_t c = 0; c < chunks; ++c) row += std::exchange(histogram(c, 1 + e), row);
    plan.counts(e) = row - plan.offsets(e);
    plan.offsets(e + 1) = plan.offsets(e) + (capacity > 0 ? std::min(plan.counts(e), capacity) : plan.counts(e));
  }
}

/// Numbers the choices of tokens [begin, end): `next` is the row of the next choice of each expert; next[-1] is not below limit[-1] = 0.
inline void place_choices(tensor<int const, dyn, dyn> expert, index_t begin, index_t end, index_t* next, dispatch_plan const& plan) {
  index_t const k = expert.extent<1>();
  index_t const* const limit = plan.offsets.data() + 1;
  int *const token = plan.token.data(), *const slot = plan.slot.data(), *const position = plan.position.data();
  if (k >= float_lanes) {
    std::fill(position + begin * k, position + end * k, -1);
    for (index_t t = begin; t < end; ++t)
      for_each_choice(expert.row(t), k, [&](index_t j, int e) {
        index_t const row = next[e]++, s = t * k + j;
        if (row < limit[e]) position[s] = static_cast<int>(row), token[row] = static_cast<int>(t), slot[row] = static_cast<int>(s);
      });
    return;
  }
  for (index_t t = begin, s = begin * k; t < end; ++t)
    for (int const *id = expert.row(t), *last = id + k; id != last; ++id, ++s) {
      index_t const row = next[*id]++;
      bool const kept = row < limit[*id];
      position[s] = kept ? static_cast<int>(row) : -1;
      if (kept) token[row] = static_cast<int>(t), slot[row] = static_cast<int>(s);
    }
}
}  // namespace detail

/// Bytes of scratch for make_dispatch.
inline std::size_t make_dispatch_scratch_bytes(cpu const& /*space*/, index_t tokens, index_t experts) {
  arena measure;
  detail::dispatch_scratch(measure, tokens, experts);
  return measure.peak();
}

/// Sorts choices by expert, then by slot t k + j: a stable counting sort. With a capacity, the first `capacity` choices of each expert in slot order
/// are kept and the others dropped.
///
///   expert    [tokens, k]  in   in [0, experts), or -1: the slot has no choice, is counted nowhere and gets no row; a row may name an expert twice:
///                               each choice is a row of its own
///   capacity               in   rows an expert takes at most; 0: no limit, nothing is dropped
///   plan                   out  views as dispatch_plan::take makes them for (tokens, k, experts); experts is the extent of plan.counts
///
/// Edges   tokens == 0, or no slot with a choice: counts and offsets are 0. Experts without choices have no rows.
/// Throws  bad_argument for an id outside [-1, experts), a negative capacity, or tokens * k above INT_MAX; shape_mismatch if the plan is for other
///         extents; out_of_memory if scratch holds less than make_dispatch_scratch_bytes.
/// Order   integers only: the same plan for any number of threads.
/// Cost    three passes over expert, the first of them, which looks for ids out of range, on one thread; rows of at least a vector of ids pass over
///         vectors without a choice.
/// Source  Gale et al. 2022, MegaBlocks, arXiv:2211.15841.
inline void make_dispatch(cpu const& space, in<int, dyn, dyn> expert, index_t capacity, dispatch_plan const& plan, arena& scratch) {
  index_t const tokens = expert.extent<0>(), k = expert.extent<1>(), slots = tokens * k, experts = plan.experts();
  detail::check_dispatch(expert, capacity, plan);
  detail::check_expert_ids("make_dispatch", expert, experts, -1);
  detail::check_scratch("make_dispatch", scratch, make_dispatch_scratch_bytes(space, tokens, experts));
  arena::scope const scope(scratch);
  auto const histogram = detail::dispatch_scratch(scratch, tokens, experts).histogram;
  double const work = 4.0 * static_cast<double>(k);
  parallel_chunks(space, tokens, detail::dispatch_scratch::chunk, work, [&](index_t c, index_t begin, index_t end) {
    std::fill_n(histogram.row(c), 1 + experts, index_t{0});
    detail::count_choices(expert, begin, end, histogram.row(c) + 1);
  });
  detail::place_chunks(histogram, capacity, plan);
  parallel_chunks(space, tokens, detail::dispatch_scratch::chunk, work,
                  [&](index_t c, index_t begin, index_t end) { detail::place_choices(expert, begin, end, histogram.row(c) + 1, plan); });
  std::fill(plan.token.data() + plan.rows(), plan.token.data() + slots, -1);
  std::fill(plan.slot.data() + plan.rows(), plan.slot.data() + slots, -1);
}

}  // namespace moe::inline MOE_ISA
