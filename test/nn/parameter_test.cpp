#include <moe/nn/parameter.hpp>

#include "test/support.hpp"

using namespace moe::nn;

namespace {
/// Three parameters, one of them packed in panels that do not divide its rows.
struct layer {
  static constexpr auto parameters = parameter_list(parameter<1, 1, 5>{"norm.weight", parameter_group::norm, {.constant = 1}},
                                                    parameter<2, 7, 3, panels<4>>{"experts.weight", parameter_group::expert, {.std = 0.5}},
                                                    parameter<1, 7, 3>{"plain.weight", parameter_group::ffn, {.std = 0.5}});
  static constexpr moe::index_t parameter_count = parameters.size;
  template <class F>
  static void for_each_parameter(std::string const& prefix, moe::index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
};
}  // namespace

TEST_CASE("parameter_list: sizes are padded to cache lines, offsets follow") {
  auto const all = parameters_of<layer>();
  REQUIRE(all.size() == 3);
  CHECK(all[0].size == 16);
  CHECK(all[1].offset == 16);
  CHECK(all[1].matrix_size == 24);  // 7 rows in two panels of 4, 3 columns
  CHECK(all[1].size == 48);
  CHECK(all[2].offset == 64);
  CHECK(layer::parameters.elements == 5 + 42 + 21);
  CHECK(layer::parameter_count == 96);
}

TEST_CASE("parameter: plain order and back, for each layout; padding is untouched") {
  std::vector<float> model(96, -1.0f), plain(42);
  auto const experts = parameters_of<layer>()[1];
  for (int i = 0; i < 42; ++i) plain[static_cast<std::size_t>(i)] = static_cast<float>(i);
  experts.from_plain(plain.data(), model.data());
  CHECK(model[16 + 0] == 0.0f);   // matrix 0, row 0, column 0
  CHECK(model[16 + 1] == 3.0f);   // row 1 stands beside row 0
  CHECK(model[16 + 4] == 1.0f);   // then column 1
  CHECK(model[16 + 12] == 12.0f);  // row 4 opens the second panel
  CHECK(model[16 + 15] == -1.0f);  // row 7 does not exist
  CHECK(model[16 + 24] == 21.0f);  // matrix 1
  std::vector<float> back(42);
  experts.to_plain(model.data(), back.data());
  CHECK(back == plain);
}

TEST_CASE("initialise: values do not depend on layout or type, padding is zero") {
  std::vector<double> w(96, 7.0);
  std::vector<float> f(96, 7.0f);
  initialise<layer>(w.data(), 11);
  initialise<layer>(f.data(), 11);
  for (std::size_t i = 0; i < w.size(); ++i) CHECK(f[i] == static_cast<float>(w[i]));
  for (int i = 0; i < 5; ++i) CHECK(w[static_cast<std::size_t>(i)] == 1.0);
  for (int i = 5; i < 16; ++i) CHECK(w[static_cast<std::size_t>(i)] == 0.0);
  CHECK(w[16 + 15] == 0.0);
  std::vector<double> other(96);
  initialise<layer>(other.data(), 12);
  CHECK(other[16] != w[16]);
}

TEST_CASE("scaled_normal: one over the square root of the fan-in") {
  for (moe::index_t n : {1, 2, 3, 64, 100, 4096, 1000000}) CHECK(std::abs(scaled_normal(n).std * std::sqrt(static_cast<double>(n)) - 1) < 1e-14);
  CHECK(std::abs(scaled_normal(16, 0.5).std - 0.125) < 1e-15);
}
