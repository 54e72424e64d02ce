#pragma once
// What every layer must satisfy: gradients, bits across threads, decoding equal to the forward pass.
#include <moe/nn/layer.hpp>
#if defined(MOE_TEST_CUDA)
#include <moe/moe.cuh>  // a layer may stand in others
#endif

#include "test/nn/parameter_places.hpp"

namespace test {

/// A layer with memory for one batch shape. The loss is sum(c * y) plus the layer's own losses.
template <class L, class T>
struct layer_run {
  using activations = typename L::template activations<T>;
  moe::nn::sequence_shape shape;
  test::space space;
  memory<T> w = memory<T>(static_cast<std::size_t>(L::parameter_count));
  memory<moe::accumulator<T>> g = memory<moe::accumulator<T>>(w.size());
  array<T> x, y, c, d_x;
  memory<std::byte> kept_memory, scratch_memory;
  moe::arena kept;
  activations a;

  static std::size_t activation_bytes(test::space const& s, moe::nn::sequence_shape n) {
    moe::arena measure;
    activations(s, measure, n);
    return measure.peak();
  }
  explicit layer_run(moe::nn::sequence_shape n, std::uint64_t seed = 1, test::space const& s = on())
      : shape(n), space(s), x(n.tokens(), L::d_model), y(n.tokens(), L::d_model), c(n.tokens(), L::d_model), d_x(n.tokens(), L::d_model),
        kept_memory(activation_bytes(s, n), std::byte{0xff}), scratch_memory(L::template scratch_bytes<T>(s, n)),
        kept(kept_memory.data(), kept_memory.size()), a(s, kept, n) {
    moe::nn::initialise<L, test::space>(w.data(), seed);
    x.normal(seed + 1);
    c.normal(seed + 2);
  }
  moe::arena scratch() {
    std::memset(scratch_memory.data(), 0xff, scratch_memory.size());
    return moe::arena(scratch_memory.data(), scratch_memory.size());
  }
  double forward() {
    moe::arena s = scratch();
    y.poison();
    L::forward(space, static_cast<T const*>(w.data()), moe::matrix_view<T const>(x.mat()), y.mat(), shape, a, s);
    double loss = 0;
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t i = 0; i < L::d_model; ++i) loss += static_cast<double>(y(t, i)) * static_cast<double>(c(t, i));
    L::for_each_router(a, [&](auto const& r) { loss += r.losses(0) + r.losses(1); });
    return loss;
  }
  void backward() {
    moe::arena s = scratch();
    std::fill(g.begin(), g.end(), moe::accumulator<T>(0));
    d_x.poison();
    L::backward(space, static_cast<T const*>(w.data()), g.data(), moe::matrix_view<T const>(c.mat()), d_x.mat(), shape, a, 1.0, s);
  }
  std::vector<int> choices() {
    std::vector<int> all;
    L::for_each_router(a, [&](auto const& r) {
      for (index_t t = 0; t < r.expert.template extent<0>(); ++t)
        for (index_t j = 0; j < r.expert.template extent<1>(); ++j) all.push_back(r.expert(t, j));
    });
    return all;
  }
};

/// Central differences of every parameter and of the input, in double; the choice of experts must not change under the steps. On the cuda space, where
/// a pass takes the stand-in a hundred times as long, one direction per tensor: element by element the operators are tested on their own.
template <class L>
void check_layer_gradients(moe::nn::sequence_shape n, std::uint64_t seed = 1, gradient_tolerance tolerance = {}) {
  layer_run<L, double> run(n, seed);
  run.forward();
  run.backward();
  auto const chosen = run.choices();
  auto const g = run.g;
  std::vector<double> const d_x = run.d_x.values();
  bool same_choice = true;
  auto const loss = [&] {
    double const l = run.forward();
    same_choice = same_choice && run.choices() == chosen;
    return l;
  };
  for (auto const& p : moe::nn::parameters_of<L, test::space>()) {
    std::vector<double> const part(g.begin() + p.offset, g.begin() + p.offset + p.size);
    if (on_cuda) check_direction(p.name.c_str(), loss, run.w.data() + p.offset, p.size, part, seed, tolerance.step);
    else check_gradient_at(p.name.c_str(), loss, run.w.data(), places_of(p), g.data(), tolerance);
  }
  if (on_cuda) check_direction("x", loss, run.x.data(), run.x.size(), d_x, seed, tolerance.step);
  else check_gradient("x", loss, run.x.data(), run.x.size(), d_x, tolerance);
  CHECK_MESSAGE(same_choice, "a step changed the choice of experts: take another seed");
}

/// Forward and backward: the same bits however they are executed.
template <class L, class T>
void check_layer_executions(moe::nn::sequence_shape n) {
  layer_run<L, T> one(n, 3);
  one.forward();
  one.backward();
  for_each_execution([&](test::space const& s, int) {
    layer_run<L, T> other(n, 3, s);
    other.forward();
    other.backward();
    CHECK(same_bits(one.y.values(), other.y.values()));
    CHECK(same_bits(one.d_x.values(), other.d_x.values()));
    CHECK(same_bits(one.g, other.g));
  });
}

/// How far a is from b: |a - b| / |b| in the Euclidean norm. NaN where one is.
template <class A, class B>
double relative_distance(A const& a, B const& b, std::size_t first, std::size_t n) {
  double difference = 0, size = 0;
  for (std::size_t i = first; i < first + n; ++i) {
    double const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y), size += y * y;
  }
  return size == 0 ? difference : std::sqrt(difference / size);
}

/// A pass over bf16 against one in double over the same rounded weights, input and gradient: whole tensors differ by a few roundings (2^-9 each, in the
/// root mean square about half of that). The gradients of the weights are float, so they hold what bf16 cannot.
template <class L>
void check_layer_bf16(moe::nn::sequence_shape n, std::uint64_t seed = 1, double tolerance = 0.01) {
  layer_run<L, bf16> rounded(n, seed);
  layer_run<L, double> exact(n, seed);
  copy_parameters<L>(rounded.w.data(), exact.w.data());
  for (index_t t = 0; t < n.tokens(); ++t)
    for (index_t i = 0; i < L::d_model; ++i)
      exact.x(t, i) = static_cast<double>(rounded.x(t, i)), exact.c(t, i) = static_cast<double>(rounded.c(t, i));
  exact.forward(), exact.backward();
  rounded.forward(), rounded.backward();
  REQUIRE_MESSAGE(rounded.choices() == exact.choices(), "rounding changed the choice of experts: take another seed");
  auto const near = [&](std::string const& name, auto const& a, auto const& b, std::size_t first, std::size_t size) {
    double const distance = relative_distance(a, b, first, size);
    CHECK_MESSAGE(distance <= tolerance, name << " is off by " << distance << " of its size");
  };
  auto const elements = static_cast<std::size_t>(exact.y.size());
  near("y", rounded.y.values(), exact.y.values(), 0, elements);
  near("d_x", rounded.d_x.values(), exact.d_x.values(), 0, elements);
  bool beyond_bf16 = L::parameter_count == 0;
  for (auto const& p : moe::nn::parameters_of<L, test::space>()) {
    near(p.name, rounded.g, exact.g, static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.size));
    for (index_t i = p.offset; i < p.offset + p.size; ++i) {
      float const g = rounded.g[static_cast<std::size_t>(i)];
      beyond_bf16 = beyond_bf16 || static_cast<float>(bf16(g)) != g;
    }
  }
  CHECK(beyond_bf16);
}

/// A sequence fed to `extend` in pieces gives the bits of the forward pass, whatever the pieces.
template <class L, class T>
void check_layer_extend(index_t length) {
  layer_run<L, T> whole({3, length}, 5);
  whole.forward();
  moe::random_stream const random{9, moe::random_purpose::test, 7};
  std::uint64_t draw = 0;
  for (index_t sequence = 0; sequence < 3; ++sequence) {
    moe::arena measure;
    typename L::template state<T>(whole.space, measure, length);
    memory<std::byte> kept_memory(measure.peak()), scratch_memory(L::template extend_scratch_bytes<T>(whole.space, length, length), std::byte{0xff});
    moe::arena kept(kept_memory.data(), kept_memory.size()), scratch(scratch_memory.data(), scratch_memory.size());
    typename L::template state<T> state(whole.space, kept, length);
    array<T> y(length, L::d_model);
    for (index_t done = 0; done < length;) {
      index_t const rows = sequence == 0 ? 1 : std::min<index_t>(length - done, 1 + static_cast<index_t>(random.below(draw++, 9)));
      L::extend(whole.space, static_cast<T const*>(whole.w.data()), moe::matrix_view<T const>(moe::rows_of(whole.x.mat(), sequence * length + done, sequence * length + done + rows)),
                moe::rows_of(y.mat(), done, done + rows), done, state, scratch);
      done += rows;
    }
    bool same = true;
    for (index_t t = 0; t < length; ++t) same = same && std::memcmp(&y(t, 0), &whole.y(sequence * length + t, 0), sizeof(T) * static_cast<std::size_t>(L::d_model)) == 0;
    CHECK(same);
  }
}

}  // namespace test
