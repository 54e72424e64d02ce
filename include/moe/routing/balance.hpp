#pragma once
#include <algorithm>
#include <cmath>

#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/routing/detail/row_group.hpp>

namespace moe::inline MOE_ISA {

struct balance_config {
  double balance = 0.01;  ///< coefficient of the balance loss, and its value when the load is uniform
  double z = 0.001;       ///< coefficient of the z-loss
};

namespace detail {
/// For each worker the exponentials of a group of rows.
template <class T>
matrix_view<accumulator<T>> take_exponentials(arena& memory, cpu const& space, index_t padded_experts) {
  return memory.mat<accumulator<T>>(elements(thread_count(space), simd<accumulator<T>>::width), padded_experts);
}
template <class A>
tensor<A, dyn, dyn> exponentials_of_worker(matrix_view<A> all) {
  return rows_of(all, index_t{thread_index()} * simd<A>::width, (index_t{thread_index()} + 1) * simd<A>::width);
}

/// Sums per chunk of tokens. The boundaries depend on the number of tokens alone.
template <class T>
struct balance_scratch {
  using A = accumulator<T>;
  static constexpr index_t chunk = 64;
  matrix_view<A> probability;  ///< [chunks, padded experts]  sums of softmax(logits)
  vector_view<double> z;       ///< [chunks]                  sums of lse^2
  matrix_view<A> exponential;  ///< [workers * rows of a group, padded experts]
  balance_scratch(arena& memory, cpu const& space, index_t tokens, index_t experts)
      : probability(memory.mat<A>(chunks(tokens), padded(experts))), z(memory.vec<double>(chunks(tokens))),
        exponential(take_exponentials<T>(memory, space, padded(experts))) {}
  static index_t chunks(index_t tokens) { return detail::chunks(tokens, chunk); }
  static index_t padded(index_t experts) { return elements(detail::chunks(experts, simd<A>::width), simd<A>::width); }
};

template <class T>
struct balance_backward_scratch {
  using A = accumulator<T>;
  vector_view<A> excess;       ///< [padded experts]  excess load, scaled
  matrix_view<A> exponential;  ///< [workers * rows of a group, padded experts]
  balance_backward_scratch(arena& memory, cpu const& space, index_t experts)
      : excess(memory.vec<A>(balance_scratch<T>::padded(experts))),
        exponential(take_exponentials<T>(memory, space, balance_scratch<T>::padded(experts))) {}
};

/// What both spaces check; the counts themselves are data.
inline void check_balance(char const* who, index_t experts, in<index_t, dyn> counts, int k) {
  expects(counts.extent<0>() == experts, errc::shape_mismatch, who, ": counts has ", counts.extent<0>(), " entries, logits has ", experts,
          " experts");
  expects(k >= 1 && k <= experts, errc::bad_argument, who, ": k = ", k, " of ", experts, " experts");
}
inline void check_counts(char const* who, index_t tokens, index_t experts, in<index_t, dyn> counts, int k) {
  index_t sum = 0;
  for (index_t e = 0; e < experts; ++e) {
    expects(counts(e) >= 0, errc::bad_argument, who, ": counts[", e, "] is ", counts(e));
    expects(!__builtin_add_overflow(sum, counts(e), &sum), errc::bad_argument, who, ": counts add up to more than 64 bits hold, at entry ", e);
  }
  expects(sum == tokens * k, errc::bad_argument, who, ": counts add up to ", sum, ", ", tokens, " tokens of ", k, " choices need ", tokens * k,
          " (counts are taken before capacity)");
}

inline void check_balance_gradient(index_t tokens, index_t experts, auto const& d_logits) {
  expects(d_logits.template extent<0>() == tokens && d_logits.template extent<1>() == experts, errc::shape_mismatch,
          "balance_losses_backward: d_logits is [", d_logits.template extent<0>(), ", ", d_logits.template extent<1>(), "], logits is [", tokens,
          ", ", experts, "]");
}

/// What the sums are multiplied by: the loss is balance * sum_e counts[e] sum_t p_t,e, and z * sum_t lse_t^2; its gradient has `excess` and `shift`.
struct balance_factors {
  double balance = 0, z = 0, excess = 0, shift = 0;
  balance_factors(index_t tokens, index_t experts, int k, balance_config config, double scale) {
    if (tokens == 0) return;
    double const n = static_cast<double>(tokens);
    balance = config.balance * static_cast<double>(experts) / (k * n * n), z = config.z / n;
    excess = scale * config.balance / (k * n * n), shift = scale * 2 * config.z / n;
  }
};
/// The load of an expert enters the gradient as its excess over the mean, in whole numbers: as sum p = 1 this is the same gradient, and it cancels
/// nothing.
MOE_HD inline double scaled_excess(double factor, index_t tokens, index_t experts, int k, index_t count) {
  return factor * static_cast<double>(experts * count - k * tokens);
}

/// sum_row probability[e] += softmax(row)[e], rows ascending; returns z + the sum of their logsumexp^2.
template <class A, class T>
double add_softmax(row_group<A, T> const& rows, index_t experts, matrix_view<A> x, A* probability, double z) {
  using V = simd<A>;
  V const top = largest_logits(rows, experts), total = exponentials(rows, experts, top, x), inverse = V::all(A(1)) / total;
  for (index_t e = 0; e < experts; e += V::width) {
    V p = V::load(probability + e);
    for (int l = 0; l < rows.rows; ++l) p = madd(V::load(x.row(l) + e), V::all(inverse[l]), p);
    p.store(probability + e);
  }
  for (int l = 0; l < rows.rows; ++l) {
    double const lse = static_cast<double>(top[l]) + std::log(static_cast<double>(total[l]));
    z = madd(lse, lse, z);
  }
  return z;
}

/// d_row[e] += p_e (excess[e] - sum_i p_i excess[i] + z lse), p the softmax of the row; d_row(l) is that of row l.
template <class A, class T>
void add_balance_gradient(row_group<A, T> const& rows, index_t experts, matrix_view<A> x, A const* excess, A z, auto const& d_row) {
  using V = simd<A>;
  V const top = largest_logits(rows, experts), total = exponentials(rows, experts, top, x), inverse = V::all(A(1)) / total;
  V weighted[V::width], shift;
  for (int l = 0; l < V::width; ++l) {
    weighted[l] = V::zero();
    for (index_t e = 0; e < experts; e += V::width) weighted[l] = madd(V::load(x.row(l) + e), V::load(excess + e), weighted[l]);
  }
  V const mean = sums(weighted) / total;
  for (int l = 0; l < V::width; ++l) shift.v[l] = madd(z, top[l] + std::log(total[l]), -mean[l]);
  for (int l = 0; l < rows.rows; ++l)
    for (index_t e = 0; e < experts; e += V::width) {
      V const p = V::load(x.row(l) + e) * V::all(inverse[l]);
      madd(p, V::load(excess + e) + V::all(shift[l]), V::load(d_row(l) + e, experts - e)).store(d_row(l) + e, experts - e);
    }
}
}  // namespace detail

/// Bytes of scratch for balance_losses.
template <class T>
std::size_t balance_losses_scratch_bytes(cpu const& space, index_t tokens, index_t experts) {
  arena measure;
  detail::balance_scratch<T>(measure, space, tokens, experts);
  return measure.peak();
}

/// Bytes of scratch for balance_losses_backward.
template <class T>
std::size_t balance_losses_backward_scratch_bytes(cpu const& space, index_t experts) {
  arena measure;
  detail::balance_backward_scratch<T>(measure, space, experts);
  return measure.peak();
}

/// Auxiliary losses of a router. With p_t = softmax(logits[t]) and P_e = (1 / tokens) sum_t p_t,e:
///   balance = config.balance * experts / (k tokens) * sum_e counts[e] P_e      (= config.balance where counts or P are uniform)
///   z       = config.z / tokens * sum_t logsumexp(logits[t])^2
///
///   logits  [tokens, experts]  in
///   counts  [experts]          in   choices of each expert, before capacity: they add up to k tokens
///   k                          in   choices of a token
///   losses  [2]                out  balance, z
///
/// Edges   tokens == 0 gives 0, 0. A row with a NaN, with +infinity, or of -infinity alone makes both losses NaN.
/// Throws  shape_mismatch or bad_argument if counts has other extents, a negative entry, or another sum, or k is not in [1, experts];
///         out_of_memory if scratch holds less than balance_losses_scratch_bytes.
/// Order   p is summed in accumulator<T> over chunks of 64 tokens, t ascending; chunks and experts in double, ascending.
/// Cost    one exponential per logit.
/// Source  Fedus et al. 2021, arXiv:2101.03961, eq. 4, divided by k as MegaBlocks does; Zoph et al. 2022, arXiv:2202.08906, eq. 5.
template <class T>
void balance_losses(cpu const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config, tensor<double, 2> losses,
                    arena& scratch) {
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance("balance_losses", experts, counts, k);
  detail::check_counts("balance_losses", tokens, experts, counts, k);
  detail::check_scratch("balance_losses", scratch, balance_losses_scratch_bytes<T>(space, tokens, experts));
  losses(0) = losses(1) = 0;
  if (tokens == 0) return;
  arena::scope const scope(scratch);
  detail::balance_scratch<T> const partial(scratch, space, tokens, experts);
  parallel_chunks(space, tokens, partial.chunk, 8.0 * static_cast<double>(experts), [&](index_t c, index_t begin, index_t end) {
    auto* probability = partial.probability.row(c);
    std::fill_n(probability, partial.padded(experts), accumulator<T>(0));
    double z = 0;
    auto const x = detail::exponentials_of_worker(partial.exponential);
    for (index_t t = begin; t < end; t += simd<accumulator<T>>::width)
      z = detail::add_softmax(detail::row_group<accumulator<T>, T>(logits, t), experts, x, probability, z);
    partial.z(c) = z;
  });
  double balance = 0, z = 0;
  for (index_t e = 0; e < experts; ++e) {
    double probability = 0;
    for (index_t c = 0; c < partial.chunks(tokens); ++c) probability += static_cast<double>(partial.probability(c, e));
    balance = madd(static_cast<double>(counts(e)), probability, balance);
  }
  for (index_t c = 0; c < partial.chunks(tokens); ++c) z += partial.z(c);
  detail::balance_factors const factor(tokens, experts, k, config, 1);
  losses(0) = factor.balance * balance;
  losses(1) = factor.z * z;
}

/// Adds the gradient of scale * (balance + z), counts held fixed:
///   d_logits[t, e] += scale * p_t,e (a (counts[e] - sum_i p_t,i counts[i]) + b lse_t),
///   a = config.balance * experts / (k tokens^2),  b = 2 config.z / tokens,  lse_t = logsumexp(logits[t])
///
///   logits, counts, k, config   in      as for balance_losses
///   scale                       in
///   d_logits [tokens, experts]  in out  added to; must not overlap logits
///
/// Edges   tokens == 0 changes nothing. Rows that make the losses NaN get NaN. Uniform counts and config.z == 0 change nothing, exactly.
/// Throws  as balance_losses, and shape_mismatch if d_logits has other extents than logits.
/// Order   one worker per row; sums over experts in one chain per vector lane, then a fixed tree.
/// Cost    one exponential per logit.
template <class T, index_t R, index_t E>
void balance_losses_backward(cpu const& space, in<T, dyn, dyn> logits, in<index_t, dyn> counts, int k, balance_config config,
                             std::type_identity_t<accumulator<T>> scale, tensor<T, R, E> const& d_logits, arena& scratch) {
  using A = accumulator<T>;
  index_t const tokens = logits.template extent<0>(), experts = logits.template extent<1>();
  detail::check_balance("balance_losses_backward", experts, counts, k);
  detail::check_counts("balance_losses_backward", tokens, experts, counts, k);
  detail::check_balance_gradient(tokens, experts, d_logits);
  if (tokens == 0) return;
  detail::check_scratch("balance_losses_backward", scratch, balance_losses_backward_scratch_bytes<T>(space, experts));
  arena::scope const scope(scratch);
  detail::balance_backward_scratch<T> const taken(scratch, space, experts);
  auto const& excess = taken.excess;
  detail::balance_factors const factor(tokens, experts, k, config, static_cast<double>(scale));
  std::fill_n(excess.data(), excess.size(), A(0));
  for (index_t e = 0; e < experts; ++e) excess(e) = static_cast<A>(detail::scaled_excess(factor.excess, tokens, experts, k, counts(e)));
  constexpr index_t group = simd<A>::width;
  parallel_for(space, detail::chunks(tokens, group), 10.0 * static_cast<double>(group * experts), [&](index_t g) {
    detail::add_balance_gradient(detail::row_group<A, T>(logits, g * group), experts, detail::exponentials_of_worker(taken.exponential),
                                 excess.data(), static_cast<A>(factor.shift), [&](int l) { return d_logits.row(g * group + l); });
  });
}

}  // namespace moe::inline MOE_ISA
