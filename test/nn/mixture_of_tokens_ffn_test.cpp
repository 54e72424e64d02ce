#include <moe/nn/mixture_of_tokens_ffn.hpp>

#include <cmath>

#include <moe/nn/attention_layer.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;
using moe::index_t;

namespace {
constexpr mixture_of_tokens_ffn_config plain{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2, .group = 2};
constexpr mixture_of_tokens_ffn_config with_relu{.d_model = 5, .d_ff = 7, .experts = 4, .group = 3, .activation = activation_kind::relu};
constexpr mixture_of_tokens_ffn_config with_gelu{
    .d_model = 6, .d_ff = 6, .experts = 2, .granularity = 3, .group = 4, .activation = activation_kind::gelu, .temperature = 0.5};
constexpr mixture_of_tokens_ffn_config alone{.d_model = 6, .d_ff = 8, .experts = 3, .group = 1};
constexpr mixture_of_tokens_ffn_config larger{.d_model = 48, .d_ff = 64, .experts = 4, .granularity = 4, .group = 4};

/// The filler of the published vectors: element i, counted from 0, is scale sin(k (i + 1)).
double generated(index_t i, double k, double scale) { return scale * std::sin(k * static_cast<double>(i + 1)); }

/// 4 examples of 2 positions, d_model 3, 2 experts of width 4, the numbers of the reference in it.
template <int Group, int PerTenthTemperature>
struct published {
  static constexpr mixture_of_tokens_ffn_config config{
      .d_model = 3, .d_ff = 4, .experts = 2, .group = Group, .activation = activation_kind::relu, .temperature = PerTenthTemperature / 10.0};
  using layer = mixture_of_tokens_ffn<config>;
  test::layer_run<layer, double> run{{4, 2}};

  published() {
    auto const all = parameters_of<layer, test::space>();
    auto const put = [&](std::size_t i, index_t n, index_t r, index_t c, double v) {
      run.w[static_cast<std::size_t>(all[i].template place<double>(n, r, c))] = v;
    };
    for (index_t i = 0; i < 3; ++i)
      for (index_t e = 0; e < 2; ++e) put(0, 0, e, i, generated(i * 2 + e, 1.1, 0.5));
    for (index_t e = 0; e < 2; ++e)
      for (index_t i = 0; i < 3; ++i)
        for (index_t f = 0; f < 4; ++f) {
          put(1, e, f, i, generated((e * 3 + i) * 4 + f, 0.9, 0.5));
          put(2, e, i, f, generated((e * 4 + f) * 3 + i, 1.3, 0.5));
        }
    for (index_t t = 0; t < 8; ++t)
      for (index_t i = 0; i < 3; ++i) run.x(t, i) = generated(t * 3 + i, 0.7, 1), run.c(t, i) = generated(t * 3 + i, 0.3, 1);
  }
};
template <class V>
std::pair<double, double> sums(V const& values) {
  double sum = 0, squares = 0;
  for (double const v : values) sum += v, squares += v * v;
  return {sum, squares};
}
void near(double a, double b) { CHECK_MESSAGE(std::abs(a - b) <= 1e-8, a << " is not " << b); }
}  // namespace

TEST_CASE("mixture_of_tokens_ffn: the vectors of the reference, forward") {
  published<2, 10> two;
  two.run.forward();
  double const first[3] = {0.02178951, 0.002528891, -0.020436559}, second[3] = {0.01610326, -0.000330813, -0.016280244},
               last[3] = {0.030863502, 0.014008684, -0.023368888};
  for (index_t i = 0; i < 3; ++i) near(two.run.y(0, i), first[i]), near(two.run.y(2, i), second[i]), near(two.run.y(7, i), last[i]);
  double const weights[2][2] = {{0.574137449, 0.505046533}, {0.425862551, 0.494953467}};
  for (index_t i = 0; i < 2; ++i)
    for (index_t e = 0; e < 2; ++e) near(two.run.a.weight(2 * i, e), weights[i][e]);
  near(sums(two.run.y.values()).first, -0.16927086440590922), near(sums(two.run.y.values()).second, 0.009112859459945628);

  published<2, 1> cold;
  cold.run.forward();
  near(sums(cold.run.y.values()).first, -0.15596507947060378), near(sums(cold.run.y.values()).second, 0.017321021466095793);
  published<4, 10> four;
  four.run.forward();
  near(sums(four.run.y.values()).first, -0.046237303342227795), near(sums(four.run.y.values()).second, 0.00030655881798399246);
}

TEST_CASE("mixture_of_tokens_ffn: the vectors of the reference, backward") {
  published<2, 10> two;
  two.run.forward();
  two.run.backward();
  near(sums(two.run.d_x.values()).first, 0.2626310275644825), near(sums(two.run.d_x.values()).second, 0.26277380279105333);
  double const controller[3][2] = {{0.016077425, 0.069920123}, {0.009992174, 0.072762594}, {-0.000792552, 0.041383681}};
  auto const router = parameters_of<published<2, 10>::layer, test::space>()[0];
  for (index_t i = 0; i < 3; ++i)
    for (index_t e = 0; e < 2; ++e) near(two.run.g[static_cast<std::size_t>(router.place<double>(0, e, i))], controller[i][e]);
}

TEST_CASE("mixture_of_tokens_ffn: gradients") {
  test::check_layer_gradients<mixture_of_tokens_ffn<plain>>({4, 3});
  test::check_layer_gradients<mixture_of_tokens_ffn<with_relu>>({3, 4});
  test::check_layer_gradients<mixture_of_tokens_ffn<with_gelu>>({4, 2});
  test::check_layer_gradients<mixture_of_tokens_ffn<alone>>({2, 3});
  test::check_layer_gradients<mixture_of_tokens_ffn<plain>>({2, 1});
}

TEST_CASE("mixture_of_tokens_ffn: no tokens") {
  for (sequence_shape const n : {sequence_shape{0, 4}, {4, 0}}) {
    test::layer_run<mixture_of_tokens_ffn<plain>, double> none(n);
    none.forward();
    none.backward();
    for (double const g : none.g) CHECK(g == 0.0);
  }
}

TEST_CASE("mixture_of_tokens_ffn: a group of one weighs every expert with 1: the sum of them all") {
  test::layer_run<mixture_of_tokens_ffn<alone>, double> run({2, 3});
  run.forward();
  for (index_t t = 0; t < 6; ++t)
    for (index_t e = 0; e < 3; ++e) CHECK(run.a.weight(t, e) == 1.0);
  auto const all = parameters_of<mixture_of_tokens_ffn<alone>, test::space>();
  auto const weight = [&](std::size_t i, index_t n, index_t r, index_t c) { return run.w[static_cast<std::size_t>(all[i].place<double>(n, r, c))]; };
  for (index_t t = 0; t < 6; ++t)
    for (index_t i = 0; i < 6; ++i) {
      double y = 0;
      for (index_t e = 0; e < 3; ++e)
        for (index_t f = 0; f < 8; ++f) {
          double gate = 0, up = 0;
          for (index_t j = 0; j < 6; ++j) gate += weight(1, e, f, j) * run.x(t, j), up += weight(1, e, 8 + f, j) * run.x(t, j);
          y += weight(2, e, i, f) * gate / (1 + std::exp(-gate)) * up;
        }
      CHECK(std::abs(run.y(t, i) - y) <= 1e-13);
    }
}

TEST_CASE("mixture_of_tokens_ffn: the same bits for any number of threads; bf16 near double") {
  test::check_layer_executions<mixture_of_tokens_ffn<larger>, float>({8, test::on_cuda ? 3 : 19});
  test::check_layer_executions<mixture_of_tokens_ffn<plain>, moe::bf16>({4, 3});
  test::check_layer_bf16<mixture_of_tokens_ffn<plain>>({4, 3});
  test::check_layer_bf16<mixture_of_tokens_ffn<with_relu>>({3, 4});
  test::check_layer_bf16<mixture_of_tokens_ffn<with_gelu>>({4, 2});
}

TEST_CASE("mixture_of_tokens_ffn: what is outside of a group or at another position changes no bit") {
  test::layer_run<mixture_of_tokens_ffn<plain>, float> run({4, 5});
  run.forward();
  auto const before = run.y.values();
  run.x(2 * 5 + 3, 1) += 1;  // example 2, position 3: the other member of its group is example 3
  run.forward();
  for (index_t t = 0; t < 20; ++t) {
    bool const member = t / 5 >= 2 && t % 5 == 3;
    bool same = true;
    for (index_t i = 0; i < 6; ++i) same = same && run.y(t, i) == before[static_cast<std::size_t>(t * 6 + i)];
    CHECK_MESSAGE(same != member, "row " << t);
  }
}

TEST_CASE("mixture_of_tokens_ffn: a batch that makes no whole groups, and a single sequence to decode, are refused with a sentence") {
  using L = mixture_of_tokens_ffn<plain>;
  CHECK(test::error_of([] {
          test::layer_run<L, float>({3, 2});
        }) == "groups_of: 3 sequences do not make whole groups of 2: the batch must be a multiple of the group");
  test::layer_run<L, float> run({2, 1});
  moe::arena a = run.scratch();
  L::state<float> state(run.space, a, 1);
  CHECK(test::error_of([&] {
          L::extend(run.space, static_cast<float const*>(run.w.data()), moe::matrix_view<float const>(run.x.mat()), run.y.mat(), 0, state, a);
        }) ==
        "mixture_of_tokens_ffn: decodes 2 sequences side by side (language_model::logits_of_group), not one; transition tuning makes a model that "
        "decodes one");
}

TEST_CASE("mixture_of_tokens_ffn: names, shapes and groups of its parameters are those of moe_ffn") {
  auto const mixed = parameters_of<mixture_of_tokens_ffn<plain>>();
  auto const chosen = parameters_of<moe_ffn<moe_ffn_config{.d_model = 6, .d_ff = 8, .experts = 3, .granularity = 2}>>();
  REQUIRE(mixed.size() == chosen.size());
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    CHECK(mixed[i].name == chosen[i].name);
    CHECK(mixed[i].group == chosen[i].group);
    CHECK((mixed[i].count == chosen[i].count && mixed[i].rows == chosen[i].rows && mixed[i].columns == chosen[i].columns));
  }
}

TEST_CASE("mixture_of_tokens_ffn: as many parameters as the paper counts, and the FLOPs of a dense layer but for mixing") {
  using medium = mixture_of_tokens_ffn<mixture_of_tokens_ffn_config{
      .d_model = 512, .d_ff = 2048, .experts = 32, .granularity = 8, .group = 32, .activation = activation_kind::relu}>;
  static_assert(medium::experts == 256 && medium::width == 256);
  CHECK(medium::parameters.elements == 8 * 512 * 512 * 32 + 512 * 256);
  double const dense = ffn<ffn_config{.d_model = 512, .d_ff = 2048, .activation = activation_kind::relu}>::flops_per_token(1);
  CHECK(medium::flops_per_token(1) / dense == doctest::Approx(1 + 0.375 * 256 / 512));
}

// A whole model: what a later token, and another window of the text, can change.
namespace {
constexpr int d = 16, group = 2;
using block = sequence<residual<attention_layer<attention_config{.d_model = d, .heads = 2}>>,
                       residual<mixture_of_tokens_ffn<mixture_of_tokens_ffn_config{.d_model = d, .d_ff = 16, .experts = 4, .group = group}>>>;
using model = language_model<language_model_config{.vocab = 40, .d_model = d}, repeat<2, block>>;
static_assert(model::group_size == group);

struct model_run {
  test::space space = test::on();
  test::memory<float> w = test::memory<float>(static_cast<std::size_t>(model::parameter_count));
  model_run() { moe::nn::initialise<model, test::space>(w.data(), 3); }
  /// Logits [tokens, vocab] of windows of `length` tokens that begin at `first` in the text.
  std::vector<float> logits(std::vector<int> const& text, std::vector<index_t> const& first, index_t length) {
    sequence_shape const n{static_cast<index_t>(first.size()), length};
    test::array<int> token(1, n.tokens());
    for (index_t s = 0; s < n.sequences; ++s)
      for (index_t t = 0; t < length; ++t) token(0, s * length + t) = text[static_cast<std::size_t>(first[static_cast<std::size_t>(s)] + t)];
    test::array<float> out(n.tokens(), model::vocab);
    test::scratch memory(std::size_t{8} << 20), kept_memory(std::size_t{8} << 20);
    moe::arena scratch = memory.get(), kept = kept_memory.get();
    model::activations<float> a(space, kept, n);
    model::logits_of_batch(space, static_cast<float const*>(w.data()), token.vec(), n, a, out.mat(), scratch);
    return out.values();
  }
};
std::vector<int> text_of(index_t n) {
  moe::random_stream const random{.seed = 5};
  std::vector<int> text(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int>(random.below(i, model::vocab));
  return text;
}
bool same_rows(std::vector<float> const& a, std::vector<float> const& b, index_t row) {
  return std::equal(a.begin() + row * model::vocab, a.begin() + (row + 1) * model::vocab, b.begin() + row * model::vocab);
}
}  // namespace

TEST_CASE("Mixture of Tokens: a later token never changes what is predicted at an earlier position, of its own window or of another") {
  model_run run;
  constexpr index_t length = 6;
  std::vector<int> text = text_of(4 * length);
  std::vector<index_t> const windows = {0, length, 2 * length, 3 * length};
  auto const before = run.logits(text, windows, length);
  for (index_t changed = 0; changed < 4 * length; ++changed) {
    auto other = text;
    other[static_cast<std::size_t>(changed)] = (other[static_cast<std::size_t>(changed)] + 1) % model::vocab;
    auto const after = run.logits(other, windows, length);
    for (index_t row = 0; row < 4 * length; ++row) {
      bool const group_of_changed = row / length / group == changed / length / group;
      bool const may_change = group_of_changed && row % length >= changed % length;
      CHECK_MESSAGE((may_change || same_rows(before, after, row)), "token " << changed << " changed row " << row);
    }
    CHECK_FALSE(same_rows(before, after, changed));
  }
}

TEST_CASE("Mixture of Tokens: windows that overlap would tell a position its own target; windows with their targets apart do not") {
  model_run run;
  constexpr index_t length = 6;
  std::vector<int> const text = text_of(3 * length);
  // The input at position t of the second window is the target of position t of the first.
  auto const leak = [&](std::vector<index_t> const& windows, index_t position) {
    auto other = text;
    index_t const target = windows[0] + position + 1;
    other[static_cast<std::size_t>(target)] = (other[static_cast<std::size_t>(target)] + 1) % model::vocab;
    return !same_rows(run.logits(text, windows, length), run.logits(other, windows, length), position);
  };
  for (index_t position = 0; position < length; ++position) {
    CHECK(leak({0, 1}, position));                                   // shifted by one: every target is seen
    CHECK(leak({0, length}, position) == (position == length - 1));  // neighbours: the last target of one is the first input of the other
    CHECK_FALSE(leak({0, length + 1}, position));                    // apart
  }
}

TEST_CASE("Mixture of Tokens: a group decoded side by side gives the bits of the forward pass, in any pieces; other models decode so too") {
  model_run run;
  constexpr index_t length = 7, sequences = 4;
  std::vector<int> const text = text_of(sequences * length);
  auto const expected = run.logits(text, {0, length, 2 * length, 3 * length}, length);
  for (std::vector<index_t> const& pieces : {std::vector<index_t>{length}, {1, 1, 1, 1, 1, 1, 1}, {3, 1, 3}}) {
    test::scratch memory(std::size_t{8} << 20), kept_memory(std::size_t{8} << 20);
    moe::arena kept = kept_memory.get();
    std::vector<model::state<float>> states;
    for (index_t s = 0; s < sequences; ++s) states.emplace_back(run.space, kept, length);
    index_t position = 0;
    for (index_t n : pieces) {
      test::array<int> token(1, sequences * n);
      test::array<float> out(sequences * n, model::vocab);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t t = 0; t < n; ++t) token(0, s * n + t) = text[static_cast<std::size_t>(s * length + position + t)];
      moe::arena scratch = memory.get();
      REQUIRE(model::logits_of_group_scratch_bytes<float>(run.space, {sequences, n}, length) <= std::size_t{8} << 20);
      model::logits_of_group(run.space, static_cast<float const*>(run.w.data()), token.vec(), {sequences, n}, std::span(states), out.mat(), scratch);
      for (index_t s = 0; s < sequences; ++s)
        for (index_t t = 0; t < n; ++t)
          for (index_t v = 0; v < model::vocab; ++v)
            CHECK(out(s * n + t, v) == expected[static_cast<std::size_t>((s * length + position + t) * model::vocab + v)]);
      position += n;
    }
  }
}
