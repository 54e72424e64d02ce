#pragma once
#include <moe/mix/detail/group_mma.cuh>
#include <moe/mix/group_softmax.cuh>
#include <moe/mix/token_mixing.hpp>

// The CUDA overloads of token_mixing.hpp, with all views in device memory; asynchronous on `space.stream`, without atomics.
namespace moe::inline MOE_ISA {

namespace detail {
template <class T>
void multiply_groups(char const* name, cuda const& space, device_groups<T> const& p) {
  if constexpr (std::is_same_v<T, bf16>) mix_by_mma(name, space, p);
  else mix_by_fma(name, space, p);
}

inline constexpr int dot_block_rows = 8;

/// A warp sums 8 members by 8 experts of a group: row `number` of the launch. A lane takes 4 columns (of double 2) of every 128 (64).
template <bool Accumulate, class T>
struct group_dot_products {
  using A = accumulator<T>;
  static constexpr int size = ptx::vector16<A>::size;
  using columns = pack<A, size>;
  tensor<T const, dyn, dyn> rows, mixed;
  tensor<A, dyn, dyn> d_weight;
  token_groups groups;

  MOE_HD static index_t blocks(index_t n) { return (n + dot_block_rows - 1) / dot_block_rows; }
  MOE_HD index_t experts() const { return d_weight.template extent<1>(); }
  index_t count() const { return groups.count() * blocks(groups.size) * blocks(experts()); }

  /// Columns [c, c + size) of a row, zeros from the end of the row on; `row` may be any that exists.
  __device__ static columns load(T const* row, index_t left) {
    columns r{};
    if constexpr (std::is_same_v<T, A>) {
      r = load_pack<size>(row, left);
    } else if (left >= size && reinterpret_cast<std::uintptr_t>(row) % (size * sizeof(T)) == 0) {
      struct alignas(size * sizeof(T)) piece {
        T v[size];
      };
      piece const p = *reinterpret_cast<piece const*>(row);
#pragma unroll
      for (int i = 0; i < size; ++i) r.v[i] = static_cast<A>(p.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < size; ++i)
        if (i < left) r.v[i] = static_cast<A>(row[i]);
    }
    return r;
  }

  __device__ void operator()(index_t number, int lane) const {
    index_t const across = blocks(experts()), down = blocks(groups.size), g = number / across / down, i0 = number / across % down * dot_block_rows,
                  e0 = number % across * dot_block_rows, d = rows.template extent<1>();
    auto const x = members_of(rows, groups, g), y = mixtures_of(mixed, groups, g);
    int const members = groups.size - i0 < dot_block_rows ? static_cast<int>(groups.size - i0) : dot_block_rows,
              answers = experts() - e0 < dot_block_rows ? static_cast<int>(experts() - e0) : dot_block_rows;
    A sum[dot_block_rows][dot_block_rows] = {};
    for (index_t c = lane * size; c < d; c += lanes * size) {
      columns right[dot_block_rows];
#pragma unroll
      for (int e = 0; e < dot_block_rows; ++e) right[e] = e < answers ? load(y.row(e0 + e) + c, d - c) : columns{};
#pragma unroll
      for (int i = 0; i < dot_block_rows; ++i) {
        if (i >= members) break;
        columns const left = load(x.row(i0 + i) + c, d - c);
#pragma unroll
        for (int e = 0; e < dot_block_rows; ++e)
#pragma unroll
          for (int j = 0; j < size; ++j) sum[i][e] = madd(left.v[j], right[e].v[j], sum[i][e]);
      }
    }
    auto const out = members_of(d_weight, groups, g);
#pragma unroll
    for (int i = 0; i < dot_block_rows; ++i)
#pragma unroll
      for (int e = 0; e < dot_block_rows; ++e) {
        if (i >= members || e >= answers) continue;  // the same for all lanes
        A const total = warp_sum(sum[i][e]);
        if (lane != 0) continue;
        A& to = out.row(i0 + i)[e0 + e];
        to = Accumulate ? to + total : total;
      }
  }
};
}  // namespace detail

/// The contract of mix_tokens(cpu).
///
/// Order   float and double: the bits of the CPU where it has fused multiply-adds. bf16, on tensor cores: a weight is split into two bf16 that add up to
///         16 of its bits, members in steps of 16 in ascending order, in each step the upper parts before the lower; the 16 products of a step are
///         added to the float sum in the hardware's order. Independent of the other groups, experts, strides and columns. An infinity in x or weight
///         may come out as NaN.
/// Cost    reads x and writes mixed once; more than 32 experts read a group again, from L2.
template <class T, index_t R, index_t D>
void mix_tokens(cuda const& space, in<T, dyn, dyn> x, in<accumulator<T>, dyn, dyn> weight, token_groups const& groups, tensor<T, R, D> const& mixed) {
  matrix_view<T> const to = mixed;
  detail::check_mixing("mix_tokens", groups, "x", x, weight, to);
  detail::multiply_groups("mix_tokens", space, detail::device_groups<T>{weight, x, to, groups, true});
}

/// The contract of redistribute_tokens(cpu); order and cost as mix_tokens(cuda), with experts in the place of members.
template <class T, index_t R, index_t D>
void redistribute_tokens(cuda const& space, in<T, dyn, dyn> mixed, in<accumulator<T>, dyn, dyn> weight, token_groups const& groups,
                         tensor<T, R, D> const& y) {
  matrix_view<T> const to = y;
  detail::check_mixing("redistribute_tokens", groups, "y", to, weight, mixed);
  detail::multiply_groups("redistribute_tokens", space, detail::device_groups<T>{weight, mixed, to, groups, false});
}

/// The contract of mixing_weight_gradient(cpu).
///
/// Order   a lane of a warp takes 4 of every 128 columns (double: 2 of every 64), one chain of madd over ascending columns, then a tree of halves.
/// Cost    reads rows and mixed once from memory; blocks of 8 by 8 read them again from the caches.
template <mixing_weight_gradient_config C = mixing_weight_gradient_config{}, class T, class A, index_t XR, index_t XD, index_t R, index_t E>
void mixing_weight_gradient(cuda const& space, tensor<T, XR, XD> const& rows, in<std::remove_const_t<T>, dyn, dyn> mixed, token_groups const& groups,
                            tensor<A, R, E> const& d_weight) {
  using S = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulator<S>>, "moe::mixing_weight_gradient: d_weight must be of the type that sums of rows are formed in");
  matrix_view<S const> const x = rows;
  matrix_view<A> const to = d_weight;
  detail::check_mixing("mixing_weight_gradient", groups, "rows", x, to, mixed);
  detail::group_dot_products<C.accumulate, S> const dots{x, mixed, to, groups};
  for_each_row("mixing_weight_gradient", space, dots.count(), dots);
}

}  // namespace moe::inline MOE_ISA
