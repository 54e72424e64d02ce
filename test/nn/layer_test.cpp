#include <moe/nn/layer.hpp>

#include <moe/nn/attention_layer.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

#include "test/support.hpp"

using namespace moe::nn;

namespace {
constexpr ffn_config dense{.d_model = 8, .d_ff = 16};
constexpr moe_ffn_config sparse{.d_model = 8, .d_ff = 16, .experts = 2, .granularity = 2};
constexpr attention_config heads{.d_model = 8, .heads = 2};
constexpr language_model_config ends{.vocab = 16, .d_model = 8};
using block = sequence<residual<attention_layer<heads>>, residual<moe_ffn<sparse>>>;

template <class L>
constexpr bool fits = layer_in<L, moe::cpu, float>&& layer_in<L, moe::cpu, double>&& layer_in<L, moe::cpu, moe::bf16>;
static_assert(fits<ffn<dense>> && fits<moe_ffn<sparse>> && fits<attention_layer<heads>>);
static_assert(fits<residual<ffn<dense>>> && fits<block> && fits<repeat<3, block>>);
static_assert(named_layer_type<ffn<dense>> && named_layer_type<moe_ffn<sparse>> && named_layer_type<attention_layer<heads>>);
static_assert(named_layer_type<residual<ffn<dense>>> && layer_type<block> && !named_layer_type<repeat<2, block>>);
static_assert(!layer_type<int> && !layer_type<ffn_config> && !layer_in<ffn<dense>, int, float>);
static_assert(!fits<language_model<ends, block>>);  // takes tokens, not rows

/// The least that is a layer: y = x. Each of the types below lacks one thing of it.
struct identity : layer_base {
  static constexpr int d_model = 8;
  static constexpr std::string_view name = "identity";
  static constexpr moe::index_t parameter_count = 0;
  template <class F>
  static void for_each_parameter(std::string const&, moe::index_t, F const&) {}
  static constexpr moe::index_t active_parameters() { return 0; }
  static constexpr double flops_per_token(moe::index_t) { return 0; }
  template <class T>
  using state = stateless<T>;
  template <class T>
  struct activations {
    template <class S>
    activations(S const&, moe::arena&, sequence_shape) {}
  };
  template <class T, class S>
  static std::size_t scratch_bytes(S const&, sequence_shape) {
    return 0;
  }
  template <class T, class S>
  static std::size_t extend_scratch_bytes(S const&, moe::index_t, moe::index_t) {
    return 0;
  }
  template <class S, class T>
  static void forward(S const&, T const*, moe::matrix_view<T const> x, moe::matrix_view<T> y, sequence_shape, activations<T>&, moe::arena&) {
    std::copy_n(x.data(), x.size(), y.data());
  }
  template <class S, class T>
  static void backward(S const&, T const*, moe::accumulator<T>*, moe::matrix_view<T const> d_y, moe::matrix_view<T> d_x, sequence_shape, activations<T>&, double,
                       moe::arena&) {
    std::copy_n(d_y.data(), d_y.size(), d_x.data());
  }
  template <class S, class T>
  static void extend(S const&, T const*, moe::matrix_view<T const> x, moe::matrix_view<T> y, moe::index_t, state<T>&, moe::arena&) {
    std::copy_n(x.data(), x.size(), y.data());
  }
};
static_assert(fits<identity> && named_layer_type<identity> && fits<repeat<2, residual<identity>>>);

struct nameless : identity {
  static constexpr int name = 3;
};
struct no_width : identity {
  static constexpr char const* d_model = "8";
};
struct no_count : identity {
  static void active_parameters() {}
};
struct no_cost : identity {
  static constexpr double flops_per_token() { return 0; }
};
struct no_parameters : identity {
  static void for_each_parameter(std::string const&) {}
};
struct no_backward : identity {
  static void backward() {}
};
struct no_extend : identity {
  static void extend() {}
};
struct no_extend_scratch : identity {
  static void extend_scratch_bytes() {}
};
struct scratch_without_space : identity {
  template <class T>
  static std::size_t scratch_bytes(sequence_shape) {
    return 0;
  }
};
struct no_routers : identity {
  static void for_each_router() {}
};
static_assert(layer_type<nameless> && !named_layer_type<nameless>);
static_assert(!layer_type<no_width> && !layer_type<no_count> && !layer_type<no_cost> && !layer_type<no_parameters>);
static_assert(!fits<no_backward> && !fits<no_extend> && !fits<no_extend_scratch> && !fits<scratch_without_space> && !fits<no_routers>);
}  // namespace

TEST_CASE("sequence_shape: tokens, beyond 32 bits and of nothing") {
  CHECK(sequence_shape{.sequences = 3, .length = 5}.tokens() == 15);
  CHECK(sequence_shape{}.tokens() == 0);
  CHECK(sequence_shape{.sequences = 1 << 20, .length = 1 << 20}.tokens() == moe::index_t{1} << 40);
  CHECK(test::error_of([] { (void)sequence_shape{.sequences = -2, .length = -4}.tokens(); }) != "");  // whose product is positive
  CHECK(test::error_of([] { (void)sequence_shape{.sequences = INT64_MAX / 2, .length = 4}.tokens(); }) != "");
}

TEST_CASE("layer_base: a layer without state keeps nothing and has no routers") {
  moe::arena measure;
  layer_base::stateless<float> state(moe::cpu{}, measure, 1000);
  CHECK(measure.peak() == 0);
  int calls = 0;
  layer_base::for_each_router(state, [&](auto const&) { ++calls; });
  CHECK(calls == 0);
}

TEST_CASE("measured: the bytes that are taken, the peak where parts are given back") {
  CHECK(moe::nn::detail::measured([](moe::arena&) {}) == 0);
  std::size_t const one = moe::nn::detail::measured([](moe::arena& a) { a.mat<float>(3, 100); });
  CHECK(one >= 1200);
  moe::arena same;
  same.mat<float>(3, 100);
  CHECK(one == same.peak());
  std::size_t const scoped = moe::nn::detail::measured([](moe::arena& a) {
    for (int i = 0; i < 5; ++i) {
      moe::arena::scope const scope(a);
      a.mat<float>(3, 100);
    }
  });
  CHECK(scoped == one);
  // enough for the same calls on real memory
  moe::buffer memory(one);
  moe::arena real(memory);
  CHECK(test::error_of([&] { real.mat<float>(3, 100); }).empty());
  CHECK(test::contains(test::error_of([&] { real.mat<float>(3, 100); }), "arena"));
}

TEST_CASE("layer: the least that is a layer runs in a residual branch, y = x + rms_norm(x)") {
  using L = residual<identity>;
  moe::cpu const space;
  sequence_shape const shape{.sequences = 1, .length = 1};
  moe::buffer kept(moe::nn::detail::measured([&](moe::arena&a) { L::activations<float>(space, a, shape); })),
      work(L::scratch_bytes<float>(space, shape));
  moe::arena memory(kept), scratch(work);
  L::activations<float> activations(space, memory, shape);
  std::vector<float> w(L::parameter_count), x{2, -2, 2, -2, 2, -2, 2, -2}, y(8);
  initialise<L, test::space>(w.data(), 1);
  L::forward(space, static_cast<float const*>(w.data()), moe::mat(static_cast<float const*>(x.data()), 1, 8), moe::mat(y.data(), 1, 8), shape,
             activations, scratch);
  for (std::size_t i = 0; i < 8; ++i) CHECK(y[i] == doctest::Approx(1.5 * static_cast<double>(x[i])).epsilon(1e-5));
}
