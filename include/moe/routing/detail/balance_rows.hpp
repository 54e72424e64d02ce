#pragma once
#include <cmath>

#include <moe/routing/detail/row_group.hpp>
#include <moe/routing/score_function.hpp>

// The losses of a router on the CPU, for as many rows of logits as a vector has lanes.
namespace moe::inline MOE_ISA::detail {

/// Sums over rows.
struct softmax_sums {
  double z = 0, entropy = 0;  ///< of logsumexp^2, and of the entropy of the softmax in nats
};

/// exp(logit - largest) in x, of each row 1 / their sum; adds the rows' terms to `sums`. The entropy is log(sum_e x_e) - sum_e x_e log(x_e) / sum_e x_e.
template <class A, class T>
simd<A> softmax_of(row_group<A, T> const& rows, index_t experts, matrix_view<A> x, softmax_sums& sums) {
  using V = simd<A>;
  V const top = largest_logits(rows, experts), lowest = V::all(std::numeric_limits<A>::lowest());
  V total[V::width], exponents[V::width];
  for (int l = 0; l < V::width; ++l) {
    V const shift = V::all(top[l]);
    V sum = V::zero(), weighted = V::zero();
    for (index_t e = 0; e < experts; e += V::width) {
      V const d = load_logits<A>(rows.row[l] + e, experts - e) - shift, y = exp(d);
      y.store(x.row(l) + e);
      sum = sum + y;
      weighted = madd(y, V{d.v > lowest.v ? d.v : lowest.v}, weighted);  // -infinity counts 0; a NaN is in y
    }
    total[l] = sum, exponents[l] = weighted;
  }
  V const all = detail::sums(total), inverse = V::all(A(1)) / all;
  V less = V::zero();
  for (int l = 0; l < rows.rows; ++l) less = madd(exponents[l], V::all(inverse[l]), less);
  for (int l = 0; l < rows.rows; ++l) {
    double const log_total = std::log(static_cast<double>(all[l])), lse = static_cast<double>(top[l]) + log_total;
    sums.z = madd(lse, lse, sums.z);
    sums.entropy += log_total;
  }
  sums.entropy -= static_cast<double>(sum(less));
  return inverse;
}

/// sigmoid(logit) in x, of each row 1 / their sum.
template <class A, class T>
simd<A> sigmoids_of(row_group<A, T> const& rows, index_t experts, matrix_view<A> x) {
  using V = simd<A>;
  V total[V::width];
  for (int l = 0; l < V::width; ++l) {
    V sum = V::zero();
    for (index_t e = 0; e < experts; e += V::width) {
      V const s = sigmoid(load_logits<A>(rows.row[l] + e, experts - e));
      s.store(x.row(l) + e);
      sum = sum + s;
    }
    total[l] = sum;
  }
  return V::all(A(1)) / sums(total);
}

/// probability[e] += sum_row x(row, e) inverse[row], rows ascending.
template <class A, class T>
void add_scores(row_group<A, T> const& rows, simd<A> inverse, index_t experts, matrix_view<A> x, A* probability) {
  using V = simd<A>;
  for (index_t e = 0; e < experts; e += V::width) {
    V p = V::load(probability + e);
    for (int l = 0; l < rows.rows; ++l) p = madd(V::load(x.row(l) + e), V::all(inverse[l]), p);
    p.store(probability + e);
  }
}

/// Of each row sum_i x_i excess[i].
template <class A>
MOE_INLINE simd<A> weighted_by(A const* excess, index_t experts, matrix_view<A> x) {
  using V = simd<A>;
  V weighted[V::width];
  for (int l = 0; l < V::width; ++l) {
    weighted[l] = V::zero();
    for (index_t e = 0; e < experts; e += V::width) weighted[l] = madd(V::load(x.row(l) + e), V::load(excess + e), weighted[l]);
  }
  return sums(weighted);
}

/// d_row[e] += p_e (excess[e] - sum_i p_i excess[i] + z lse), p the softmax of the row; d_row(l) is that of row l.
template <class A, class T>
void add_softmax_gradient(row_group<A, T> const& rows, index_t experts, matrix_view<A> x, A const* excess, A z, auto const& d_row) {
  using V = simd<A>;
  V const top = largest_logits(rows, experts), total = exponentials(rows, experts, top, x), inverse = V::all(A(1)) / total;
  V const mean = weighted_by(excess, experts, x) / total;
  V shift;
  for (int l = 0; l < V::width; ++l) shift.v[l] = madd(z, top[l] + std::log(total[l]), -mean[l]);
  for (int l = 0; l < rows.rows; ++l)
    for (index_t e = 0; e < experts; e += V::width) {
      V const p = V::load(x.row(l) + e) * V::all(inverse[l]);
      madd(p, V::load(excess + e) + V::all(shift[l]), V::load(d_row(l) + e, experts - e)).store(d_row(l) + e, experts - e);
    }
}

/// d_row[e] += p_e (1 - s_e) (excess[e] - sum_i p_i excess[i]), s the sigmoids of the row, p_e = s_e / sum_i s_i.
template <class A, class T>
void add_sigmoid_gradient(row_group<A, T> const& rows, index_t experts, matrix_view<A> x, A const* excess, auto const& d_row) {
  using V = simd<A>;
  V const one = V::all(A(1)), inverse = sigmoids_of(rows, experts, x), mean = weighted_by(excess, experts, x) * inverse;
  for (int l = 0; l < rows.rows; ++l)
    for (index_t e = 0; e < experts; e += V::width) {
      V const s = V::load(x.row(l) + e), p = s * V::all(inverse[l]), slope = p * (one - s);
      madd(slope, V::load(excess + e) - V::all(mean[l]), V::load(d_row(l) + e, experts - e)).store(d_row(l) + e, experts - e);
    }
}

}  // namespace moe::inline MOE_ISA::detail
