#pragma once
#include <moe/core/vectors.cuh>
#include <moe/mix/group_softmax.hpp>

namespace moe::inline MOE_ISA {

namespace detail {

/// One group of a product as its kernel sees it:  to[m, c] = sum_k weight[m * m_step + k * k_step] from[k, c].
template <class T>
struct device_group {
  spaced_rows<T const> from;
  spaced_rows<T> to;
  accumulator<T> const* weight;
  index_t m_step, k_step;
};

/// All groups: mixing, from members to experts, or redistribution, from experts to members.
template <class T>
struct device_groups {
  tensor<accumulator<T> const, dyn, dyn> weight;
  tensor<T const, dyn, dyn> from;
  tensor<T, dyn, dyn> to;
  token_groups groups;
  bool mixing;

  MOE_HD index_t m() const { return mixing ? weight.template extent<1>() : groups.size; }
  MOE_HD index_t k() const { return mixing ? groups.size : weight.template extent<1>(); }
  MOE_HD index_t columns() const { return to.template extent<1>(); }
  __device__ device_group<T> group(index_t g) const {
    auto const w = members_of(weight, groups, g);
    if (mixing) return {members_of(from, groups, g), mixtures_of(to, groups, g), w.data, 1, w.stride};
    return {mixtures_of(from, groups, g), members_of(to, groups, g), w.data, w.stride, 1};
  }
};

/// A warp's share: `outputs` rows of one group, columns [c0, c1).
struct mix_item {
  index_t group, m0, c0, c1;
};
/// The shares of all groups by number; those that read the same rows come one after the other, so that memory is read once.
struct mix_items {
  index_t outputs, columns;  ///< of a share at most
  template <class T>
  MOE_HD index_t count(device_groups<T> const& p) const {
    return p.groups.count() * tiles(p.m(), outputs) * tiles(p.columns(), columns);
  }
  template <class T>
  MOE_HD mix_item item(device_groups<T> const& p, index_t number) const {
    index_t const parts = tiles(p.m(), outputs), ranges = tiles(p.columns(), columns), c0 = number / parts % ranges * columns;
    return {number / parts / ranges, number % parts * outputs, c0, p.columns() - c0 < columns ? p.columns() : c0 + columns};
  }

 private:
  MOE_HD static index_t tiles(index_t n, index_t size) { return (n + size - 1) / size; }
};

inline constexpr int mix_warps = 4, mix_depth = 32, mix_ahead = 4;

/// For each warp a part of its group's weights, [mix_depth, Outputs]; rows of another length spread what is written over the banks.
template <class A, int Outputs>
struct mix_weights {
  ptx::shared_matrix<A, mix_warps * mix_depth, Outputs + 4> w;

  /// Weights [m0, m0 + Outputs) by [k0, k0 + mix_depth), zeros beyond m.
  template <class T>
  __device__ void load(int warp, int lane, device_group<T> const& g, index_t m0, index_t m, index_t k0, int depth) {
    for (int i = lane; i < mix_depth * Outputs; i += lanes) {
      int const row = g.m_step == 1 ? i / Outputs : i % mix_depth, column = g.m_step == 1 ? i % Outputs : i / mix_depth;
      if (row < depth) w(warp * mix_depth + row, column) = m0 + column < m ? g.weight[(m0 + column) * g.m_step + (k0 + row) * g.k_step] : A(0);
    }
  }
};

/// The sums of a thread: a pack of columns for each output.
template <class T, int Outputs>
struct mix_sums {
  using A = accumulator<T>;
  static constexpr int size = pack_size<T>;
  A v[Outputs][size];

  template <class Weights>
  __device__ void add(Weights& shared, int row, ptx::vector16<T> const& x) {
    constexpr int width = ptx::vector16<A>::size;
#pragma unroll
    for (int m = 0; m < Outputs; m += width) {
      auto const w = ptx::load_16(&shared.w(row, m));
#pragma unroll
      for (int j = 0; j < width; ++j)
#pragma unroll
        for (int i = 0; i < size; ++i) v[m + j][i] = madd(w.v[j], static_cast<A>(x.v[i]), v[m + j][i]);
    }
  }
};

}  // namespace detail

/// A warp computes Outputs outputs of a group for 512 bytes of columns: 16 bytes per lane, whose sums stay in registers while the group's rows pass by.
template <int Outputs, class T>
__global__ void __launch_bounds__(32 * detail::mix_warps, sizeof(accumulator<T>) > 4 ? 2 : 3)
    mix_fma_kernel(detail::device_groups<T> p, detail::mix_items items) {
  using A = accumulator<T>;
  constexpr int size = detail::pack_size<T>;
  auto& shared = ptx::dynamic_shared<detail::mix_weights<A, Outputs>>();
  int const lane = static_cast<int>(threadIdx.x) % detail::lanes, warp = static_cast<int>(threadIdx.x) / detail::lanes;
  index_t const count = items.count(p), k = p.k();
  for (index_t number = index_t{blockIdx.x} * detail::mix_warps + warp; number < count; number += index_t{gridDim.x} * detail::mix_warps) {
    auto const item = items.item(p, number);
    auto const g = p.group(item.group);
    index_t const c = item.c0 + lane * size, left = item.c1 - c;
    detail::mix_sums<T, Outputs> sum = {};
    for (index_t k0 = 0; k0 < k; k0 += detail::mix_depth) {
      int const depth = k - k0 < detail::mix_depth ? static_cast<int>(k - k0) : detail::mix_depth, first = warp * detail::mix_depth;
      __syncwarp();  // nobody reads the weights before these any more
      shared.load(warp, lane, g, item.m0, p.m(), k0, depth);
      __syncwarp();
      int row = 0;
      for (; row + detail::mix_ahead <= depth; row += detail::mix_ahead) {
        ptx::vector16<T> x[detail::mix_ahead];
#pragma unroll
        for (int i = 0; i < detail::mix_ahead; ++i) x[i] = detail::load_vector(g.from.row(k0 + row + i) + c, left);
#pragma unroll
        for (int i = 0; i < detail::mix_ahead; ++i) sum.add(shared, first + row + i, x[i]);
      }
      for (; row < depth; ++row) sum.add(shared, first + row, detail::load_vector(g.from.row(k0 + row) + c, left));
    }
#pragma unroll
    for (int m = 0; m < Outputs; ++m) {
      detail::pack<A, size> y;
#pragma unroll
      for (int i = 0; i < size; ++i) y.v[i] = sum.v[m][i];
      if (item.m0 + m < p.m()) detail::store_pack(g.to.row(item.m0 + m) + c, y, left);
    }
  }
}

namespace detail {
template <int Outputs, class T>
void mix_by_fma(char const* name, cuda const& space, device_groups<T> const& p) {
  mix_items const items{Outputs, lanes * pack_size<T>};
  launch(name, mix_fma_kernel<Outputs, T>,
         {.blocks = (items.count(p) + mix_warps - 1) / mix_warps,
          .threads = lanes * mix_warps,
          .shared_bytes = sizeof(mix_weights<accumulator<T>, Outputs>)},
         space, p, items);
}
template <class T>
void mix_by_fma(char const* name, cuda const& space, device_groups<T> const& p) {
  if (p.m() <= 8) mix_by_fma<8>(name, space, p);
  else mix_by_fma<16>(name, space, p);  // neighbours of a block then read the same rows: from memory once
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA
