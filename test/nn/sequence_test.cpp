#include <moe/nn/attention_layer.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;

namespace {
constexpr attention_config heads{.d_model = 8, .heads = 2};
constexpr ffn_config dense{.d_model = 8, .d_ff = 6};
constexpr moe_ffn_config sparse{.d_model = 8, .d_ff = 8, .experts = 2, .granularity = 2};
using block = sequence<residual<attention_layer<heads>>, residual<moe_ffn<sparse>>>;
using odd = sequence<residual<ffn<dense>>, residual<attention_layer<heads>>>;
}  // namespace

TEST_CASE("sequence and repeat: gradients through one, two and three layers") {
  test::check_layer_gradients<block>({2, 4});
  test::check_layer_gradients<repeat<1, odd>>({1, 4});
  test::check_layer_gradients<repeat<2, block>>({1, 5});
  test::check_layer_gradients<repeat<3, odd>>({1, 3});
}

TEST_CASE("sequence and repeat: decoding gives the bits of the forward pass") { test::check_layer_extend<repeat<3, block>, float>(21); }

TEST_CASE("sequence and repeat: the same bits for any number of threads") { test::check_layer_executions<repeat<2, block>, float>({2, 19}); }

TEST_CASE("sequence and repeat: names and places of the parameters") {
  auto const all = parameters_of<repeat<2, block>>();
  REQUIRE(all.size() == 14);
  CHECK(all[0].name == "0.attention.norm.weight");
  CHECK(all[1].name == "0.attention.qkv.weight");
  CHECK(all[4].name == "0.ffn.router.weight");
  CHECK(all[5].name == "0.ffn.experts.in.weight");
  CHECK(all[13].name == "1.ffn.experts.out.weight");
  moe::index_t at = 0;
  for (auto const& p : all) {
    CHECK(p.offset == at);
    at += p.size;
  }
  CHECK(at == repeat<2, block>::parameter_count);
}

TEST_CASE("for_each_router visits the mixture-of-experts layers in order") {
  test::layer_run<repeat<2, block>, double> run({1, 5});
  run.forward();
  int seen = 0;
  repeat<2, block>::for_each_router(run.a, [&](auto const& r) {
    ++seen;
    CHECK(r.plan.rows() == 10);
  });
  CHECK(seen == 2);
}

TEST_CASE("sequence and repeat: bf16 stays near double on the same rounded numbers, and has the bits of decoding") {
  test::check_layer_bf16<block>({2, 4}, 1, 0.02);
  test::check_layer_bf16<repeat<2, odd>>({2, 4}, 1, 0.02);
  test::check_layer_extend<repeat<2, block>, moe::bf16>(21);
}
