#pragma once
#include <moe/core/detail/counting_sort.cuh>
#include <moe/core/elements.cuh>
#include <moe/routing/dispatch_plan.hpp>

// The CUDA overload of make_dispatch, with all views in device memory; asynchronous on `space.stream`.
namespace moe::inline MOE_ISA {

namespace detail {

/// How many choices of each expert are in front of a chunk of tokens.
struct cuda_dispatch_scratch {
  static constexpr index_t chunk = 64;  ///< tokens: a block ranks their choices, k tiles of 64 at most
  matrix_view<int> count;               ///< [chunks, experts]
  cuda_dispatch_scratch(arena& memory, index_t tokens, index_t experts) : count(memory.mat<int>((tokens + chunk - 1) / chunk, experts)) {}
};

struct expert_of_slot {
  tensor<int const, dyn, dyn> expert;
  __device__ index_t operator()(index_t slot) const {
    int const s = static_cast<int>(slot), k = static_cast<int>(expert.template extent<1>());
    return expert.row(s / k)[s % k];
  }
};

/// Turns the rank of each choice among those of its chunk and expert, which stands in `position`, into its row.
struct place_choice {
  tensor<int const, dyn, dyn> expert, count;
  tensor<index_t const, dyn> offsets;
  tensor<int, dyn> token, slot, position;
  index_t capacity;  ///< 0: none
  __device__ void operator()(index_t t, index_t j) const {
    index_t const s = t * expert.template extent<1>() + j, experts = count.template extent<1>();
    if (s >= offsets(experts)) token(s) = slot(s) = -1;  // as a row, s is behind the last one
    int const rank = position(s);
    int row = -1;
    if (rank >= 0) {
      int const e = expert(t, j);
      index_t const place = index_t{count(t / cuda_dispatch_scratch::chunk, e)} + rank;
      if (capacity == 0 || place < capacity) row = static_cast<int>(offsets(e) + place);
    }
    position(s) = row;
    if (row >= 0) token(row) = static_cast<int>(t), slot(row) = static_cast<int>(s);
  }
};
}  // namespace detail

/// Bytes of scratch for make_dispatch: four for each 64 logits.
inline std::size_t make_dispatch_scratch_bytes(cuda const& /*space*/, index_t tokens, index_t experts) {
  arena measure;
  detail::cuda_dispatch_scratch(measure, tokens, experts);
  return measure.peak();
}

/// The contract of make_dispatch(cpu).
///
/// Edges   ids are not checked: every one outside [0, experts) is a slot without a choice, as -1 is.
/// Cost    four kernels; each choice is compared with 255 others.
inline void make_dispatch(cuda const& space, in<int, dyn, dyn> expert, index_t capacity, dispatch_plan const& plan, arena& scratch) {
  char const* const name = "make_dispatch";
  index_t const tokens = expert.extent<0>(), k = expert.extent<1>();
  detail::check_dispatch(expert, capacity, plan);
  detail::check_scratch(name, scratch, make_dispatch_scratch_bytes(space, tokens, plan.experts()));
  arena::scope const scope(scratch);
  auto const count = detail::cuda_dispatch_scratch(scratch, tokens, plan.experts()).count;
  detail::rank_by_key(name, space, tokens * k, detail::cuda_dispatch_scratch::chunk * k, detail::expert_of_slot{expert}, plan.position.data(), count,
                      plan.counts);
  detail::offsets_of_keys(name, space, plan.counts, capacity > 0 ? capacity : INT_MAX, plan.offsets);
  for_each_element(name, space, tokens, k, detail::place_choice{expert, count, plan.offsets, plan.token, plan.slot, plan.position, capacity});
}

}  // namespace moe::inline MOE_ISA
