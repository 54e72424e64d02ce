#include <moe/optim/rounded_weights.hpp>

#include <moe/gemm/packed_weights.hpp>
#include <moe/nn/parameter.hpp>

#include "test/support.hpp"

using moe::bf16;
using moe::index_t;

namespace {
struct layer {
  static constexpr auto parameters = moe::nn::parameter_list(moe::nn::parameter<1, 1, 5>{"norm", moe::nn::parameter_group::norm, {.std = 1}},
                                                             moe::nn::product_weight<3, 34, 7>{"w", moe::nn::parameter_group::ffn, {.std = 1}},
                                                             moe::nn::parameter<1, 37, 9>{"table", moe::nn::parameter_group::embedding, {.std = 1}});
  static constexpr index_t parameter_count = parameters.size;
  template <class F>
  static void for_each_parameter(std::string const& prefix, index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
};
}  // namespace

TEST_CASE("round_weights: every element of a model where the layers of bf16 read it, for any number of threads") {
  auto const all = moe::nn::parameters_of<layer>();
  auto const spans = moe::parameter_spans(all);
  std::vector<float> w(layer::parameter_count);
  moe::nn::initialise<layer>(w.data(), 3);
  for (int threads : {1, 2, 3}) {
    std::vector<bf16> rounded(w.size() + 2, bf16(7.0f));
    moe::round_weights(moe::cpu{.threads = threads}, spans, moe::vec(static_cast<float const*>(w.data()), layer::parameter_count),
                       moe::vec(rounded.data() + 1, layer::parameter_count));
    CHECK(rounded.front().bits == bf16(7.0f).bits);
    CHECK(rounded.back().bits == bf16(7.0f).bits);
    for (auto const& p : all)
      for (index_t n = 0; n < p.count; ++n)
        for (index_t r = 0; r < p.rows; ++r)
          for (index_t c = 0; c < p.columns; ++c)
            REQUIRE(rounded[static_cast<std::size_t>(1 + p.place<bf16>(n, r, c))].bits == bf16(w[static_cast<std::size_t>(p.place<float>(n, r, c))]).bits);
  }
}

TEST_CASE("round_weights: what it refuses") {
  moe::cpu const space{.threads = 1};
  std::vector<float> w(96);
  std::vector<bf16> rounded(96);
  auto const refused = [&](std::vector<moe::parameter_span> const& spans, index_t n) {
    return test::error_of([&] { moe::round_weights(space, spans, moe::vec(static_cast<float const*>(w.data()), 96), moe::vec(rounded.data(), n)); });
  };
  CHECK(refused({}, 95) == "round_weights: rounded has 95 elements, needs 96");
  CHECK(refused({{.end = 97}}, 96) == "round_weights: a span is elements [0, 97) of 96");
  CHECK(refused({{.end = 96, .layout = moe::bf16_layout::row_pairs}}, 96) ==
        "round_weights: a span in pairs of rows has 96 elements, needs a multiple of 64");
}
