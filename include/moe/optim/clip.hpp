#pragma once
#include <moe/core/buffer.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline constexpr index_t norm_block = 16384;  ///< elements of one partial sum; part of the result

/// As many elements as a vector of doubles has lanes.
template <class T>
MOE_INLINE simd<double> widen(T const* p) {
  simd<double> r;
  if constexpr (std::is_same_v<T, float>) {
    typedef float half __attribute__((vector_size(vector_bytes / 2)));
    half h;
    std::memcpy(&h, p, sizeof h);
    r.v = __builtin_convertvector(h, simd<double>::native);
  } else {
    for (int i = 0; i < simd<double>::width; ++i) r.v[i] = static_cast<double>(p[i]);
  }
  return r;
}

template <class T>
double sum_of_squares(T const* p, index_t n) {
  using V = simd<double>;
  constexpr index_t W = V::width;
  V s[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  index_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    MOE_UNROLL(4)  // keeps the four sums in registers at -O2
    for (int j = 0; j < 4; ++j) {
      V const x = widen(p + i + j * W);
      s[j] = madd(x, x, s[j]);
    }
  }
  double total = sum((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; ++i) total = madd(static_cast<double>(p[i]), static_cast<double>(p[i]), total);
  return total;
}
}  // namespace detail

/// Bytes of scratch of global_norm.
inline std::size_t global_norm_scratch_bytes(cpu const& /*space*/, index_t n) {
  arena measure;
  measure.vec<double>(detail::chunks(n, detail::norm_block));
  return measure.peak();
}

/// Euclidean norm of a vector: sqrt(sum_i g[i]^2), for gradients in one buffer.
///
///   g  [n]  in   float, double or bf16
///
/// Edges   n == 0 gives 0. NaN in g gives NaN, an infinity gives infinity. Floats of any size do not overflow.
/// Throws  out_of_memory if scratch holds less than global_norm_scratch_bytes.
/// Order   in double; chunks of 16384 elements, added in ascending order: bitwise equal for any number of threads.
/// Cost    reads n elements: bound by memory.
template <class T>
double global_norm(cpu const& space, in<T, dyn> g, arena& scratch) {
  index_t const n = g.size();
  detail::check_scratch("global_norm", scratch, global_norm_scratch_bytes(space, n));
  arena::scope const scope(scratch);
  auto const partial = scratch.vec<double>(detail::chunks(n, detail::norm_block));
  parallel_chunks(space, n, detail::norm_block, 1.0, [&](index_t chunk, index_t begin, index_t end) {
    partial.data()[chunk] = detail::sum_of_squares(g.data() + begin, end - begin);
  });
  double total = 0;
  for (index_t c = 0; c < partial.size(); ++c) total += partial.data()[c];
  return std::sqrt(total);
}
/// T is that of the view.
template <class V>
  requires(V::rank == 1)
double global_norm(cpu const& space, V const& g, arena& scratch) {
  return global_norm<typename V::value_type>(space, g, scratch);
}

/// The same, written to `norm`: in the CUDA space the host does not wait for it.
template <class T>
void global_norm(cpu const& space, in<T, dyn> g, tensor<double, 1> norm, arena& scratch) {
  norm(0) = global_norm<T>(space, g, scratch);
}
/// T is that of the view.
template <class V>
  requires(V::rank == 1)
void global_norm(cpu const& space, V const& g, tensor<double, 1> norm, arena& scratch) {
  global_norm<typename V::value_type>(space, g, norm, scratch);
}

namespace detail {
inline void check_max_norm(double max_norm) {
  expects(max_norm > 0, errc::bad_argument, "clip_scale: max_norm is ", max_norm, ", needs to be above 0");
}
MOE_HD inline double clip_factor(double norm, double max_norm) {
  if (!(norm < __builtin_inf())) return __builtin_nan("");
  double const factor = max_norm / (norm + 1e-6);
  return factor < 1.0 ? factor : 1.0;
}
}  // namespace detail

/// What to multiply a gradient of norm `norm` with so that its norm is at most `max_norm`: min(1, max_norm / (norm + 1e-6)). A norm that is NaN or
/// infinite gives NaN: the step must not be taken, and adamw refuses it. max_norm = infinity clips nothing.
/// Throws  bad_argument unless max_norm > 0.
inline double clip_scale(double norm, double max_norm) {
  detail::check_max_norm(max_norm);
  return detail::clip_factor(norm, max_norm);
}
/// The same with norm and factor in the memory of the space: from global_norm to adamw without a wait.
inline void clip_scale(cpu const& /*space*/, in<double, 1> norm, double max_norm, tensor<double, 1> scale) { scale(0) = clip_scale(norm(0), max_norm); }

}  // namespace moe::inline MOE_ISA
