// The examples of docs/operators: the lines between `// [page]` and `// [/page]` stand on that page, and snippets.cmake compares the two.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <moe/attention/attention.hpp>
#include <moe/attention/rope.hpp>
#include <moe/gemm/gemm.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/mix/token_mixing.hpp>
#include <moe/nn/activation.hpp>
#include <moe/nn/cross_entropy.hpp>
#include <moe/nn/embedding.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/hidden_backward.hpp>
#include <moe/nn/hidden_forward.hpp>
#include <moe/nn/layer_norm.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/rms_norm.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/group_adamw.hpp>
#include <moe/optim/group_schedule.hpp>
#include <moe/optim/schedule.hpp>
#include <moe/routing/balance.hpp>
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/expert_choice.hpp>
#include <moe/routing/jitter.hpp>
#include <moe/routing/load.hpp>
#include <moe/routing/selection_bias.hpp>
#include <moe/routing/topk.hpp>
#include <moe/ssm/causal_conv1d.hpp>
#include <moe/ssm/selective_scan.hpp>

using doctest::Approx;

TEST_CASE("gemm: a weight [out, in] is used with transpose_b") {
  // [gemm]
  std::vector<float> x{1, 2, 3, 4, 5, 6}, weight{1, 0, 1, 0, 1, 0}, y(4);
  moe::buffer memory(moe::gemm_scratch_bytes<float>(moe::cpu{}, 2, 2, 3));
  moe::arena scratch(memory);
  moe::gemm<moe::gemm_config{.transpose_b = true}>(moe::cpu{}, moe::mat(x.data(), 2, 3), moe::mat(weight.data(), 2, 3),
                                                   moe::mat(y.data(), 2, 2), scratch);
  CHECK(y == std::vector<float>{4, 2, 10, 5});
  // [/gemm]
}

TEST_CASE("grouped_gemm: row 0 belongs to expert 0, rows 1 and 2 to expert 1") {
  // [grouped_gemm]
  std::vector<float> x{1, 2, 3, 4, 5, 6}, w{1, 1, 10, 1}, y(3), d_y{1, 1, 1}, d_w(4);  // 3 rows, 2 experts, in = 2, out = 1
  std::vector<moe::index_t> offsets{0, 1, 3};
  moe::buffer memory(std::max(moe::grouped_gemm_scratch_bytes<float>(moe::cpu{}, 2, 1, 2),
                              moe::grouped_gemm_weight_gradient_scratch_bytes<float>(moe::cpu{}, 2, 3, 2)));
  moe::arena scratch(memory);
  moe::grouped_gemm(moe::cpu{}, moe::mat(x.data(), 3, 2), moe::vec(offsets.data(), 3), moe::view<moe::dyn, moe::dyn, moe::dyn>(w.data(), 2, 1, 2),
                    moe::mat(y.data(), 3, 1), scratch);
  CHECK(y == std::vector<float>{3, 34, 56});
  moe::grouped_gemm_weight_gradient(moe::cpu{}, moe::mat(d_y.data(), 3, 1), moe::mat(x.data(), 3, 2), moe::vec(offsets.data(), 3),
                                    moe::view<moe::dyn, moe::dyn, moe::dyn>(d_w.data(), 2, 1, 2), scratch);
  CHECK(d_w == std::vector<float>{1, 2, 8, 10});
  // [/grouped_gemm]
}

TEST_CASE("packed_weights: a weight [2, 3] in a panel of 32 outputs") {
  // [packed_weights]
  std::vector<float> x{1, 2, 3, 4, 5, 6}, weight{1, 0, 1, 0, 1, 0}, y(4), panels(moe::panel_layout<float>::size(2, 3));
  moe::packed_weights<float> const w(panels.data(), 1, 2, 3);
  moe::pack_weights(moe::cpu{}, moe::view<moe::dyn, moe::dyn, moe::dyn>(weight.data(), 1, 2, 3), w);
  CHECK((panels[0] == 1 && panels[1] == 0));  // in = 0 of both outputs, then 30 zeros
  CHECK((panels[32] == 0 && panels[33] == 1));
  moe::buffer memory(moe::packed_gemm_scratch_bytes<float>(moe::cpu{}, 1, 2, 2, 3));
  moe::arena scratch(memory);
  moe::gemm<moe::gemm_config{.transpose_b = true}>(moe::cpu{}, moe::mat(x.data(), 2, 3), w, moe::mat(y.data(), 2, 2), scratch);
  CHECK(y == std::vector<float>{4, 2, 10, 5});
  // [/packed_weights]
}

TEST_CASE("topk: the two largest of four logits, the lower index first among equals") {
  // [topk]
  std::vector<float> logits{0, 2, 1, 2, 3, 1, 1, 0}, weight(4);  // 2 tokens, 4 experts
  std::vector<int> expert(4);
  moe::topk<moe::topk_config{.k = 2}>(moe::cpu{}, moe::mat(logits.data(), 2, 4), moe::view<moe::dyn, 2>(weight.data(), 2, 2),
                                      moe::view<moe::dyn, 2>(expert.data(), 2, 2));
  CHECK(expert == std::vector<int>{1, 3, 0, 1});
  CHECK(weight[0] == 0.5f);
  CHECK(weight[2] == Approx(1 / (1 + std::exp(-2.0))));
  // [/topk]
  CHECK(weight[1] == 0.5f);
  CHECK(weight[3] == Approx(1 / (1 + std::exp(2.0))));
}

TEST_CASE("biased_topk: chosen with the bias, weighed without") {
  // [biased_topk]
  std::vector<float> logits{1, 2, 0.5f, -1}, bias{0, -0.3f, 0, 0.6f}, weight(2);  // 1 token, 4 experts
  std::vector<int> expert(2);
  moe::biased_topk<moe::biased_topk_config{.k = 2, .scale = 2.5}>(moe::cpu{}, moe::mat(logits.data(), 1, 4), moe::vec(bias.data(), 4),
                                                                  moe::view<moe::dyn, 2>(weight.data(), 1, 2),
                                                                  moe::view<moe::dyn, 2>(expert.data(), 1, 2));
  CHECK(expert == std::vector<int>{3, 0});  // sigmoid + bias: 0.731, 0.581, 0.622, 0.869
  CHECK(weight[0] == Approx(0.672353553));  // 2.5 * 0.269 / (0.269 + 0.731): without the bias
  CHECK(weight[1] == Approx(1.827646447));
  // [/biased_topk]
}

TEST_CASE("selection_bias: against the load of three experts") {
  // [selection_bias]
  std::vector<moe::index_t> load{2, 1, 3};
  std::vector<float> bias{0, 0, 0};
  moe::load_summary const s = moe::summary_of(moe::vec(load.data(), 3));
  CHECK(s.max_violation == Approx(0.5));
  moe::update_selection_bias(moe::cpu{}, moe::vec(load.data(), 3), 0.5, moe::vec(bias.data(), 3));
  CHECK(bias == std::vector<float>{0, 0.5f, -0.5f});
  CHECK(load == std::vector<moe::index_t>{0, 0, 0});
  // [/selection_bias]
}

TEST_CASE("router: one of your own, in a layer") {
  // [router]
  // One expert a token, weighed by the sigmoid of its logit.
  struct sigmoid_top1 : moe::token_choice<1> {
    static void forward(moe::cpu const& space, moe::router_input<float> const& input, moe::tensor<float, moe::dyn, 1> weight,
                        moe::tensor<int, moe::dyn, 1> expert, moe::arena& /*scratch*/) {
      moe::index_t const experts = input.logits.extent<1>();
      moe::parallel_for(space, input.logits.rows(), static_cast<double>(experts), [&](moe::index_t t) {
        float const *const row = input.logits.row(t), *const best = std::max_element(row, row + experts);
        expert(t, 0) = static_cast<int>(best - row);
        weight(t, 0) = 1 / (1 + std::exp(-*best));
      });
    }
    static void backward(moe::cpu const& space, moe::router_input<float> const& /*input*/, moe::in<float, moe::dyn, 1> weight,
                         moe::in<int, moe::dyn, 1> expert, moe::in<float, moe::dyn, 1> d_weight, moe::matrix_view<float> d_logits,
                         moe::arena& /*scratch*/) {
      moe::fill(space, d_logits, 0);
      for (moe::index_t t = 0; t < d_logits.rows(); ++t) d_logits(t, expert(t, 0)) = d_weight(t, 0) * weight(t, 0) * (1 - weight(t, 0));
    }
  };
  static_assert(moe::router<sigmoid_top1, moe::cpu, float>);
  using layer = moe::nn::moe_ffn<moe::nn::moe_ffn_config{.d_model = 16, .d_ff = 32, .experts = 8}, sigmoid_top1>;
  // [/router]
  moe::nn::sequence_shape const n{2, 9};
  std::vector<float> w(layer::parameter_count), g(w.size()), x(18 * 16), y(x.size()), d_x(x.size());
  moe::nn::initialise<layer>(w.data(), 1);
  moe::random_stream const random{.seed = 2};
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  moe::arena measure;
  layer::activations<float>(moe::cpu{}, measure, n);
  moe::buffer kept(measure.peak()), memory(layer::scratch_bytes<float>(moe::cpu{}, n));
  moe::arena a(kept), scratch(memory);
  layer::activations<float> activations(moe::cpu{}, a, n);
  auto const loss = [&] {
    layer::forward(moe::cpu{}, static_cast<float const*>(w.data()), moe::mat(static_cast<float const*>(x.data()), 18, 16), moe::mat(y.data(), 18, 16), n,
                   activations, scratch);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * (i % 3 == 0 ? 1 : -0.5);
    return sum;
  };
  std::vector<float> d_y(x.size());
  for (std::size_t i = 0; i < d_y.size(); ++i) d_y[i] = i % 3 == 0 ? 1.0f : -0.5f;
  (void)loss();
  layer::backward(moe::cpu{}, static_cast<float const*>(w.data()), g.data(), moe::mat(static_cast<float const*>(d_y.data()), 18, 16),
                  moe::mat(d_x.data(), 18, 16), n, activations, 0.0, scratch);
  double expected = 0;  // the derivative along a direction in the router's weights
  for (std::size_t i = 0; i < 8 * 16; ++i) expected += static_cast<double>(g[i]) * std::sin(static_cast<double>(i));
  auto const moved = [&](float by) {
    for (std::size_t i = 0; i < 8 * 16; ++i) w[i] += by * static_cast<float>(std::sin(static_cast<double>(i)));
  };
  moved(1e-3f);
  double const above = loss();
  moved(-2e-3f);
  CHECK((above - loss()) / 2e-3 == Approx(expected).epsilon(0.02));
  CHECK(std::abs(expected) > 1e-3);
}

TEST_CASE("balance: twice the coefficient where one of two experts takes all, no gradient where the load is even") {
  // [balance]
  std::vector<float> logits{20, 0, 20, 0, 20, 0, 20, 0}, d_logits(8);  // 4 tokens, 2 experts
  std::vector<moe::index_t> all_to_one{4, 0}, even{2, 2};
  moe::buffer memory(std::max(moe::balance_losses_scratch_bytes<float>(moe::cpu{}, 4, 2),
                              moe::balance_losses_backward_scratch_bytes<float>(moe::cpu{}, 2)));
  moe::arena scratch(memory);
  auto const x = moe::mat(logits.data(), 4, 2);
  double losses[3];  // balance, z, entropy
  moe::balance_losses<float>(moe::cpu{}, x, moe::vec(all_to_one.data(), 2), /*k=*/1, {.balance = 0.01, .z = 0.001}, moe::view<3>(losses, 3), scratch);
  CHECK(losses[0] == Approx(0.02));
  CHECK(losses[1] == Approx(0.4));  // logsumexp is 20
  moe::balance_losses_backward<float>(moe::cpu{}, x, moe::vec(even.data(), 2), 1, {.balance = 0.01, .z = 0}, /*scale=*/1,
                                      moe::mat(d_logits.data(), 4, 2), scratch);
  CHECK(d_logits == std::vector<float>(8, 0.0f));
  // [/balance]
}

TEST_CASE("expert_choice: two tokens for each of two experts") {
  // [expert_choice]
  std::vector<float> logits{0, 2, 3, 0, 0, 1, 5, 0}, weight(8);  // 4 tokens, 2 experts
  std::vector<int> expert(8);
  auto const pool = moe::one_group(4);
  moe::buffer memory(moe::expert_choice_scratch_bytes<float, 2>(moe::cpu{}, pool));
  moe::arena scratch(memory);
  moe::expert_choice<float, 2>(moe::cpu{}, moe::mat(logits.data(), 4, 2), pool, /*capacity=*/2, moe::view<moe::dyn, 2>(weight.data(), 4, 2),
                               moe::view<moe::dyn, 2>(expert.data(), 4, 2), scratch);
  CHECK(expert == std::vector<int>{-1, 1, 0, -1, -1, 1, 0, -1});  // two tokens each
  CHECK(weight[0] == 0);
  CHECK(weight[1] == Approx(1 / (1 + std::exp(-2.0))));
  // [/expert_choice]
}

TEST_CASE("jitter: factors near 1, the same for the gradient") {
  // [jitter]
  std::vector<float> x{1, 1, 1, 1, 1, 1}, noisy(6), d_noisy(6, 2.0f), d_x(6);  // 2 tokens
  moe::random_stream const noise{/*seed=*/1, moe::random_purpose::routing_noise, /*step=*/0};
  moe::jitter<float>(moe::cpu{}, moe::mat(x.data(), 2, 3), 0.01, noise, moe::mat(noisy.data(), 2, 3));
  moe::jitter<float>(moe::cpu{}, moe::mat(d_noisy.data(), 2, 3), 0.01, noise, moe::mat(d_x.data(), 2, 3));  // the gradient
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(noisy[i] == Approx(1).epsilon(0.01));
    CHECK(d_x[i] == 2 * noisy[i]);
  }
  // [/jitter]
}

TEST_CASE("dispatch: rows sorted by expert, and back") {
  // [dispatch]
  std::vector<int> expert{1, 0, 1, 2, 0, 1};  // 3 tokens, k = 2, 3 experts
  std::vector<float> x{10, 20, 30}, weight(6, 0.5f), xs(6), y(3);
  moe::arena measure;
  moe::dispatch_plan::take(measure, 3, 2, 3);
  moe::buffer memory(measure.peak() + moe::make_dispatch_scratch_bytes(moe::cpu{}, 3, 3));
  moe::arena arena(memory);
  moe::dispatch_plan const plan = moe::dispatch_plan::take(arena, 3, 2, 3);
  moe::make_dispatch(moe::cpu{}, moe::mat(expert.data(), 3, 2), /*capacity=*/0, plan, arena);
  CHECK(plan.rows() == 6);
  CHECK((plan.offsets(1) == 2 && plan.offsets(2) == 5 && plan.offsets(3) == 6));
  moe::dispatch(moe::cpu{}, moe::mat(x.data(), 3, 1), plan, moe::mat(xs.data(), 6, 1));
  CHECK(xs == std::vector<float>{10, 30, 10, 20, 30, 20});  // tokens 0, 2 | 0, 1, 2 | 1
  moe::combine(moe::cpu{}, moe::mat(xs.data(), 6, 1), moe::mat(weight.data(), 3, 2), plan, moe::mat(y.data(), 3, 1));
  CHECK(y == x);
  // [/dispatch]
}

TEST_CASE("token_mixing: two positions of two sequences, one expert") {
  // [token_mixing]
  std::vector<float> logits{0, 0, 0, std::log(3.0f)}, x{1, 2, 3, 4}, weight(4), mixed(4), y(4);  // 2 sequences of 2 tokens, d = 1, one expert
  moe::token_groups const groups = moe::groups_of({2, 2}, 2);  // row 0 with row 2, row 1 with row 3: the same position
  moe::group_softmax(moe::cpu{}, moe::mat(logits.data(), 4, 1), groups, /*temperature=*/1, moe::mat(weight.data(), 4, 1));
  CHECK((weight[0] == 0.5f && weight[2] == 0.5f));
  CHECK((weight[1] == Approx(0.25) && weight[3] == Approx(0.75)));
  moe::mix_tokens<float>(moe::cpu{}, moe::mat(x.data(), 4, 1), moe::mat(weight.data(), 4, 1), groups, moe::mat(mixed.data(), 2, 1));
  CHECK((mixed[0] == 2.0f && mixed[1] == Approx(3.5)));  // (1 + 3) / 2, (2 + 3 * 4) / 4
  moe::redistribute_tokens<float>(moe::cpu{}, moe::mat(mixed.data(), 2, 1), moe::mat(weight.data(), 4, 1), groups, moe::mat(y.data(), 4, 1));
  CHECK((y[0] == 1.0f && y[2] == 1.0f));
  // [/token_mixing]
}

TEST_CASE("attention: equal scores average the values seen so far; the cache gives the same bits") {
  // [attention]
  constexpr moe::attention_shape shape{.heads = 2, .kv_heads = 1, .d_head = 2};
  std::vector<float> q{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, k(6), v{2, 0, 4, 0, 6, 3}, o(12), lse(6), last(4);  // one sequence of 3 rows
  moe::buffer memory(std::max(moe::attention_scratch_bytes<shape, float>(moe::cpu{}, 3, 3),
                              moe::attention_cached_scratch_bytes<shape, float>(moe::cpu{}, 1, 2)));
  moe::arena scratch(memory);
  auto const keys = moe::mat(k.data(), 3, 2), values = moe::mat(v.data(), 3, 2);
  moe::attention<shape>(moe::cpu{}, moe::mat(q.data(), 3, 4), keys, values, /*seq=*/3, moe::mat(o.data(), 3, 4), moe::mat(lse.data(), 3, 2), scratch);
  CHECK(o == std::vector<float>{2, 0, 2, 0, 3, 0, 3, 0, 4, 1, 4, 1});
  CHECK(lse[4] == Approx(std::log(3.0)));
  moe::attention_cached<shape>(moe::cpu{}, moe::mat(q.data() + 8, 1, 4), keys, values, /*position=*/2, moe::mat(last.data(), 1, 4), scratch);
  CHECK(last == std::vector<float>(o.begin() + 8, o.end()));
  // [/attention]
  CHECK(lse[0] == 0);
}

TEST_CASE("rope: the pair (1, 0) turns by the position, and back") {
  // [rope]
  constexpr moe::rope_config config{.d_head = 2};
  std::vector<float> angles(4 * 2), x{1, 0, 1, 0};
  std::vector<moe::index_t> position{0, 3};
  moe::rope_table<float> const table{moe::mat(angles.data(), 4, 2)};  // positions 0 .. 3
  moe::fill_rope_table<config>(moe::cpu{}, table);
  moe::rope<config>(moe::cpu{}, moe::mat(x.data(), 2, 2), table, moe::vec(position.data(), 2));
  CHECK((x[0] == 1 && x[1] == 0));
  CHECK(x[2] == Approx(std::cos(3.0)));
  CHECK(x[3] == Approx(std::sin(3.0)));
  // [/rope]
  moe::rope_backward<config>(moe::cpu{}, moe::mat(x.data(), 2, 2), table, moe::vec(position.data(), 2));
  CHECK(x[2] == Approx(1));
  CHECK(x[3] == Approx(0));
}

TEST_CASE("rms_norm: the row (1, 7) has root mean square 5") {
  // [rms_norm]
  std::vector<double> x{1, 7}, weight{1, 10}, y(2), rstd(1), d_y{1, 1}, d_x(2), d_weight{100, 100};
  auto const row = [](std::vector<double>& v) { return moe::mat(v.data(), 1, 2); };
  moe::rms_norm(moe::cpu{}, row(x), moe::vec(weight.data(), 2), /*eps=*/0, row(y), moe::vec(rstd.data(), 1));
  CHECK(y[0] == Approx(0.2));
  CHECK(y[1] == Approx(14));
  moe::buffer memory(moe::rms_norm_backward_scratch_bytes<double>(moe::cpu{}, 1, 2));
  moe::arena scratch(memory);
  moe::rms_norm_backward(moe::cpu{}, row(d_y), row(x), moe::vec(weight.data(), 2), moe::vec(rstd.data(), 1), row(d_x),
                         moe::vec(d_weight.data(), 2), scratch);
  CHECK(d_weight[1] == Approx(101.4));  // added to
  CHECK(d_x[0] == Approx(-0.084));
  // [/rms_norm]
  CHECK(d_weight[0] == Approx(100.2));
  CHECK(d_x[1] == Approx(0.012));
}

TEST_CASE("layer_norm: the row (1, 3) has mean 2 and deviation 1") {
  // [layer_norm]
  std::vector<float> x{1, 3}, weight{2, 2}, bias{0, 10}, y(2), mean(1), rstd(1);
  moe::layer_norm(moe::cpu{}, moe::mat(x.data(), 1, 2), moe::vec(weight.data(), 2), moe::vec(bias.data(), 2), /*eps=*/0, moe::mat(y.data(), 1, 2),
                  moe::vec(mean.data(), 1), moe::vec(rstd.data(), 1));
  CHECK(mean[0] == 2);
  CHECK(y == std::vector<float>{-2, 12});
  // [/layer_norm]
  std::vector<float> d_y{1, 1}, d_x(2), d_weight(2), d_bias(2);
  moe::buffer memory(moe::layer_norm_backward_scratch_bytes<float>(moe::cpu{}, 1, 2));
  moe::arena scratch(memory);
  moe::layer_norm_backward(moe::cpu{}, moe::mat(d_y.data(), 1, 2), moe::mat(x.data(), 1, 2), moe::vec(weight.data(), 2), moe::vec(mean.data(), 1),
                           moe::vec(rstd.data(), 1), moe::mat(d_x.data(), 1, 2), moe::vec(d_weight.data(), 2), moe::vec(d_bias.data(), 2), scratch);
  CHECK(d_x == std::vector<float>{0, 0});
  CHECK(d_weight == std::vector<float>{-1, 1});
  CHECK(d_bias == std::vector<float>{1, 1});
}

TEST_CASE("activation: gate and up are halves of one matrix; relu in place") {
  // [activation]
  std::vector<float> gate_up{0, 100, 5, 2}, h(2), x{-1, 2};  // one row: gate 0, 100; up 5, 2
  auto const both = moe::mat(gate_up.data(), 1, 4);
  moe::swiglu(moe::cpu{}, moe::columns_of(both, 0, 2), moe::columns_of(both, 2, 4), moe::mat(h.data(), 1, 2));
  CHECK(h == std::vector<float>{0, 200});
  auto const in_place = moe::mat(x.data(), 1, 2);
  moe::relu(moe::cpu{}, in_place, in_place);
  CHECK(x == std::vector<float>{0, 2});
  // [/activation]
  std::vector<float> y(2), d_y{1, 1}, d_x(2);
  moe::gelu(moe::cpu{}, in_place, moe::mat(y.data(), 1, 2));
  CHECK(y[0] == 0);
  CHECK(y[1] == Approx(1.954597694));
  moe::relu_backward(moe::cpu{}, in_place, moe::mat(d_y.data(), 1, 2), moe::mat(d_x.data(), 1, 2));
  CHECK(d_x == std::vector<float>{0, 1});
}

TEST_CASE("hidden_backward: relu, two choices of one token") {
  // [hidden_backward]
  std::vector<float> pre{3, -1, 2, 5}, d_h{1, 1, 10, 10}, h(4), d_pre(4), weight{0.5f, 2}, d_weight(2);  // one token, k = 2, width 2
  std::vector<int> slot{1, 0};  // the first row is its second choice
  moe::hidden_backward<moe::activation_kind::relu>(moe::cpu{}, moe::vec(slot.data(), 2), moe::mat(weight.data(), 1, 2), moe::mat(pre.data(), 2, 2),
                                                   moe::mat(d_h.data(), 2, 2), moe::mat(h.data(), 2, 2), moe::mat(d_pre.data(), 2, 2),
                                                   moe::mat(d_weight.data(), 1, 2));
  CHECK(d_weight == std::vector<float>{70, 3});
  CHECK(h == std::vector<float>{6, 0, 1, 2.5f});
  CHECK(d_pre == std::vector<float>{2, 0, 5, 5});
  // [/hidden_backward]
}

TEST_CASE("hidden_forward: one row, relu") {
  // [hidden_forward]
  std::vector<float> x{1, 2}, weight{1, -1, 3, 0}, pre(2), h(2), panels(moe::panel_layout<float>::size(2, 2));  // one row; two outputs of two inputs
  moe::packed_weights<float> const w(panels.data(), 1, 2, 2);
  moe::pack_weights(moe::cpu{}, moe::view<moe::dyn, moe::dyn, moe::dyn>(weight.data(), 1, 2, 2), w);
  moe::buffer memory(moe::packed_gemm_scratch_bytes<float>(moe::cpu{}, 1, 1, 2, 2));
  moe::arena scratch(memory);
  moe::hidden_forward<moe::activation_kind::relu>(moe::cpu{}, moe::mat(x.data(), 1, 2), w, moe::mat(pre.data(), 1, 2), moe::mat(h.data(), 1, 2),
                                                  scratch);
  CHECK(pre == std::vector<float>{-1, 3});
  CHECK(h == std::vector<float>{0, 3});
  // [/hidden_forward]
}

TEST_CASE("embedding: the gradient of a token that occurs twice is a sum") {
  // [embedding]
  std::vector<float> table{0, 1, 10, 11, 20, 21}, y(6), d_y{1, 2, 3, 4, 5, 6}, d_table(6);  // 3 entries of 2 elements
  std::vector<int> token{2, 0, 2};
  moe::embedding(moe::cpu{}, moe::vec(token.data(), 3), moe::mat(table.data(), 3, 2), moe::mat(y.data(), 3, 2));
  CHECK(y == std::vector<float>{20, 21, 0, 1, 20, 21});
  moe::buffer memory(moe::embedding_backward_scratch_bytes(moe::cpu{}, 3, 3));
  moe::arena scratch(memory);
  moe::embedding_backward(moe::cpu{}, moe::vec(token.data(), 3), moe::mat(d_y.data(), 3, 2), moe::mat(d_table.data(), 3, 2), scratch);
  CHECK(d_table == std::vector<float>{3, 4, 0, 0, 6, 8});
  // [/embedding]
}

TEST_CASE("cross_entropy: two tokens, the second one ignored") {
  // [cross_entropy]
  std::vector<float> x{4, 7}, w{1, 1}, d_x(2), d_w(2);  // d = 1, vocab = 2: equal logits
  std::vector<int> target{1, -1};
  moe::buffer memory(moe::cross_entropy_scratch_bytes<float>(moe::cpu{}, 2, 1, 2));
  moe::arena scratch(memory);
  std::vector<double> loss(2);
  moe::cross_entropy(moe::cpu{}, moe::mat(x.data(), 2, 1), moe::mat(w.data(), 2, 1), moe::vec(target.data(), 2), /*scale=*/1,
                     moe::view<2>(loss.data(), 2), moe::mat(d_x.data(), 2, 1), moe::mat(d_w.data(), 2, 1), scratch);
  CHECK(loss[0] == Approx(std::log(2.0)));  // nats, of one target
  CHECK(loss[1] == 1);
  CHECK(d_x == std::vector<float>{0, 0});
  CHECK(d_w == std::vector<float>{2, -2});
  // [/cross_entropy]
  std::vector<double> alone(2);
  moe::cross_entropy_loss(moe::cpu{}, moe::mat(x.data(), 2, 1), moe::mat(w.data(), 2, 1), moe::vec(target.data(), 2), moe::view<2>(alone.data(), 2),
                          scratch);
  CHECK(alone == loss);
}

TEST_CASE("adamw: the first step has the size of lr, whatever the gradient") {
  // [adamw]
  std::vector<double> w{1, 1}, m(2), v(2), g{2, -0.001};
  moe::adamw(moe::cpu{}, moe::vec(w.data(), 2), moe::vec(m.data(), 2), moe::vec(v.data(), 2), moe::vec(g.data(), 2), /*lr=*/0.1,
             /*weight_decay=*/0.1, /*grad_scale=*/1, /*step=*/1);
  CHECK(w[0] == Approx(0.89));  // 0.99 by weight decay, then - lr
  CHECK(w[1] == Approx(1.09));
  // [/adamw]
  CHECK(m[0] == Approx(0.2));
  CHECK(v[0] == Approx(0.2));
}

TEST_CASE("clip: the norm of (3, 4) is 5") {
  // [clip]
  std::vector<float> g{3, 4};
  moe::buffer memory(moe::global_norm_scratch_bytes(moe::cpu{}, 2));
  moe::arena scratch(memory);
  double const norm = moe::global_norm(moe::cpu{}, moe::vec(g.data(), 2), scratch);
  CHECK(norm == 5);
  CHECK(moe::clip_scale(norm, /*max_norm=*/1) == Approx(0.2));
  CHECK(moe::clip_scale(norm, 10) == 1);
  CHECK(std::isnan(moe::clip_scale(std::numeric_limits<double>::infinity(), 1)));
  // [/clip]
}

TEST_CASE("schedule: up to the peak, down to the floor") {
  // [schedule]
  moe::warmup_cosine const lr(/*peak=*/1e-3, /*warmup=*/100, /*total=*/1000, /*floor=*/1e-4);
  CHECK(lr.at(0) == 0);
  CHECK(lr.at(50) == Approx(5e-4));
  CHECK(lr.at(100) == 1e-3);
  CHECK(lr.at(550) == Approx(5.5e-4));  // half-way down
  CHECK(lr.at(1000) == 1e-4);
  // [/schedule]
  CHECK(lr.at(5000) == 1e-4);
}

TEST_CASE("group_schedule: half the rate for one group, and a step of a layer with it") {
  // [group_schedule]
  using layer = moe::nn::ffn<moe::nn::ffn_config{.d_model = 4, .d_ff = 8}>;  // or a whole model
  moe::index_t const n = layer::parameter_count;
  std::vector<float> w(static_cast<std::size_t>(n), 1.0f), m(w.size()), v(w.size()), g(w.size(), 0.5f);
  auto const rates = moe::group_schedule(moe::warmup_cosine(/*peak=*/1e-3, /*warmup=*/10, /*total=*/100, /*floor=*/1e-4), /*weight_decay=*/0.1)
                         .scaled(moe::parameter_group::ffn, 0.5)
                         .with_weight_decay(moe::parameter_group::embedding, 0);
  CHECK(rates.at(moe::parameter_group::attention, 10) == moe::group_rate{1e-3, 0.1});
  CHECK(rates.at(moe::parameter_group::ffn, 10) == moe::group_rate{5e-4, 0.1});
  auto const spans = moe::parameter_spans(moe::nn::parameters_of<layer>());  // once
  moe::adamw_by_group(moe::cpu{}, spans, rates, moe::vec(w.data(), n), moe::vec(m.data(), n), moe::vec(v.data(), n), moe::vec(g.data(), n),
                      /*grad_scale=*/1, /*step=*/10);
  // [/group_schedule]
  CHECK(w[0] == Approx(1 - 5e-4 * 0.1 - 5e-4 * (0.1 / (1 - std::pow(0.9, 10))) / std::sqrt(0.05 / (1 - std::pow(0.95, 10)))).epsilon(1e-6));
}

TEST_CASE("causal_conv1d: a sequence in two calls") {
  // [causal_conv1d]
  constexpr moe::causal_conv1d_config config{.width = 2, .silu = false};
  std::vector<float> x{1, 2, 3}, weight{10, 1}, bias{0.5f}, state{4}, y(3);  // one channel
  moe::tensor<float, moe::dyn, moe::dyn, moe::dyn> const inputs(state.data(), 1, 1, 1);
  auto const rows = [](std::vector<float>& v, moe::index_t begin, moe::index_t end) { return moe::rows_of(moe::mat(v.data(), 3, 1), begin, end); };
  auto const run = [&](moe::index_t begin, moe::index_t end) {
    moe::causal_conv1d<config, float>(moe::cpu{}, rows(x, begin, end), moe::mat(weight.data(), 1, 2), moe::vec(bias.data(), 1),
                                      moe::equal_sequences(1, end - begin), inputs, rows(y, begin, end), inputs);
  };
  run(0, 2);
  run(2, 3);  // goes on where the first call ended
  CHECK(y == std::vector<float>{41.5f, 12.5f, 23.5f});
  CHECK(state[0] == 3);
  // [/causal_conv1d]
}

TEST_CASE("selective_scan: a row, then another one, with the state of the first") {
  // [selective_scan]
  constexpr moe::selective_scan_config config{.d_state = 1, .softplus = false};
  std::vector<float> u{2, 3}, delta{1, 1}, a{0}, b{1, 1}, c{10, 100}, y(2), state{0.5f};  // one channel; a = 0: nothing decays
  auto const one = [](std::vector<float>& v, moe::index_t t) { return moe::mat(v.data() + t, 1, 1); };
  moe::scan_states<float> const h(state.data(), 1, 1, 1);
  moe::buffer memory(moe::selective_scan_scratch_bytes<config, float>(moe::cpu{}, 1, 1, 1));
  moe::arena scratch(memory);
  for (moe::index_t t = 0; t < 2; ++t) {
    moe::selective_scan_inputs<float> const in{one(u, t), one(delta, t), one(a, 0), one(b, t), one(c, t), {}, {}, {}};
    moe::selective_scan<config>(moe::cpu{}, in, moe::equal_sequences(1, 1), h, one(y, t), h, {}, scratch);
  }
  CHECK(y == std::vector<float>{25, 550});  // h = 0.5 + 2, then + 3
  CHECK(state[0] == 5.5f);
  // [/selective_scan]
}
