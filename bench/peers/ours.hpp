#pragma once
// The one place where the comparison calls this library: weights in panels, as an optimizer keeps them.
#include <bench/peers/problem.hpp>
#include <moe/gemm/grouped_gemm.hpp>

namespace bench::peers {

template <class T>
class ours {
 public:
  ours(problem<T> const& p, int threads)
      : problem_(p), threads_(threads), packed_(moe::packed_weights_bytes<T>(p.s.experts, p.s.out, p.s.in)),
        gradient_(moe::packed_weights_bytes<float>(p.s.experts, p.s.out, p.s.in)),
        scratch_(moe::packed_gemm_scratch_bytes<T>(moe::cpu{threads}, p.s.experts, p.s.rows(), p.s.out, p.s.in)),
        rows_(static_cast<std::size_t>(p.s.rows() * std::max(p.s.in, p.s.out)) * sizeof(T)) {
    moe::pack_weights(moe::cpu{threads}, plain(p.w.template as<T>()), weights());
  }

  std::function<void()> prepare(pass which) {
    if (which == pass::forward) return [this] { forward(); };
    if (which == pass::input_gradient) return [this] { input_gradient(); };
    return [this] { weight_gradient(); };
  }
  /// The result of the last call, row-major. That of a weight gradient is copied out of its panels.
  void const* result(pass which) {
    if (which != pass::weight_gradient) return rows_.data();
    unpacked_ = moe::buffer(sizeof(float) * static_cast<std::size_t>(problem_.weights));
    moe::unpack_weights(moe::cpu{threads_}, gradient(), plain(unpacked_.template as<float>()));
    return unpacked_.data();
  }

 private:
  shape const& s() const { return problem_.s; }
  template <class U>
  auto plain(U* p) const {
    return moe::tensor<U, moe::dyn, moe::dyn, moe::dyn>(p, s().experts, s().out, s().in);
  }
  moe::packed_weights<T> weights() const { return {packed_.template as<T>(), s().experts, s().out, s().in}; }
  moe::packed_weights<float> gradient() const { return {gradient_.template as<float>(), s().experts, s().out, s().in}; }
  auto rows(moe::buffer const& b, index_t width) const { return moe::matrix_view<T>(b.template as<T>(), s().rows(), width); }
  moe::vector_view<index_t const> offsets() const { return moe::vector_view<index_t const>(problem_.offsets.data(), s().experts + 1); }
  moe::arena scratch() const { return moe::arena(scratch_); }

  void forward() const {
    auto memory = scratch();
    if (s().experts == 1)
      moe::gemm<moe::gemm_config{.transpose_b = true}>(moe::cpu{threads_}, rows(problem_.x, s().in), weights(), rows(rows_, s().out), memory);
    else moe::grouped_gemm(moe::cpu{threads_}, rows(problem_.x, s().in), offsets(), weights(), rows(rows_, s().out), memory);
  }
  void input_gradient() const {
    auto memory = scratch();
    moe::grouped_gemm<moe::grouped_gemm_config{.transpose_w = false}>(moe::cpu{threads_}, rows(problem_.d_y, s().out), offsets(), weights(),
                                                                      rows(rows_, s().in), memory);
  }
  void weight_gradient() const {
    auto memory = scratch();
    moe::grouped_gemm_weight_gradient(moe::cpu{threads_}, rows(problem_.d_y, s().out), rows(problem_.x, s().in), offsets(), gradient(), memory);
  }

  problem<T> const& problem_;
  int threads_;
  moe::buffer packed_, gradient_, scratch_, rows_, unpacked_;
};

}  // namespace bench::peers
