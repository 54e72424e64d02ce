#pragma once
#include <moe/core/elementwise.cuh>
#include <moe/core/vectors.cuh>
#include <moe/routing/weigh_rows.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
template <class T, class TW>
struct weigh_row {
  tensor<int const, dyn> slot;
  tensor<TW const, dyn, dyn> weight;
  tensor<T, dyn, dyn> h, d_h;
  tensor<TW, dyn, dyn> d_weight;
  __device__ void operator()(index_t r, int lane) const {
    using A = accumulator<T>;
    constexpr int size = pack_size<T>;
    int const at = slot(r);
    if (at < 0 || at >= weight.size()) return;
    index_t const width = h.template extent<1>(), t = at / weight.template extent<1>(), j = at % weight.template extent<1>();
    A const w = static_cast<A>(weight(t, j));
    A dot = 0;
    for (index_t c = lane * size; c < width; c += lanes * size) {
      auto x = load_pack<size>(h.row(r) + c, width - c), y = load_pack<size>(d_h.row(r) + c, width - c);
#pragma unroll
      for (int i = 0; i < size; ++i) {
        dot = madd(x.v[i], y.v[i], dot);
        x.v[i] *= w;
        y.v[i] *= w;
      }
      store_pack(h.row(r) + c, x, width - c);
      store_pack(d_h.row(r) + c, y, width - c);
    }
    dot = warp_sum(dot);
    if (lane == 0) d_weight(t, j) = TW(dot);
  }
};
}  // namespace detail

/// The contract of weigh_rows(cpu), with all views in device memory; asynchronous on `space.stream`.
///
/// Edges   slots are not checked: a row whose slot is outside [0, tokens k) is skipped, and of rows with the same slot one gives d_weight.
/// Order   d_weight: a lane of the warp takes 16 bytes of every 512, one chain of madd over ascending columns, then a tree of halves. The products
///         have the bits of the CPU.
template <class T, class TW, index_t W, index_t K>
void weigh_rows(cuda const& space, in<int, dyn> slot, in<TW, dyn, dyn> weight, tensor<T, dyn, dyn> h, tensor<T, dyn, dyn> d_h,
                tensor<TW, W, K> const& d_weight) {
  detail::check_weigh_rows(slot, weight, h, d_h, d_weight);
  fill(space, d_weight, TW(0.0f));
  for_each_row("weigh_rows", space, h.rows(), detail::weigh_row<T, TW>{slot, weight, h, d_h, d_weight});
}

}  // namespace moe::inline MOE_ISA
