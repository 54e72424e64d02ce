#pragma once
#include <moe/gemm/gemm.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/nn/detail/vectors.hpp>

namespace moe::inline MOE_ISA {

struct cross_entropy_config {
  bool mean = false;  ///< gradients are those of the mean over the targets that count; false: of the sum
};

namespace detail {
inline constexpr index_t cross_entropy_chunk = 256;  ///< tokens whose logits exist at a time; no result depends on it

/// The memory of one chunk. Rows of logits are padded to whole vectors, the padding holds -infinity: its exponential is 0. Gradients take the place
/// of the logits, or have one of their own where they are rounded.
template <class T>
struct cross_entropy_scratch {
  using A = accumulator<T>;
  index_t stride;
  matrix_view<A> padded;
  matrix_view<T> gradients;
  vector_view<double> nats;
  cross_entropy_scratch(arena& a, index_t tokens, index_t vocab)
      : stride(elements(chunks(vocab, simd<A>::width), simd<A>::width)), padded(a.mat<A>(std::min(tokens, cross_entropy_chunk), stride)),
        nats(a.vec<double>(std::min(tokens, cross_entropy_chunk))) {
    if constexpr (std::is_same_v<A, T>) gradients = padded;
    else gradients = a.mat<T>(std::min(tokens, cross_entropy_chunk), stride);
  }
  matrix_view<A> logits(index_t tokens, index_t vocab) const { return mat(padded.data(), tokens, vocab).with_row_stride(stride); }
  matrix_view<T> d_logits(index_t tokens, index_t vocab) const { return mat(gradients.data(), tokens, vocab).with_row_stride(stride); }
};

/// -log softmax(row)[target]; if Gradient, d_row = scale * (softmax(row) - one_hot(target)), which may be the row itself. `stride` is a multiple of
/// the vector width.
template <bool Gradient, class A, class T>
double softmax_row(A* row, T* d_row, index_t vocab, index_t stride, int target, A scale) {
  using V = simd<A>;
  if (target < 0) {
    if constexpr (Gradient) std::fill_n(d_row, vocab, T(0.0f));
    return 0;
  }
  A const minus_infinity = -std::numeric_limits<A>::infinity();
  std::fill(row + vocab, row + stride, minus_infinity);
  V top = V::load(row);
  row_vectors<A>(stride, [&](index_t c, auto n) { top = max(top, V::load(row + c, n)); });
  A const largest = max(top);
  double const margin = static_cast<double>(largest) - static_cast<double>(row[target]);
  A const sum = row_sum<A>(stride, [&](V s, index_t c, auto n) {
    V const e = exp(V::load(row + c, n) - V::all(largest));
    if constexpr (Gradient) e.store(row + c, n);
    return s + e;
  });
  if constexpr (Gradient) {
    A const factor = scale / sum, at_target = madd(row[target], factor, -scale);
    row_vectors<A>(stride, [&](index_t c, auto n) { (V::load(row + c, n) * V::all(factor)).store(d_row + c, n); });
    d_row[target] = T(at_target);
  }
  return log_scalar(static_cast<double>(sum)) + margin;
}

/// The unembedding [vocab, d] as what its extents are asked of: a matrix, or one packed weight.
template <class T>
matrix_view<T> unembedding(char const*, matrix_view<T> w) {
  return w;
}
template <class T>
weight_shape<T> unembedding(char const* op, packed_weights<T> w) {
  return one_weight(op, w);
}
template <class T>
bool has_elements(matrix_view<T> w) {
  return w.size() != 0;
}
template <class T>
bool has_elements(packed_weights<T> w) {
  return w.data() != nullptr;
}

template <class T, class W>
void check_cross_entropy(char const* op, matrix_view<T const> x, W const& w, vector_view<int const> target) {
  check_matrix(op, "w", w, w.template extent<0>(), x.template extent<1>());
  check_vector(op, "target", target, x.template extent<0>());
}
template <class T, class W, class G>
void check_cross_entropy_gradients(matrix_view<T const> x, W const& w, matrix_view<T> d_x, G const& d_w) {
  check_matrix("cross_entropy", "d_x", d_x, x.template extent<0>(), x.template extent<1>());
  if (has_elements(d_w)) check_matrix("cross_entropy", "d_w", unembedding("cross_entropy", d_w), w.template extent<0>(), w.template extent<1>());
}
inline void check_targets(char const* op, vector_view<int const> target, index_t vocab) {
  for (index_t t = 0; t < target.size(); ++t)
    expects(target.data()[t] < vocab, errc::bad_argument, op, ": target[", t, "] is ", target.data()[t], ", needs to be below ", vocab,
            " (negative: ignored)");
}

inline double count_targets(vector_view<int const> target) {
  index_t n = 0;
  for (index_t t = 0; t < target.size(); ++t) n += target.data()[t] >= 0;
  return static_cast<double>(n);
}

/// The loss of tokens [begin, end) added to `total`, token by token; leaves their logits or gradients in s.
template <bool Gradient, class T, class W>
void cross_entropy_chunk_loss(cpu const& space, matrix_view<T const> x, W const& w, index_t vocab, vector_view<int const> target,
                              accumulator<T> scale, index_t begin, index_t end, cross_entropy_scratch<T> const& s, double& total, arena& scratch) {
  gemm<gemm_config{.transpose_b = true}>(space, rows_of(x, begin, end), w, s.logits(end - begin, vocab), scratch);
  parallel_for(space, end - begin, 20.0 * static_cast<double>(vocab), [&](index_t i) {
    s.nats.data()[i] = softmax_row<Gradient>(s.padded.row(i), s.gradients.row(i), vocab, s.stride, target.data()[begin + i], scale);
  });
  for (index_t i = 0; i < end - begin; ++i) total += s.nats.data()[i];
}

/// Bytes for the largest of the three products of a chunk of tokens.
template <class T, class S>
std::size_t cross_entropy_gemm_bytes(S const& space, index_t chunk, index_t d, index_t vocab) {
  using A = accumulator<T>;
  return std::max(
      {gemm_scratch_bytes<A>(space, chunk, vocab, d), gemm_scratch_bytes<T>(space, chunk, d, vocab), gemm_scratch_bytes<A>(space, vocab, d, chunk)});
}
}  // namespace detail

/// Bytes of scratch of cross_entropy and cross_entropy_loss.
template <class T>
std::size_t cross_entropy_scratch_bytes(cpu const& space, index_t tokens, index_t d, index_t vocab) {
  arena measure;
  detail::cross_entropy_scratch<T>(measure, tokens, vocab);
  index_t const chunk = std::min(tokens, detail::cross_entropy_chunk);
  return measure.peak() +
         std::max(detail::cross_entropy_gemm_bytes<T>(space, chunk, d, vocab), packed_gemm_scratch_bytes<T>(space, 1, chunk, vocab, d));
}

namespace detail {
template <cross_entropy_config C, class T, class W, class G>
void cross_entropy_all(cpu const& space, matrix_view<T const> x, W const& weight, vector_view<int const> target, accumulator<T> scale,
                       tensor<double, 2> loss, matrix_view<T> d_x, G const& d_w, arena& scratch) {
  auto const w = unembedding("cross_entropy", weight);
  index_t const tokens = x.template extent<0>(), d = x.template extent<1>(), vocab = w.template extent<0>();
  check_cross_entropy<T>("cross_entropy", x, w, target);
  check_cross_entropy_gradients<T>(x, w, d_x, d_w);
  check_targets("cross_entropy", target, vocab);
  check_scratch("cross_entropy", scratch, cross_entropy_scratch_bytes<T>(space, tokens, d, vocab));
  loss(0) = 0, loss(1) = count_targets(target);
  if (tokens == 0) return;
  if constexpr (C.mean) scale = static_cast<accumulator<T>>(static_cast<double>(scale) / std::max(1.0, loss(1)));
  arena::scope const scope(scratch);
  cross_entropy_scratch<T> const s(scratch, tokens, vocab);
  for (index_t begin = 0; begin < tokens; begin += cross_entropy_chunk) {
    index_t const end = std::min(tokens, begin + cross_entropy_chunk);
    cross_entropy_chunk_loss<true, T>(space, x, weight, vocab, target, scale, begin, end, s, loss(0), scratch);
    auto const d_logits = s.d_logits(end - begin, vocab);
    gemm(space, d_logits, weight, rows_of(d_x, begin, end), scratch);
    if (has_elements(d_w)) gemm<gemm_config{.transpose_a = true, .accumulate = true}>(space, d_logits, rows_of(x, begin, end), d_w, scratch);
  }
}

template <class T, class W>
void cross_entropy_loss_all(cpu const& space, matrix_view<T const> x, W const& weight, vector_view<int const> target, tensor<double, 2> loss,
                            arena& scratch) {
  auto const w = unembedding("cross_entropy_loss", weight);
  index_t const tokens = x.template extent<0>(), vocab = w.template extent<0>();
  check_cross_entropy<T>("cross_entropy_loss", x, w, target);
  check_targets("cross_entropy_loss", target, vocab);
  check_scratch("cross_entropy_loss", scratch, cross_entropy_scratch_bytes<T>(space, tokens, x.template extent<1>(), vocab));
  loss(0) = 0, loss(1) = count_targets(target);
  if (tokens == 0) return;
  arena::scope const scope(scratch);
  cross_entropy_scratch<T> const s(scratch, tokens, vocab);
  for (index_t begin = 0; begin < tokens; begin += cross_entropy_chunk)
    cross_entropy_chunk_loss<false, T>(space, x, weight, vocab, target, 0, begin, std::min(tokens, begin + cross_entropy_chunk), s, loss(0), scratch);
}
}  // namespace detail

/// Cross-entropy of the logits x w^T, and its gradients, without ever holding the logits of more than 256 tokens (CUDA: 1024):
///   loss         = sum over t with target[t] >= 0 of  log sum_v exp(l[t, v]) - l[t, target[t]],   l[t, v] = sum_c x[t, c] w[v, c]
///   g[t, v]      = scale (softmax(l[t])[v] - [v == target[t]]), 0 where target[t] < 0   (mean: scale / max(1, targets that are not negative))
///   d_x[t, c]    = sum_v g[t, v] w[v, c]
///   d_w[v, c]   += sum_t g[t, v] x[t, c]
///
///   x       [tokens, d]   in
///   w       [vocab, d]    in      the unembedding (or the embedding table, where the two are tied)
///   target  [tokens]      in      below vocab; negative: the token is ignored
///   scale                 in      of the gradients, not of the loss
///   loss    [2]           out     the sum in nats, and the number of targets that are not negative: their quotient is the mean
///   d_x     [tokens, d]   out     overwritten; must not overlap x or w
///   d_w     [vocab, d]    in/out  of type accumulator<T>: float where T is bf16; added to. Or an empty view: no gradient of w is formed
///
/// Types   logits, softmax and loss are accumulator<T>. Where T is bf16, g is rounded to bf16 once, before the two products with it, which so are
///         products of bf16 with sums in float: this moves an element of d_x or d_w by at most 2^-9 of the sum of its terms' sizes.
/// Edges   tokens == 0 gives 0, 0. Logits of any finite size give a finite loss (the maximum is subtracted first); a target whose logit is
///         -infinity gives infinity. NaN in a row makes the loss NaN; NaN in x reaches d_w even where the token is ignored (0 * NaN).
/// Throws  bad_argument with position and value of the first target out of range; shape_mismatch if the shapes differ; out_of_memory if scratch
///         holds less than cross_entropy_scratch_bytes.
/// Order   logits, d_x, d_w: one chain of madd each, over c, v, t ascending (see gemm, also for what sums products of bf16). The softmax of a
///         row by lanes and a fixed tree over v. The loss is summed in double, t ascending.
/// Cost    6 tokens * vocab * d flops, one exponential per logit; a row-major w is packed twice per 256 tokens.
template <cross_entropy_config C = cross_entropy_config{}, class T>
void cross_entropy(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> w, in<int, dyn> target, std::type_identity_t<accumulator<T>> scale,
                   tensor<double, 2> loss, tensor<T, dyn, dyn> d_x, tensor<accumulator<T>, dyn, dyn> d_w, arena& scratch) {
  detail::cross_entropy_all<C, T>(space, x, w, target, scale, loss, d_x, d_w, scratch);
}
/// The same with an unembedding that lies in panels: one weight [vocab, d], and its gradient, or none.
template <cross_entropy_config C = cross_entropy_config{}, class T>
void cross_entropy(cpu const& space, in<T, dyn, dyn> x, std::type_identity_t<packed_weights<T const>> w, in<int, dyn> target,
                   std::type_identity_t<accumulator<T>> scale, tensor<double, 2> loss, tensor<T, dyn, dyn> d_x,
                   std::type_identity_t<packed_weights<accumulator<T>>> d_w, arena& scratch) {
  detail::cross_entropy_all<C, T>(space, x, w, target, scale, loss, d_x, d_w, scratch);
}

/// The loss alone: the same bits as cross_entropy gives, for a third of the work.
template <class T>
void cross_entropy_loss(cpu const& space, in<T, dyn, dyn> x, in<T, dyn, dyn> w, in<int, dyn> target, tensor<double, 2> loss, arena& scratch) {
  detail::cross_entropy_loss_all<T>(space, x, w, target, loss, scratch);
}
template <class T>
void cross_entropy_loss(cpu const& space, in<T, dyn, dyn> x, std::type_identity_t<packed_weights<T const>> w, in<int, dyn> target,
                        tensor<double, 2> loss, arena& scratch) {
  detail::cross_entropy_loss_all<T>(space, x, w, target, loss, scratch);
}
/// T is that of x.
template <detail::matrix_like X>
void cross_entropy_loss(cpu const& space, X const& x, in<typename X::value_type, dyn, dyn> w, in<int, dyn> target, tensor<double, 2> loss,
                        arena& scratch) {
  cross_entropy_loss<typename X::value_type>(space, x, w, target, loss, scratch);
}

}  // namespace moe::inline MOE_ISA
