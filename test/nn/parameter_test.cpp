#include <moe/nn/parameter.hpp>

#include "test/support.hpp"

using namespace moe::nn;

namespace {
/// Four parameters; one lies in panels whose outputs and inputs both need padding.
struct layer {
  static constexpr auto parameters = parameter_list(parameter<1, 1, 5>{"norm.weight", parameter_group::norm, {.constant = 1}},
                                                    product_weight<2, 34, 3>{"experts.weight", parameter_group::expert, {.std = 0.5}},
                                                    parameter<1, 7, 3>{"plain.weight", parameter_group::ffn, {.std = 0.5}});
  static constexpr moe::index_t parameter_count = parameters.size;
  template <class F>
  static void for_each_parameter(std::string const& prefix, moe::index_t first, F const& f) {
    parameters.for_each(prefix, first, f);
  }
};
constexpr std::size_t experts_size = 2 * 64 * 4, all_size = 16 + experts_size + 32;
/// A space whose products read row-major weights.
struct elsewhere {};
}  // namespace

TEST_CASE("parameter_list: sizes are padded to panels and cache lines, the same in every space; offsets follow") {
  for (auto const& all : {parameters_of<layer>(), parameters_of<layer, elsewhere>()}) {
    REQUIRE(all.size() == 3);
    CHECK(all[0].size == 16);
    CHECK(all[1].offset == 16);
    CHECK(all[1].size == experts_size);  // 34 outputs in two panels of 32, 3 inputs and one of padding
    CHECK(all[2].offset == 16 + experts_size);
  }
  CHECK(parameters_of<layer>()[1].in_panels);
  CHECK(!parameters_of<layer, elsewhere>()[1].in_panels);
  CHECK(layer::parameters.elements == 5 + 2 * 34 * 3 + 21);
  CHECK(layer::parameter_count == all_size);
}

TEST_CASE("parameter: plain order and back, for each space and type; padding of panels becomes 0, what is beside stays") {
  auto const check = [](auto zero, parameter_info const& p) {
    using T = decltype(zero);
    std::vector<T> model(all_size, T(-1.0f)), plain(2 * 34 * 3), back(plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i) plain[i] = T(static_cast<float>(i));
    p.from_plain(plain.data(), model.data());
    p.to_plain(model.data(), back.data());
    for (std::size_t i = 0; i < plain.size(); ++i) CHECK(static_cast<float>(back[i]) == static_cast<float>(i));
    auto const count = [&](float value) { return std::count_if(model.begin(), model.end(), [=](T x) { return static_cast<float>(x) == value; }); };
    std::size_t const written = p.in_panels ? experts_size : plain.size();
    CHECK(count(-1.0f) == static_cast<std::ptrdiff_t>(all_size - written));
    CHECK(count(0.0f) == static_cast<std::ptrdiff_t>(written - plain.size() + 1));  // and element 0
    return model;
  };
  auto const panels = check(0.0f, parameters_of<layer>()[1]);
  CHECK(panels[16 + 1] == 3.0f);             // output 1 stands beside output 0
  CHECK(panels[16 + 32] == 1.0f);            // then input 1
  CHECK(panels[16 + 4 * 32] == 32.0f * 3);   // output 32 opens the second panel
  CHECK(panels[16 + 64 * 4] == 34.0f * 3);   // matrix 1
  auto const pairs = check(moe::bf16(), parameters_of<layer>()[1]);
  CHECK(static_cast<float>(pairs[16 + 1]) == 1.0f);  // input 1 beside input 0
  CHECK(static_cast<float>(pairs[16 + 2]) == 3.0f);  // then output 1
  auto const rows = check(0.0f, parameters_of<layer, elsewhere>()[1]);
  for (int i = 0; i < 2 * 34 * 3; ++i) CHECK(rows[static_cast<std::size_t>(16 + i)] == static_cast<float>(i));
}

TEST_CASE("initialise: values do not depend on order, space or type; padding is zero") {
  std::vector<double> w(all_size, 7.0), plain(2 * 34 * 3), there(plain.size());
  std::vector<float> f(all_size, 7.0f);
  initialise<layer>(w.data(), 11);
  initialise<layer>(f.data(), 11);
  for (std::size_t i = 0; i < w.size(); ++i) CHECK(f[i] == static_cast<float>(w[i]));
  for (int i = 0; i < 5; ++i) CHECK(w[static_cast<std::size_t>(i)] == 1.0);
  for (int i = 5; i < 16; ++i) CHECK(w[static_cast<std::size_t>(i)] == 0.0);
  CHECK(w[16 + 3 * 32] == 0.0);       // the input that is padding
  CHECK(w[16 + 4 * 32 + 2] == 0.0);  // an output that is
  parameters_of<layer>()[1].to_plain(w.data(), plain.data());
  std::vector<double> other(all_size);
  initialise<layer, elsewhere>(other.data(), 11);
  parameters_of<layer, elsewhere>()[1].to_plain(other.data(), there.data());
  CHECK(plain == there);
  initialise<layer>(other.data(), 12);
  CHECK(other[16] != w[16]);
}

TEST_CASE("initialise: the bits of a normal parameter are those of its seed, place and index, whatever kinds there are") {
  std::vector<double> w(all_size);
  initialise<layer>(w.data(), 11);
  moe::random_stream const random{11, moe::random_purpose::initialisation, 2};
  for (std::uint64_t i = 0; i < 21; ++i) CHECK(w[16 + experts_size + i] == moe::madd(0.5, random.normal(i), 0.0));
}

TEST_CASE("initializer: uniform, the logarithm of the column, the bias of a time step") {
  moe::random_stream const random{3, moe::random_purpose::initialisation, 0};
  initializer const u = scaled_uniform(16, 2), logs{.kind = initial_kind::log_column},
                    step{.kind = initial_kind::time_step, .low = 1e-3, .high = 0.1, .floor = 1e-4};
  CHECK(std::abs(u.high - 0.5) < 1e-15);
  CHECK(u.low == -u.high);
  double sum = 0, squares = 0, log_dt = 0, lowest = 1, highest = 0;
  constexpr int n = 20000;
  for (std::uint64_t i = 0; i < n; ++i) {
    double const x = u.value(random, i, 0), dt = std::log1p(std::exp(step.value(random, i, 0)));
    CHECK((-0.5 <= x && x < 0.5));
    sum += x, squares += x * x, log_dt += std::log(dt), lowest = std::min(lowest, dt), highest = std::max(highest, dt);
  }
  CHECK(std::abs(sum / n) < 0.01);                      // three standard deviations: 0.006
  CHECK(std::abs(squares / n - 1.0 / 12) < 0.003);      // 0.0016
  CHECK(std::abs(log_dt / n - std::log(0.01)) < 0.03);  // the middle of ln 0.001 and ln 0.1; 0.028
  CHECK((lowest >= 0.99999e-3 && lowest < 1.01e-3));
  CHECK((highest <= 0.100001 && highest > 0.099));
  for (moe::index_t c : {0, 1, 15}) CHECK(logs.value(random, 7, c) == std::log(static_cast<double>(c + 1)));
  initializer const floored{.kind = initial_kind::time_step, .low = 1e-6, .high = 2e-6, .floor = 1e-4};
  CHECK(std::abs(floored.value(random, 0, 0) - (1e-4 + std::log(-std::expm1(-1e-4)))) < 1e-12);
  initializer const known{.kind = initial_kind::time_step, .low = 0.01, .high = 0.01};
  CHECK(std::abs(known.value(random, 0, 0) + 4.6001660193) < 1e-9);
}

TEST_CASE("scaled_normal: one over the square root of the fan-in") {
  for (moe::index_t n : {1, 2, 3, 64, 100, 4096, 1000000}) CHECK(std::abs(scaled_normal(n).std * std::sqrt(static_cast<double>(n)) - 1) < 1e-14);
  CHECK(std::abs(scaled_normal(16, 0.5).std - 0.125) < 1e-15);
}
