// The layer with every router, and what must hold whichever routes.
#include <moe/nn/moe_ffn.hpp>

#include <cmath>
#include <numeric>

#include <moe/nn/routers.hpp>
#include <moe/routing/biased_topk_router.hpp>
#include <moe/routing/expert_choice_router.hpp>
#include <moe/routing/switch_router.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;
using moe::index_t;
using enum moe::score_function;

namespace {
constexpr moe_ffn_config small{.d_model = 6, .d_ff = 8, .experts = 4, .granularity = 2};
constexpr moe_ffn_config shared{.d_model = 6, .d_ff = 8, .experts = 4, .granularity = 2, .shared_experts = 1};
constexpr moe_ffn_config sequence_losses{
    .d_model = 6, .d_ff = 8, .experts = 4, .granularity = 2, .losses = {.balance = 0.5, .z = 0.25, .per_sequence = true}};

using switch_gate = moe::switch_router<moe::switch_config{}>;
using jittered = moe::switch_router<moe::switch_config{.jitter = 0.25}>;
using sigmoid_gate = moe::biased_topk_router<moe::biased_topk_config{.k = 3, .score = sigmoid, .scale = 2.5}>;
using deepseek = moe::biased_topk_router<moe::biased_topk_config{.k = 3, .score = sigmoid, .groups = 4, .kept_groups = 2}>;
using limited_softmax =
    moe::biased_topk_router<moe::biased_topk_config{.k = 2, .score = softmax, .renormalise = false, .groups = 2, .kept_groups = 1}>;
using choice_of_batch = moe::expert_choice_router<moe::expert_choice_config{.experts = 8, .capacity_factor = 2, .pool = moe::choice_pool::batch}>;
using choice_at_position = moe::expert_choice_router<moe::expert_choice_config{.experts = 8, .capacity_factor = 2, .group = 4}>;

/// A layer whose passes have noise from the beginning, and a bias that is not zero.
template <class L>
struct noisy : L {
  template <class T>
  struct activations : L::template activations<T> {
    template <class S>
    activations(S const& space, moe::arena& a, sequence_shape n) : L::template activations<T>(space, a, n) {
      this->routed.noise = moe::random_stream{7, moe::random_purpose::routing_noise, 3};
    }
  };
};
template <class L>
struct biased : L {
  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    L::for_each_parameter(prefix, first, [&](parameter_info p) {
      if (p.group == parameter_group::router_bias) p.init.std = 0.4;
      f(p);
    });
  }
};

/// The largest logit in the first slot, nothing in the second.
struct half_empty : moe::token_choice<2> {
  static constexpr moe::topk_config one{.k = 1, .renormalise = false};
  template <class S, class A>
  static void forward(S const& space, moe::router_input<A> const& input, moe::tensor<A, moe::dyn, 2> weight, moe::tensor<int, moe::dyn, 2> expert,
                      moe::arena&) {
    moe::topk<one>(space, input.logits, moe::tensor<A, moe::dyn, 1>(moe::columns_of(weight, 0, 1)),
                   moe::tensor<int, moe::dyn, 1>(moe::columns_of(expert, 0, 1)));
    moe::fill(space, moe::columns_of(weight, 1, 2), A(0));
    moe::fill(space, moe::columns_of(expert, 1, 2), -1);
  }
  template <class S, class A>
  static void backward(S const& space, moe::router_input<A> const& input, moe::in<A, moe::dyn, 2> weight, moe::in<int, moe::dyn, 2> expert,
                       moe::in<A, moe::dyn, 2> d_weight, moe::matrix_view<A> d_logits, moe::arena&) {
    moe::topk_backward<one>(space, input.logits, moe::columns_of(weight, 0, 1), moe::columns_of(expert, 0, 1), moe::columns_of(d_weight, 0, 1),
                            d_logits);
  }
};

template <class Run>
std::vector<float> row_of(Run& run, index_t t) {
  return {&run.y(t, 0), &run.y(t, 0) + run.y.columns()};
}
}  // namespace

TEST_CASE("moe_ffn: gradients with every router, selection and noise held constant") {
  test::check_layer_gradients<moe_ffn<small, switch_gate>>({2, 5});
  test::check_layer_gradients<noisy<moe_ffn<small, jittered>>>({2, 5});
  test::check_layer_gradients<biased<moe_ffn<small, sigmoid_gate>>>({2, 5});
  test::check_layer_gradients<biased<moe_ffn<small, deepseek>>>({2, 5}, 3);
  test::check_layer_gradients<moe_ffn<small, limited_softmax>>({2, 5});
  test::check_layer_gradients<moe_ffn<small, choice_of_batch>>({2, 5});
  test::check_layer_gradients<moe_ffn<shared, choice_at_position>>({8, 2});
  test::check_layer_gradients<biased<moe_ffn<sequence_losses, sigmoid_gate>>>({3, 4});
}

TEST_CASE("moe_ffn: a router with empty slots, with both losses, and what it dispatches") {
  using L = moe_ffn<moe_ffn_config{.d_model = 6, .d_ff = 8, .experts = 4, .losses = {.balance = 0.5, .z = 0.25}}, half_empty>;
  test::check_layer_gradients<L>({2, 5});
  test::layer_run<L, double> run({2, 5});
  run.forward();
  CHECK(run.a.routed.plan.rows() == 10);
}

TEST_CASE("moe_ffn: every router, the same bits for any number of threads, and bf16 near double") {
  test::check_layer_executions<noisy<moe_ffn<small, jittered>>, float>({2, 21});
  test::check_layer_executions<biased<moe_ffn<small, deepseek>>, float>({2, 21});
  test::check_layer_executions<moe_ffn<small, choice_of_batch>, float>({2, 21});
  test::check_layer_executions<moe_ffn<small, choice_at_position>, float>({4, 9});
  test::check_layer_bf16<noisy<moe_ffn<small, jittered>>>({2, 5});
  test::check_layer_bf16<biased<moe_ffn<small, sigmoid_gate>>>({2, 5});
  test::check_layer_bf16<moe_ffn<small, choice_of_batch>>({2, 5});
}

TEST_CASE("moe_ffn: decoding gives the bits of the forward pass where tokens choose") {
  test::check_layer_extend<moe_ffn<small, switch_gate>, float>(13);
  test::check_layer_extend<moe_ffn<small, jittered>, float>(13);  // without noise there is no jitter
  test::check_layer_extend<biased<moe_ffn<small, deepseek>>, float>(13);
}

TEST_CASE("moe_ffn: a group of sequences decoded side by side chooses as the forward pass did") {
  using L = moe_ffn<shared, choice_at_position>;
  static_assert(L::group_size == 4);
  constexpr index_t length = 5, sequences = 8;
  test::layer_run<L, float> whole({sequences, length}, 5);
  whole.forward();
  for (index_t piece : {index_t{1}, length}) {
    test::scratch memory;
    moe::arena scratch = memory.get();
    REQUIRE(L::extend_group_scratch_bytes<float>(whole.space, {sequences, piece}, length) <= std::size_t{64} << 20);
    moe::arena none;
    L::state<float> state(whole.space, none, length);
    for (index_t at = 0; at < length; at += piece) {
      test::array<float> x(sequences * piece, 6), y(sequences * piece, 6);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t t = 0; t < piece; ++t)
          for (index_t i = 0; i < 6; ++i) x(s * piece + t, i) = whole.x(s * length + at + t, i);
      L::extend_group(
          whole.space, static_cast<float const*>(whole.w.data()), moe::matrix_view<float const>(x.mat()), y.mat(), at, {sequences, piece},
          [&](index_t) -> L::state<float>& { return state; }, scratch);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t t = 0; t < piece; ++t)
          for (index_t i = 0; i < 6; ++i) CHECK(y(s * piece + t, i) == whole.y(s * length + at + t, i));
    }
  }
}

TEST_CASE("moe_ffn: as many choices as experts are the dense computation of all of them") {
  using all = moe_ffn<moe_ffn_config{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 1, .k = 3, .activation = activation_kind::relu}>;
  test::layer_run<all, double> run({2, 5});
  run.forward();
  auto const p = parameters_of<all, test::space>();
  auto const weight = [&](std::size_t i, index_t n, index_t r, index_t c) { return run.w[static_cast<std::size_t>(p[i].place<double>(n, r, c))]; };
  for (index_t t = 0; t < 10; ++t) {
    double score[3], sum = 0, y[6] = {};
    for (index_t e = 0; e < 3; ++e) {
      double logit = 0;
      for (index_t i = 0; i < 6; ++i) logit += weight(0, 0, e, i) * run.x(t, i);
      sum += score[e] = std::exp(logit);
    }
    for (index_t e = 0; e < 3; ++e)
      for (index_t f = 0; f < 8; ++f) {
        double h = 0;
        for (index_t i = 0; i < 6; ++i) h += weight(1, e, f, i) * run.x(t, i);
        for (index_t i = 0; i < 6; ++i) y[i] += score[e] / sum * weight(2, e, i, f) * std::max(h, 0.0);
      }
    for (index_t i = 0; i < 6; ++i) CHECK(std::abs(y[i] - run.y(t, i)) <= 1e-13);
  }
}

TEST_CASE("moe_ffn: expert choice in which every expert takes every token is the dense computation of all of them") {
  constexpr moe_ffn_config c{.d_model = 6, .d_ff = 8, .experts = 3, .k = 3, .renormalise = false, .losses = {.balance = 0, .z = 0}};
  using everything =
      moe_ffn<c, moe::expert_choice_router<moe::expert_choice_config{.experts = 3, .capacity_factor = 3, .pool = moe::choice_pool::batch}>>;
  test::layer_run<everything, double> chosen({2, 5}, 4);
  test::layer_run<moe_ffn<c>, double> dense({2, 5}, 4);
  chosen.forward(), dense.forward();
  for (index_t t = 0; t < 10; ++t)
    for (index_t i = 0; i < 6; ++i) CHECK(std::abs(chosen.y(t, i) - dense.y(t, i)) <= 1e-14);
}

TEST_CASE("moe_ffn: a capacity that nothing exceeds is dropless, bit for bit, forward and backward") {
  constexpr moe_ffn_config dropless{.d_model = 48, .d_ff = 64, .experts = 4, .granularity = 4};
  constexpr moe_ffn_config roomy{.d_model = 48, .d_ff = 64, .experts = 4, .granularity = 4, .capacity_factor = 16};
  test::layer_run<moe_ffn<dropless>, float> a({2, 21}, 3);
  test::layer_run<moe_ffn<roomy>, float> b({2, 21}, 3);
  a.forward(), b.forward(), a.backward(), b.backward();
  CHECK(b.a.routed.plan.dropped() == 0);
  CHECK(test::same_bits(a.y.values(), b.y.values()));
  CHECK(test::same_bits(a.d_x.values(), b.d_x.values()));
  CHECK(test::same_bits(a.g, b.g));
}

TEST_CASE("moe_ffn: tokens in another order give outputs in that order, bit for bit") {
  auto const check = []<class L>(std::type_identity<L>) {
    constexpr index_t tokens = 23;
    test::layer_run<L, float> one({1, tokens}, 3), other({1, tokens}, 3);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t i = 0; i < L::d_model; ++i) other.x((t * 7 + 5) % tokens, i) = one.x(t, i);
    one.forward(), other.forward();
    for (index_t t = 0; t < tokens; ++t) CHECK(row_of(one, t) == row_of(other, (t * 7 + 5) % tokens));
  };
  check(std::type_identity<moe_ffn<small>>());
  check(std::type_identity<moe_ffn<small, switch_gate>>());
  check(std::type_identity<biased<moe_ffn<small, deepseek>>>());
  check(std::type_identity<moe_ffn<small, limited_softmax>>());
  check(std::type_identity<moe_ffn<small, choice_of_batch>>());
}

TEST_CASE("moe_ffn: experts in another order give the same outputs, but for rounding") {
  auto const check = []<class L>(std::type_identity<L>) {
    test::layer_run<L, double> one({1, 12}, 3), other({1, 12}, 3);
    auto const all = parameters_of<L, test::space>();
    auto const moved = [](index_t e) { return (e * 3 + 1) % 8; };
    for (auto const& p : all)
      for (index_t n = 0; n < p.count; ++n)
        for (index_t r = 0; r < p.rows; ++r)
          for (index_t c = 0; c < p.columns; ++c) {
            bool const stack = p.count > 1, row = !stack && p.rows > 1;
            other.w[static_cast<std::size_t>(p.template place<double>(stack ? moved(n) : n, row ? moved(r) : r, stack || row ? c : moved(c)))] =
                one.w[static_cast<std::size_t>(p.template place<double>(n, r, c))];
          }
    one.forward(), other.forward();
    for (index_t t = 0; t < 12; ++t)
      for (index_t i = 0; i < 6; ++i) CHECK(std::abs(one.y(t, i) - other.y(t, i)) <= 1e-14);
  };
  check(std::type_identity<moe_ffn<small>>());
  check(std::type_identity<moe_ffn<small, switch_gate>>());
  check(std::type_identity<biased<moe_ffn<small, sigmoid_gate>>>());
  check(std::type_identity<moe_ffn<small, choice_of_batch>>());
}

TEST_CASE("moe_ffn: the selection bias changes who is chosen and no weight; no gradient reaches it; its load is counted in backward alone") {
  using L = moe_ffn<small, sigmoid_gate>;
  test::layer_run<L, double> run({2, 5});
  auto const bias = parameters_of<L, test::space>().back();
  REQUIRE(bias.group == parameter_group::router_bias);
  CHECK(bias.name == "router.bias");
  double* const b = run.w.data() + bias.offset;
  for (index_t e = 0; e < 8; ++e) CHECK(b[e] == 0);
  b[5] = 10;  // above all scores
  run.forward();
  for (index_t t = 0; t < 10; ++t) {
    CHECK(run.a.routed.expert(t, 0) == 5);
    double sum = 0;
    for (int j = 0; j < 3; ++j) sum += 1 / (1 + std::exp(-run.a.routed.logits(t, run.a.routed.expert(t, j))));
    for (int j = 0; j < 3; ++j)
      CHECK(run.a.routed.weight(t, j) == doctest::Approx(2.5 / sum / (1 + std::exp(-run.a.routed.logits(t, run.a.routed.expert(t, j))))));
  }
  for (index_t e = 0; e < 8; ++e) CHECK(run.a.routed.load(e) == 0);
  run.backward();
  run.backward();  // two micro-batches
  for (index_t e = 0; e < 8; ++e) {
    CHECK(run.g[static_cast<std::size_t>(bias.offset + e)] == 0);
    CHECK(run.a.routed.load(e) == 2 * run.a.routed.plan.counts(e));
  }
  std::vector<index_t> const load(&run.a.routed.load(0), &run.a.routed.load(0) + 8);
  std::vector<double> const before(b, b + 8);
  update_selection_biases<L>(run.space, run.w.data(), run.a);
  for (std::size_t e = 0; e < 8; ++e) {
    double const excess = 8.0 * static_cast<double>(load[e]) - 60;  // 10 tokens, 3 choices, twice
    CHECK(b[e] == doctest::Approx(before[e] - sigmoid_gate::bias_rate * (excess > 0 ? 1 : excess < 0 ? -1 : 0)).epsilon(1e-12));
    CHECK(run.a.routed.load(static_cast<index_t>(e)) == 0);
  }
}

TEST_CASE("moe_ffn: jitter is of a pass, the same for a number and another for the next; without one there is none") {
  using L = moe_ffn<small, jittered>;
  test::layer_run<L, float> run({2, 5});
  auto const logits = [&](std::optional<std::uint32_t> pass) {
    set_router_noise<L>(run.a, 11, pass);
    run.forward();
    std::vector<float> all;
    for (index_t t = 0; t < 10; ++t) all.insert(all.end(), run.a.routed.logits.row(t), run.a.routed.logits.row(t) + 8);
    return all;
  };
  auto const none = logits({}), first = logits(0), second = logits(1);
  CHECK(first == logits(0));
  CHECK(first != second);
  CHECK(none == logits({}));
  CHECK(none != first);
}
