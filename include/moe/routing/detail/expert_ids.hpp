#pragma once
#include <algorithm>
#include <climits>
#include <cstring>

#include <moe/core/simd.hpp>
#include <moe/core/tensor.hpp>

// What operators ask of integers before they index with them: on every call, so whole vectors at a time, and which one is wrong only where one is.
namespace moe::inline MOE_ISA::detail {

/// The index of the first of n integers outside [least, end), least <= 0; -1 if there is none.
inline index_t first_outside(int const* p, index_t n, int least, index_t end) {
  auto const base = static_cast<unsigned>(least);
  auto const size = static_cast<unsigned>(std::clamp<index_t>(end, least, index_t{INT_MAX} + 1) - least);  // p[i] - base as unsigned is below it
  words outside{};
  index_t i = 0;
  for (; i + float_lanes <= n; i += float_lanes) {
    words x;
    std::memcpy(&x, p + i, sizeof x);
    outside |= __builtin_bit_cast(words, x - base >= size);
  }
  unsigned found = 0;
  for (; i < n; ++i) found |= static_cast<unsigned>(static_cast<unsigned>(p[i]) - base >= size);
  for (int l = 0; l < float_lanes; ++l) found |= outside[l];
  if (found == 0) [[likely]]
    return -1;
  for (i = 0; p[i] >= least && p[i] < end;) ++i;
  return i;
}

/// Throws unless every id is in [least, experts): least is 0, or -1 where a slot may be without a choice.
inline void check_expert_ids(char const* who, in<int, dyn, dyn> expert, index_t experts, int least = 0) {
  index_t const tokens = expert.template extent<0>(), k = expert.template extent<1>();
  bool const one = expert.row_stride() == k;  // the rows are one after the other
  for (index_t t = 0; t < (one ? std::min<index_t>(tokens, 1) : tokens); ++t)
    if (index_t const j = first_outside(expert.row(t), one ? tokens * k : k, least, experts); j >= 0) [[unlikely]]
      fail(errc::bad_argument, who, ": expert[", t + j / k, ", ", j % k, "] = ", expert.row(t)[j], ", needs to be in [", least, ", ", experts, ")");
}

/// Calls f(j, id[j]) for the ids that are not negative among k, j ascending. Of many ids few may be choices: whole vectors without one are passed over.
template <class F>
MOE_INLINE void for_each_choice(int const* id, index_t k, F const& f) {
  index_t j = 0;
  for (; j + float_lanes <= k; j += float_lanes) {
    ints v;
    std::memcpy(&v, id + j, sizeof v);
    ints none = v;
    for (int half = float_lanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) none[l] &= none[l + half];
    if (none[0] < 0) continue;
    for (int l = 0; l < float_lanes; ++l)
      if (id[j + l] >= 0) f(j + l, id[j + l]);
  }
  for (; j < k; ++j)
    if (id[j] >= 0) f(j, id[j]);
}

/// Lanes of v that repeat a later lane, or an earlier one, of the same K lanes.
template <int K, int Step = 1, int... L>
MOE_INLINE ints repeated(ints v, std::integer_sequence<int, L...> lane) {
  ints const same = v == shuffled<(L / K * K + (L % K + Step) % K)...>(v, v);
  if constexpr (Step < K / 2) return same | repeated<K, Step + 1>(v, lane);
  else return same;
}

/// Throws if a row names an expert twice: the gradient of its logit would be one of two values.
template <int K>
void check_distinct(char const* who, tensor<int const, dyn, K> expert) {
  index_t const tokens = expert.template extent<0>();
  index_t t = 0;
  if constexpr (K > 1 && float_lanes % K == 0) {
    constexpr index_t rows = float_lanes / K;
    ints any{};
    for (; expert.row_stride() == K && t + rows <= tokens; t += rows) {
      ints v;
      std::memcpy(&v, expert.row(t), sizeof v);
      any |= repeated<K>(v, std::make_integer_sequence<int, static_cast<int>(float_lanes)>{});
    }
    int found = 0;
    for (int l = 0; l < float_lanes; ++l) found |= any[l];
    if (found != 0) t = 0;
  }
  for (; t < tokens; ++t) {
    int const* id = expert.row(t);
    bool twice = false;
    for (int j = 1; j < K; ++j)
      for (int i = 0; i < j; ++i) twice |= id[i] == id[j];
    expects(!twice, errc::bad_argument, who, ": row ", t, " of expert names an expert twice");
  }
}

}  // namespace moe::inline MOE_ISA::detail
