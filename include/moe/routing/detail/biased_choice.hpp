#pragma once
#include <moe/routing/detail/best_of_rows.hpp>
#include <moe/routing/score_function.hpp>

namespace moe::inline MOE_ISA::detail {

/// Candidates compared as what they are: none may be NaN, and all must be finite where `lowest` stands for one that is left out.
template <class A>
struct compared_as_numbers {
  using vector = typename simd<A>::native;
  static MOE_INLINE vector none() { return simd<A>::all(std::numeric_limits<A>::quiet_NaN()).v; }
  static MOE_INLINE vector lowest() { return simd<A>::all(-std::numeric_limits<A>::infinity()).v; }
  static MOE_INLINE vector of(simd<A> x) { return x.v; }
};
/// Compared by the integers of `ranking`, whatever they are.
template <class A>
struct compared_as_keys {
  using vector = typename lane_integers<A>::vector;
  static MOE_INLINE vector none() { return lowest(); }
  static MOE_INLINE vector lowest() { return lane_integers<A>::all(ranking<A>::lowest); }
  static MOE_INLINE vector of(simd<A> x) { return ranking<A>::keys(x); }
};

/// The scores of a group of rows, a row to a lane, and their candidates: score + bias.
template <score_function S, class A, class T>
class scored_rows {
 public:
  using V = simd<A>;
  scored_rows(row_group<A, T> const& rows, index_t experts, T const* bias, bool finite_bias)
      : rows_(rows), experts_(experts), bias_(bias), finite_bias_(finite_bias) {
    if constexpr (S == score_function::softmax) {
      top_ = largest_logits(rows, experts), total_ = sums_of_exponentials(rows, experts, top_);
      inverse_ = V::all(A(1)) / total_;
    }
  }
  int rows() const { return rows_.rows; }
  index_t experts() const { return experts_; }
  bool biased() const { return bias_ != nullptr; }
  bool finite_bias() const { return finite_bias_; }

  /// Calls f(expert, candidates) for the experts [begin, end), ascending. The result is NaN where the score of one of them is.
  template <class F>
  MOE_INLINE V visit(index_t begin, index_t end, F const& f) const {
    V column[V::width], seen = V::zero();
    for (index_t e = begin; e < end; e += V::width) {
      rows_.columns(e, end, column);
      index_t const n = end - e < V::width ? end - e : V::width;
      for (index_t i = 0; i < n; ++i) {
        V const s = S == score_function::sigmoid ? sigmoid(column[i]) : exp(column[i] - top_);
        seen = seen + s;
        column[i] = candidate(s, e + i);
      }
      for (index_t i = 0; i < n; ++i) f(e + i, column[i]);  // a loop of its own: f wants the registers
    }
    return seen;
  }
  /// The score that each row has at its expert; NaN where the bias was, so that it does not choose unseen.
  MOE_INLINE V score_at(typename lane_integers<A>::vector expert) const {
    A x[V::width];
    for (int l = 0; l < V::width; ++l) x[l] = static_cast<A>(rows_.row[l][expert[l]]);
    if (!finite_bias_) [[unlikely]]
      for (int l = 0; l < V::width; ++l)
        if (bias_[expert[l]] != bias_[expert[l]]) x[l] = static_cast<A>(bias_[expert[l]]);
    if constexpr (S == score_function::sigmoid) return sigmoid(V::load(x));
    else return exp(V::load(x) - top_) / total_;
  }

 private:
  /// s: a sigmoid, or an exponential that is not yet divided by the sum of them all.
  MOE_INLINE V candidate(V s, index_t expert) const {
    bool const sigmoids = S == score_function::sigmoid;
    if (bias_ == nullptr) return sigmoids ? s : s * inverse_;
    V const b = V::all(static_cast<A>(bias_[expert]));
    return sigmoids ? s + b : madd(s, inverse_, b);
  }
  row_group<A, T> const& rows_;
  index_t experts_;
  T const* bias_;
  bool finite_bias_;
  V top_, total_, inverse_;  ///< softmax: the largest logits, the sums of the exponentials of the others' distance to them, and 1 / those
};

/// The experts of a group of rows, best candidate first.
template <int K, int Groups, int Kept, class A>
struct biased_choice {
  using V = simd<A>;
  using I = lane_integers<A>;
  using places = typename I::vector;
  static constexpr bool limited = Kept < Groups;
  static constexpr index_t most_held = 1024;  ///< candidates of a row that are kept between two looks at them: 64 KiB, a part of a level 2 cache
  places expert[K];

  template <class Rows>
  explicit biased_choice(Rows const& rows) {
    if (!rows.finite_bias() || !find<compared_as_numbers<A>>(rows)) [[unlikely]]
      find_any(rows);
  }

 private:
  /// False, with nothing of use, if a score is NaN.
  template <class R, class Rows>
  MOE_INLINE bool find(Rows const& rows) {
    k_best<K, typename R::vector, A> best(R::none());
    V seen;
    if constexpr (!limited) {
      auto at = I::all(0);
      seen = rows.visit(0, rows.experts(), [&](index_t, V x) {
        best.see(R::of(x), at);
        at += 1;
      });
    } else if (rows.experts() <= most_held) {
      V held[most_held];
      seen = rows.visit(0, rows.experts(), [&](index_t e, V x) { held[e] = x; });
      see_kept<R>(best, rows, [&](index_t begin, index_t end, auto const& f) {
        for (index_t e = begin; e < end; ++e) f(e, held[e]);
      });
    } else {
      seen = V::zero();
      see_kept<R>(best, rows, [&](index_t begin, index_t end, auto const& f) { seen = seen + rows.visit(begin, end, f); });
    }
    for (int j = 0; j < K; ++j) expert[j] = best.where[j];
    return sum(seen) == sum(seen);
  }
  template <class Rows>
  MOE_NOINLINE void find_any(Rows const& rows) {
    find<compared_as_keys<A>>(rows);
  }
  /// The candidates of the groups that a row keeps; visit(begin, end, f) calls f(expert, candidates) for each expert.
  template <class R, class Best, class Rows, class Visit>
  static MOE_INLINE void see_kept(Best& best, Rows const& rows, Visit const& visit) {
    index_t const size = rows.experts() / Groups;
    places const kept = kept_groups(size, rows.biased(), visit);
    for (int g = 0; g < Groups; ++g) {
      auto const here = (kept & bit(g)) != 0;
      visit(g * size, (g + 1) * size, [&](index_t e, V x) { best.see(here ? R::of(x) : R::lowest(), I::all(static_cast<typename I::integer>(e))); });
    }
  }
  /// Bit g: the row keeps group g.
  template <class Visit>
  static MOE_INLINE places kept_groups(index_t size, bool biased, Visit const& visit) {
    k_best<Kept, places, A> best(I::all(ranking<A>::lowest));
    for (int g = 0; g < Groups; ++g) {
      V first = V::all(-std::numeric_limits<A>::infinity()), second = first;
      visit(g * size, (g + 1) * size, [&](index_t, V x) {
        V const less = {x.v > first.v ? first.v : x.v};
        first = max(first, x);
        second = {less.v > second.v ? less.v : second.v};
      });
      best.see(ranking<A>::keys(biased && size > 1 ? first + second : first), I::all(g));
    }
    places kept{};
    for (places const where : best.where) kept |= I::all(1) << where;
    return kept;
  }
  static MOE_INLINE places bit(int g) { return I::all(1) << I::all(g); }
};

}  // namespace moe::inline MOE_ISA::detail
