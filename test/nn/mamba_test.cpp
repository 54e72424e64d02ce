#include <moe/nn/mamba.hpp>

#include <map>

#include <moe/nn/language_model.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>

#include "test/nn/layer_check.hpp"

using namespace moe::nn;
using moe::index_t;

namespace {
constexpr mamba_config small{.d_model = 6, .d_state = 3};
constexpr mamba_config odd{.d_model = 5, .d_inner = 7, .d_state = 3, .d_conv = 3, .dt_rank = 2, .conv_bias = false};
constexpr mamba_config narrow{.d_model = 3, .expand = 1, .d_state = 1, .d_conv = 1};
constexpr mamba_config larger{.d_model = 48};

/// The layer by its formulas, in double, element by element.
template <class L>
struct by_formula {
  std::map<std::string, std::vector<double>> w;
  explicit by_formula(double const* model) {
    for (auto const& p : parameters_of<L, test::space>())
      p.to_plain(model, (w[p.name] = std::vector<double>(static_cast<std::size_t>(p.elements()))).data());
  }
  double at(char const* name, index_t r, index_t columns, index_t c) const { return w.at(name)[static_cast<std::size_t>(r * columns + c)]; }
  std::vector<double> times(char const* name, std::vector<double> const& x) const {
    auto const& m = w.at(name);
    std::vector<double> y(m.size() / x.size());
    for (std::size_t i = 0; i < m.size(); ++i) y[i / x.size()] += m[i] * x[i % x.size()];
    return y;
  }
  static double silu(double x) { return x / (1 + std::exp(-x)); }
  /// One sequence [length, d_model].
  std::vector<std::vector<double>> operator()(std::vector<std::vector<double>> const& input) const {
    index_t const D = L::d_inner, N = L::d_state, W = L::d_conv, R = L::dt_rank;
    std::vector<std::vector<double>> xs, output;
    std::vector<double> h(static_cast<std::size_t>(D * N));
    for (auto const& row : input) {
      auto const xz = times("in_proj.weight", row);
      xs.push_back(xz);
      std::vector<double> u(static_cast<std::size_t>(D)), y(u);
      for (index_t c = 0; c < D; ++c) {
        double s = w.count("conv1d.bias") ? at("conv1d.bias", 0, D, c) : 0;
        for (index_t k = 0; k < W; ++k)
          if (index_t const t = static_cast<index_t>(xs.size()) - W + k; t >= 0)
            s += at("conv1d.weight", c, W, k) * xs[static_cast<std::size_t>(t)][static_cast<std::size_t>(c)];
        u[static_cast<std::size_t>(c)] = silu(s);
      }
      auto const dbc = times("x_proj.weight", u);
      auto const steps = times("dt_proj.weight", {dbc.begin(), dbc.begin() + R});
      for (index_t c = 0; c < D; ++c) {
        auto const i = static_cast<std::size_t>(c);
        double const dt = std::log1p(std::exp(steps[i] + at("dt_proj.bias", 0, D, c)));
        for (index_t n = 0; n < N; ++n) {
          double& state = h[static_cast<std::size_t>(c * N + n)];
          state = std::exp(-dt * std::exp(at("A_log", c, N, n))) * state + dt * dbc[static_cast<std::size_t>(R + n)] * u[i];
          y[i] += dbc[static_cast<std::size_t>(R + N + n)] * state;
        }
        y[i] = (y[i] + at("D", 0, D, c) * u[i]) * silu(xz[static_cast<std::size_t>(D + c)]);
      }
      output.push_back(times("out_proj.weight", y));
    }
    return output;
  }
};

template <class L>
void check_formula(sequence_shape n) {
  test::layer_run<L, double> run(n, 2);
  for (auto const& p : parameters_of<L, test::space>())
    for (index_t i : test::places_of(p))
      run.w[static_cast<std::size_t>(i)] *= 1 + 0.1 * std::sin(static_cast<double>(i));  // also of D and A_log, of which all rows begin alike
  run.forward();
  by_formula<L> const formula(run.w.data());
  for (index_t s = 0; s < n.sequences; ++s) {
    std::vector<std::vector<double>> input;
    for (index_t t = 0; t < n.length; ++t) input.emplace_back(&run.x(s * n.length + t, 0), &run.x(s * n.length + t, 0) + L::d_model);
    auto const expected = formula(input);
    for (index_t t = 0; t < n.length; ++t)
      for (index_t i = 0; i < L::d_model; ++i)
        CHECK(std::abs(run.y(s * n.length + t, i) - expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)]) < 1e-12);
  }
}
}  // namespace

TEST_CASE("mamba: what its formulas give") {
  check_formula<mamba<small>>({2, 9});
  check_formula<mamba<odd>>({3, 5});
  check_formula<mamba<narrow>>({1, 4});
  check_formula<mamba<larger>>({1, test::on_cuda ? 3 : 20});
}

TEST_CASE("mamba: gradients, also without a bias of the convolution and for odd sizes") {
  test::gradient_tolerance const wide{.step = 1e-3};  // short steps drown in rounding: at first the state hardly moves
  test::check_layer_gradients<mamba<small>>({2, 5}, 1, wide);
  test::check_layer_gradients<mamba<odd>>({2, 6}, 1, wide);
  test::check_layer_gradients<mamba<narrow>>({2, 3}, 1, wide);
  test::check_layer_gradients<mamba<small>>({3, 1}, 1, wide);
}

TEST_CASE("mamba: gradients add to what is there") {
  test::layer_run<mamba<small>, double> run({2, 5});
  run.forward();
  run.backward();
  auto const once = run.g;
  moe::arena s = run.scratch();
  mamba<small>::backward(run.space, static_cast<double const*>(run.w.data()), run.g.data(), moe::matrix_view<double const>(run.c.mat()),
                         run.d_x.mat(), run.shape, run.a, 1.0, s);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(std::abs(run.g[i] - 2 * once[i]) <= 1e-12 * (1 + std::abs(once[i])));
}

TEST_CASE("mamba: the same bits for any number of threads") {
  test::check_layer_executions<mamba<larger>, float>({3, test::on_cuda ? 9 : 150});
  test::check_layer_executions<mamba<odd>, double>({2, 7});
}

TEST_CASE("mamba: decoding with the state gives the bits of the forward pass, whatever the pieces") {
  test::check_layer_extend<mamba<larger>, float>(test::on_cuda ? 20 : 150);
  test::check_layer_extend<mamba<odd>, double>(33);
  test::check_layer_extend<mamba<narrow>, float>(11);
}

TEST_CASE("mamba: bf16 stays near double on the same rounded numbers, and has the bits of any execution and of decoding") {
  test::check_layer_bf16<mamba<small>>({2, 5}, 1, 0.02);
  test::check_layer_bf16<mamba<odd>>({2, 4}, 1, 0.02);
  test::check_layer_bf16<mamba<larger>>({2, test::on_cuda ? 5 : 31}, 1, 0.02);
  test::check_layer_executions<mamba<larger>, moe::bf16>({3, 11});
  test::check_layer_extend<mamba<larger>, moe::bf16>(21);
}

TEST_CASE("mamba: parameters of the published sizes, their names, shapes and groups") {
  constexpr mamba_config d512{.d_model = 512}, d768{.d_model = 768}, without{.d_model = 512, .conv_bias = false};
  CHECK(mamba<d512>::active_parameters() == 1'694'720);
  CHECK(mamba<d768>::active_parameters() == 3'770'880);
  CHECK(mamba<without>::active_parameters() == 1'694'720 - 1024);
  CHECK(mamba<d512>::dt_rank == 32);
  CHECK(mamba<small>::dt_rank == 1);
  CHECK(mamba<d512>::flops_per_token(7) == 2.0 * (512 * 2048 + 1024 * (64 + 32 + 4 + 512)) + 1024 * (7 * 16 + 6));
  auto const all = parameters_of<mamba<d512>>();
  auto const find = [&](char const* name) {
    auto const p = std::find_if(all.begin(), all.end(), [&](auto const& x) { return x.name == name; });
    REQUIRE_MESSAGE(p != all.end(), name);
    return *p;
  };
  REQUIRE(all.size() == 9);
  auto const check = [&](char const* name, index_t rows, index_t columns, parameter_group group, bool product) {
    parameter_info const p = find(name);
    CHECK(p.rows == rows);
    CHECK(p.columns == columns);
    CHECK(p.group == group);
    CHECK(p.in_panels == product);
  };
  using enum parameter_group;
  check("in_proj.weight", 2048, 512, ssm, true);
  check("conv1d.weight", 1024, 4, ssm_state, false);
  check("conv1d.bias", 1, 1024, ssm_state, false);
  check("x_proj.weight", 64, 1024, ssm, true);
  check("dt_proj.weight", 1024, 32, ssm, true);
  check("dt_proj.bias", 1, 1024, ssm_state, false);
  check("A_log", 1024, 16, ssm_state, false);
  check("D", 1, 1024, ssm_state, false);
  check("out_proj.weight", 512, 1024, ssm, true);
  CHECK(parameters_of<mamba<without>>().size() == 8);
}

TEST_CASE("mamba: begins with the published values") {
  constexpr mamba_config config{.d_model = 128, .output_gain = 0.5};
  using L = mamba<config>;
  std::vector<double> w(static_cast<std::size_t>(L::parameter_count));
  initialise<L>(w.data(), 3);
  for (auto const& p : parameters_of<L>()) {
    std::vector<double> x(static_cast<std::size_t>(p.elements()));
    p.to_plain(w.data(), x.data());
    double lowest = x[0], highest = x[0], sum = 0, log_dt = 0;
    for (double v : x) lowest = std::min(lowest, v), highest = std::max(highest, v), sum += v, log_dt += std::log(std::log1p(std::exp(v)));
    double const n = static_cast<double>(x.size());
    auto const is_uniform = [&](double bound) {
      CHECK_MESSAGE((lowest >= -bound && lowest < -0.95 * bound && highest < bound && highest > 0.95 * bound), p.name);
      CHECK_MESSAGE(std::abs(sum / n) < 4 * bound / std::sqrt(3 * n), p.name);
    };
    if (p.name == "in_proj.weight") is_uniform(1 / std::sqrt(128.0));
    else if (p.name == "x_proj.weight") is_uniform(1 / std::sqrt(256.0));
    else if (p.name == "out_proj.weight") is_uniform(0.5 / std::sqrt(256.0));
    else if (p.name == "dt_proj.weight") is_uniform(1 / std::sqrt(8.0));
    else if (p.name == "conv1d.weight" || p.name == "conv1d.bias") is_uniform(0.5);
    else if (p.name == "dt_proj.bias") {
      CHECK(lowest >= -6.9072552374);
      CHECK(highest <= -2.2521684609);
      CHECK(std::abs(log_dt / n - std::log(0.01)) < 4 * std::log(100.0) / std::sqrt(12 * n));
    } else if (p.name == "A_log") {
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == std::log(static_cast<double>(i % 16 + 1)));
    } else {
      CHECK(p.name == "D");
      CHECK((lowest == 1 && highest == 1));
    }
  }
}

TEST_CASE("mamba: the state is as large for one token as for a million; it cannot go back, but begin again") {
  using L = mamba<small>;
  auto const bytes = [](index_t capacity) {
    moe::arena measure;
    L::state<float>(test::on(), measure, capacity);
    return measure.peak();
  };
  CHECK(bytes(1) == bytes(1'000'000));
  CHECK(L::extend_scratch_bytes<float>(test::on(), 3, 10) == L::extend_scratch_bytes<float>(test::on(), 3, 1'000'000));
  test::layer_run<L, float> run({1, 6});
  test::memory<std::byte> kept_memory(bytes(6), std::byte{0xff}), scratch_memory(L::extend_scratch_bytes<float>(run.space, 6, 6), std::byte{0xff});
  moe::arena kept(kept_memory.data(), kept_memory.size()), scratch(scratch_memory.data(), scratch_memory.size());
  L::state<float> state(run.space, kept, 6);
  test::array<float> y(6, 6);
  auto const extend = [&](index_t first, index_t last) {
    L::extend(run.space, static_cast<float const*>(run.w.data()), moe::matrix_view<float const>(moe::rows_of(run.x.mat(), first, last)),
              moe::rows_of(y.mat(), first, last), first, state, scratch);
  };
  extend(0, 6);
  auto const once = y.values();
  extend(0, 2), extend(2, 2), extend(2, 6);
  CHECK(test::same_bits(once, y.values()));
  CHECK(test::error_of([&] { extend(3, 5); }) == "mamba: rows from position 3 on, the state has seen 6");
}

TEST_CASE("mamba: a batch of another shape than its rows; no weights") {
  using L = mamba<small>;
  test::layer_run<L, float> run({1, 6});
  auto const forward = [&](sequence_shape n, float const* w) {
    return test::error_of([&] {
      moe::arena s;
      L::forward(run.space, w, moe::matrix_view<float const>(run.x.mat()), run.y.mat(), n, run.a, s);
    });
  };
  CHECK(test::contains(forward({2, 6}, run.w.data()), "mamba: x has 6 rows, 2 sequences of 6 tokens need 12"));
  CHECK(forward({1, 6}, nullptr) != "");
}

TEST_CASE("mamba: a token does not see later ones, nor another sequence; NaN stays") {
  test::layer_run<mamba<small>, float> run({2, 6});
  run.forward();
  auto const before = run.y.values();
  for (int i = 0; i < 6; ++i) run.x(3, i) = test::quiet_nan<float>();
  run.forward();
  for (index_t t = 0; t < 12; ++t)
    for (index_t i = 0; i < 6; ++i) {
      if (t >= 3 && t < 6) CHECK(std::isnan(run.y(t, i)));
      else CHECK(run.y(t, i) == before[static_cast<std::size_t>(t * 6 + i)]);
    }
}

TEST_CASE_TEMPLATE("mamba: a whole model decodes the logits of its forward pass, bit for bit, for any split", T, float, moe::bf16) {
  static constexpr mamba_config config{.d_model = 16};
  static constexpr language_model_config ends{.vocab = 11, .d_model = 16, .tied = true, .embedding_std = 0.7};
  using M = language_model<ends, repeat<2, residual<mamba<config>>>>;
  static_assert(moe::nn::layer_in<repeat<2, residual<mamba<config>>>, test::space, T>);
  index_t const length = test::on_cuda ? 12 : 90;
  test::space const space = test::on();
  test::memory<T> w(static_cast<std::size_t>(M::parameter_count));
  initialise<M, test::space>(w.data(), 4);
  moe::arena measure;
  typename M::template activations<T>(space, measure, {1, length});
  test::memory<std::byte> memory(measure.peak()),
      scratch_memory(M::template scratch_bytes<T>(space, {1, length}) + M::template logits_scratch_bytes<T>(space, length, length));
  moe::arena kept(memory.data(), memory.size()), scratch(scratch_memory.data(), scratch_memory.size());
  typename M::template activations<T> a(space, kept, {1, length});
  test::memory<int> token;
  for (index_t t = 0; t < length; ++t) token.push_back(static_cast<int>(t * t % 11));
  test::array<float> full(length, 11), piecewise(length, 11);
  M::logits_of_batch(space, static_cast<T const*>(w.data()), moe::vec<int const>(token.data(), length), {1, length}, a, full.mat(), scratch);
  for (index_t step : {index_t{1}, index_t{7}, length}) {
    moe::arena size;
    typename M::template state<T>(space, size, length);
    test::memory<std::byte> state_memory(size.peak(), std::byte{0xff});
    moe::arena of_state(state_memory.data(), state_memory.size());
    typename M::template state<T> state(space, of_state, length);
    piecewise.poison();
    for (index_t first = 0; first < length; first += step) {
      index_t const rows = std::min(step, length - first);
      M::logits(space, static_cast<T const*>(w.data()), moe::vec<int const>(token.data() + first, rows), state,
                moe::rows_of(piecewise.mat(), first, first + rows), scratch);
    }
    CHECK(test::same_bits(full.values(), piecewise.values()));
  }
}
