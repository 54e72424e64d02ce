#pragma once
#include <moe/core/parallel.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/tensor.hpp>

namespace moe::inline MOE_ISA::nn {

namespace detail {
/// to += x, element by element.
template <class T>
void add(cpu const& space, in<T, dyn, dyn> x, matrix_view<T> to) {
  index_t const columns = to.template extent<1>();
  parallel_for(space, to.template extent<0>(), static_cast<double>(columns), [&](index_t i) {
    using A = accumulator<T>;
    using V = simd<A>;
    T const* from = x.row(i);
    T* y = to.row(i);
    for (index_t c = 0; c < columns; c += V::width) (V::load(y + c, columns - c) + V::load(from + c, columns - c)).store(y + c, columns - c);
  });
}
}  // namespace detail

}  // namespace moe::inline MOE_ISA::nn
