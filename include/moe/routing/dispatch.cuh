#pragma once
#include <moe/core/vectors.cuh>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/dispatch_plan.cuh>

// The CUDA overloads of dispatch.hpp, with all views in device memory; asynchronous on `space.stream`.
//
// None of them reads the plan on the host, so none knows how many choices were kept: `rows` in their contracts is plan.most_rows, and so many rows need
// xs, ys and their gradients. Rows behind the last are not touched here either.
namespace moe::inline MOE_ISA {

namespace detail {

/// Column c of the launch is the c-th group of 16 bytes.
template <class T>
struct gather_row {
  tensor<T const, dyn, dyn> x;
  tensor<int const, dyn> token;
  tensor<T, dyn, dyn> xs;
  __device__ void operator()(index_t r, index_t c) const {
    index_t const t = token(r), at = c * pack_size<T>, left = x.template extent<1>() - at;
    if (t >= 0 && t < x.template extent<0>()) store_vector(xs.row(r) + at, load_vector(x.row(t) + at, left), left);
  }
};

/// y[t] = sum_j weight(t, j) x[position[t k + j]] in 16 bytes of a row, without weights if `weight` is empty.
template <bool Weighted, class T, class TW>
struct sum_of_choices {
  tensor<T const, dyn, dyn> x;
  tensor<TW const, dyn, dyn> weight;
  tensor<int const, dyn> position;
  tensor<T, dyn, dyn> y;
  int k;
  __device__ void operator()(index_t t, index_t c) const {
    using A = accumulator<T>;
    constexpr int size = pack_size<T>;
    index_t const at = c * size, left = y.template extent<1>() - at;
    pack<A, size> sum{};
#pragma unroll 4
    for (int j = 0; j < k; ++j) {
      index_t const r = position(t * k + j);
      if (r < 0 || r >= x.template extent<0>()) continue;
      A w = 1;
      if constexpr (Weighted) w = static_cast<A>(weight(t, j));
      auto const part = load_pack<size>(x.row(r) + at, left);
#pragma unroll
      for (int i = 0; i < size; ++i) sum.v[i] = madd(w, part.v[i], sum.v[i]);
    }
    store_pack(y.row(t) + at, sum, left);
  }
};

/// One warp per choice.
template <class T, class TW>
struct choice_gradient {
  tensor<T const, dyn, dyn> d_y, ys;
  tensor<TW const, dyn, dyn> weight;
  tensor<int const, dyn> position;
  tensor<T, dyn, dyn> d_ys;
  tensor<TW, dyn, dyn> d_weight;
  __device__ void operator()(index_t s, int lane) const {
    using A = accumulator<T>;
    constexpr int size = pack_size<T>;
    int const k = static_cast<int>(weight.template extent<1>()), t = static_cast<int>(s) / k, j = static_cast<int>(s) % k;
    index_t const r = position(s), d = d_y.template extent<1>();
    A dot = 0;
    if (r >= 0 && r < ys.template extent<0>() && r < d_ys.template extent<0>()) {
      A const w = static_cast<A>(weight(t, j));
      for (index_t c = lane * size; c < d; c += lanes * size) {
        auto g = load_pack<size>(d_y.row(t) + c, d - c);
        auto const y = load_pack<size>(ys.row(r) + c, d - c);
#pragma unroll
        for (int i = 0; i < size; ++i) {
          dot = madd(g.v[i], y.v[i], dot);
          g.v[i] *= w;
        }
        store_pack(d_ys.row(r) + c, g, d - c);
      }
    }
    dot = warp_sum(dot);
    if (lane == 0) d_weight(t, j) = TW(dot);
  }
};
}  // namespace detail

/// The contract of dispatch(cpu). Tokens of the plan that x has not are skipped.
template <class T, index_t R, index_t D>
void dispatch(cuda const& space, in<T, dyn, dyn> x, dispatch_plan const& plan, tensor<T, R, D> const& xs) {
  detail::check_dispatched(plan, plan.most_rows, x, xs);
  index_t const rows = std::min(plan.slots(), xs.template extent<0>());
  for_each_element("dispatch", space, rows, detail::packs<T>(x.template extent<1>()), detail::gather_row<T>{x, plan.token, xs});
}

/// The contract of dispatch_backward(cpu), and its bits. Rows of the plan that d_xs has not count as dropped.
template <class T, index_t R, index_t D>
void dispatch_backward(cuda const& space, in<T, dyn, dyn> d_xs, dispatch_plan const& plan, index_t k, tensor<T, R, D> const& d_x) {
  detail::check_dispatch_backward(plan, plan.most_rows, k, d_xs, d_x);
  for_each_element("dispatch_backward", space, d_x.rows(), detail::packs<T>(d_x.template extent<1>()),
                   detail::sum_of_choices<false, T, T>{d_xs, {}, plan.position, d_x, static_cast<int>(k)});
}

/// The contract of combine(cpu), and its bits where the CPU has fused multiply-adds. Rows of the plan that ys has not count as dropped.
template <class T, class TW, index_t W, index_t K, index_t R, index_t D>
void combine(cuda const& space, in<T, dyn, dyn> ys, tensor<TW, W, K> const& weight, dispatch_plan const& plan, tensor<T, R, D> const& y) {
  detail::check_combine(plan, plan.most_rows, ys, weight, y);
  for_each_element("combine", space, y.rows(), detail::packs<T>(y.template extent<1>()),
                   detail::sum_of_choices<true, T, std::remove_const_t<TW>>{ys, weight, plan.position, y, static_cast<int>(plan.k)});
}

/// The contract of combine_backward(cpu). Rows of the plan that ys or d_ys has not count as dropped.
///
/// Order   d_weight: a lane of a warp takes 16 bytes of every 512, one chain of madd over ascending columns, then a tree of halves.
template <class T, class TW, index_t R, index_t D, index_t W, index_t K>
void combine_backward(cuda const& space, in<T, dyn, dyn> d_y, in<T, dyn, dyn> ys, in<TW, dyn, dyn> weight, dispatch_plan const& plan,
                      tensor<T, R, D> const& d_ys, tensor<TW, W, K> const& d_weight) {
  detail::check_combine_backward(plan, plan.most_rows, d_y, ys, weight, d_ys, d_weight);
  for_each_row("combine_backward", space, plan.slots(), detail::choice_gradient<T, TW>{d_y, ys, weight, plan.position, d_ys, d_weight});
}

}  // namespace moe::inline MOE_ISA
