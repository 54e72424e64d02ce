#include <moe/routing/balance.hpp>

#include "test/support.hpp"

namespace {
using moe::balance_config;
using moe::bf16;
using moe::index_t;

struct loss_values {
  double balance = 0, z = 0, entropy = 0;
};

template <class T>
loss_values losses(test::array<T> const& logits, std::vector<index_t> const& counts, int k, balance_config config,
                   test::space const& space = test::on()) {
  test::memory<std::byte> memory(moe::balance_losses_scratch_bytes<T>(space, logits.rows(), logits.columns()), std::byte{0xff});
  moe::arena scratch(memory.data(), memory.size());
  test::array<index_t> const load(counts, index_t(counts.size()), 1);
  test::array<double> result(3);
  moe::balance_losses<T>(space, logits.mat(), load.vec(), k, config, result.vec(), scratch);
  space.wait();
  return {result(0), result(1), result(2)};
}
template <class T>
void backward(test::array<T> const& logits, std::vector<index_t> const& counts, int k, balance_config config, double scale, test::array<T>& d_logits,
              test::space const& space = test::on()) {
  test::memory<std::byte> memory(moe::balance_losses_backward_scratch_bytes<T>(space, logits.columns()), std::byte{0xff});
  moe::arena scratch(memory.data(), memory.size());
  test::array<index_t> const load(counts, index_t(counts.size()), 1);
  moe::balance_losses_backward(space, logits.mat(), load.vec(), k, config, static_cast<moe::accumulator<T>>(scale), d_logits.mat(), scratch);
  space.wait();
}

/// Counts that add up to tokens * k, far from uniform, one expert empty where there are several.
std::vector<index_t> uneven_counts(index_t tokens, index_t experts, int k) {
  std::vector<index_t> counts(std::size_t(experts), 0);
  for (index_t s = 0; s < tokens * k; ++s) ++counts[std::size_t((s * s) % std::max<index_t>(experts - 1, 1))];
  return counts;
}

/// The formulas, in double.
struct naive {
  double balance = 0, z = 0;
  std::vector<double> d;
  template <class T>
  naive(test::array<T> const& logits, std::vector<index_t> const& counts, int k, balance_config config) {
    index_t const tokens = logits.rows(), experts = logits.columns();
    double const n = double(tokens), a = config.balance * double(experts) / (k * n * n);
    for (index_t t = 0; t < tokens; ++t) {
      double sum = 0, load = 0;
      for (index_t e = 0; e < experts; ++e) sum += std::exp(double(logits(t, e)));
      double const lse = std::log(sum);
      for (index_t e = 0; e < experts; ++e) load += std::exp(double(logits(t, e)) - lse) * double(counts[std::size_t(e)]);
      balance += a * load;
      z += config.z * lse * lse / n;
      for (index_t e = 0; e < experts; ++e)
        d.push_back(std::exp(double(logits(t, e)) - lse) * (a * (double(counts[std::size_t(e)]) - load) + 2 * config.z * lse / n));
    }
  }
};

/// Sequences, their choices, and the formulas of all forms of the losses in double.
struct sequences_case {
  moe::sequence_shape shape;
  index_t experts;
  int k;
  test::array<int> expert;
  sequences_case(moe::sequence_shape n, index_t e, int choices, bool some_without = false)
      : shape(n), experts(e), k(choices), expert(n.tokens(), choices, choices + 1) {
    for (index_t t = 0; t < n.tokens(); ++t)
      for (int j = 0; j < k; ++j) expert(t, j) = int((t * t / 3 + j) % e);
    for (index_t t = 0; some_without && t < n.tokens(); t += 3) expert(t, 0) = -1;
  }
  index_t count(int e, index_t begin, index_t end) const {
    index_t n = 0;
    for (index_t t = begin; t < end; ++t)
      for (int j = 0; j < k; ++j) n += expert(t, j) == e;
    return n;
  }
  std::vector<index_t> counts() const {
    std::vector<index_t> n;
    for (int e = 0; e < experts; ++e) n.push_back(count(e, 0, shape.tokens()));
    return n;
  }
  moe::sequence_choices choices() const { return {expert.mat(), shape}; }

  template <class T>
  loss_values expected(test::array<T> const& logits, balance_config config) const {
    bool const sigmoid = config.score == moe::score_function::sigmoid;
    index_t const parts = config.per_sequence ? shape.sequences : 1, length = shape.tokens() / parts;
    loss_values r;
    for (index_t s = 0; s < parts; ++s) {
      std::vector<double> mean(std::size_t(experts), 0.0);
      for (index_t t = s * length; t < (s + 1) * length; ++t) {
        double sum = 0, all = 0;
        auto const score = [&](index_t e) { return sigmoid ? 1 / (1 + std::exp(-double(logits(t, e)))) : std::exp(double(logits(t, e))); };
        for (index_t e = 0; e < experts; ++e) sum += std::exp(double(logits(t, e))), all += score(e);
        for (index_t e = 0; e < experts; ++e) {
          double const p = std::exp(double(logits(t, e))) / sum;
          mean[std::size_t(e)] += score(e) / all / double(length);
          r.entropy -= p * std::log(p) / double(shape.tokens());
        }
        r.z += config.z * std::log(sum) * std::log(sum) / double(shape.tokens());
      }
      for (int e = 0; e < experts; ++e)
        r.balance += config.balance * double(experts) / (k * double(length)) * double(count(e, s * length, (s + 1) * length)) * mean[std::size_t(e)] /
                     double(parts);
    }
    return r;
  }
  template <class T>
  loss_values run(test::array<T> const& logits, balance_config config, test::space const& space = test::on()) const {
    test::memory<std::byte> memory(moe::balance_losses_scratch_bytes<T>(space, shape, experts), std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    test::array<double> result(3);
    test::array<index_t> const load(counts(), experts, 1);
    moe::balance_losses<T>(space, logits.mat(), load.vec(), k, config, result.vec(), scratch, choices());
    space.wait();
    return {result(0), result(1), result(2)};
  }
  template <class T>
  void gradient(test::array<T> const& logits, balance_config config, double scale, test::array<T>& d, test::space const& space = test::on()) const {
    test::memory<std::byte> memory(moe::balance_losses_backward_scratch_bytes<T>(space, shape, experts), std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    test::array<index_t> const load(counts(), experts, 1);
    moe::balance_losses_backward(space, logits.mat(), load.vec(), k, config, static_cast<moe::accumulator<T>>(scale), d.mat(), scratch, choices());
    space.wait();
  }
};

constexpr balance_config forms[] = {{.balance = 0.3, .z = 0.2},
                                    {.balance = 0.3, .z = 0.2, .score = moe::score_function::sigmoid},
                                    {.balance = 0.3, .z = 0.2, .per_sequence = true},
                                    {.balance = 0.3, .z = 0.2, .score = moe::score_function::sigmoid, .per_sequence = true},
                                    {.balance = 0.3, .z = 0, .score = moe::score_function::sigmoid, .per_sequence = true},
                                    {.balance = 0, .z = 0.2, .score = moe::score_function::sigmoid},
                                    {.balance = 0, .z = 0.2, .per_sequence = true}};
}  // namespace

TEST_CASE_TEMPLATE("balance_losses: the published vectors", T, float, double) {
  double const tolerance = std::is_same_v<T, double> ? 5e-9 : 2e-6;
  test::array<T> const rows({T(1), T(2), T(.5), T(-1), T(0), T(.1), T(.2), T(.3), T(2), T(0), T(0), T(1), T(1.5), T(.5), T(0), T(-.5)}, 4, 4);
  auto const four = losses(rows, {3, 2, 1, 2}, 2, {.balance = 1, .z = 1});
  CHECK(std::abs(four.balance - 1.12732302) <= tolerance);
  CHECK(std::abs(four.z - 4.752646888) <= 4 * tolerance);
  sequences_case one({1, 4}, 4, 2);
  one.expert = test::array<int>({1, 0, 3, 2, 0, 3, 0, 1}, 4, 2);
  CHECK(one.counts() == std::vector<index_t>{3, 2, 1, 2});
  constexpr auto sigmoid = moe::score_function::sigmoid;
  CHECK(std::abs(one.run(rows, {.balance = 1, .score = sigmoid, .per_sequence = true}).balance - 1.037877622) <= tolerance);
  CHECK(std::abs(one.run(rows, {.balance = 1, .score = sigmoid}).balance - 1.037877622) <= tolerance);  // one sequence is the batch
  test::array<T> sine(6, 3);
  for (index_t i = 0; i < 18; ++i) sine.data()[i] = T(2 * std::sin(0.8 * double(i + 1)));
  auto const top1 = losses(sine, {2, 1, 3}, 1, {.balance = 1, .z = 1});
  CHECK(std::abs(top1.balance - 1.0362623370285695) <= tolerance);
  CHECK(std::abs(top1.z - 3.995076949035353) <= 4 * tolerance);
  auto const top2 = losses(sine, {4, 5, 3}, 2, {.balance = 0.01, .z = 0.001});
  CHECK(std::abs(top2.balance - 0.009818688314857152) <= 0.01 * tolerance);
  CHECK(std::abs(top2.z - 0.003995076949035353) <= 0.004 * tolerance);
}

TEST_CASE_TEMPLATE("balance_losses: agrees with the formulas at every size", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-13 : 5e-6;
  for (index_t tokens : test::on_cuda ? std::vector<index_t>{1, 65, 130} : std::vector<index_t>{1, 2, 63, 64, 65, 200})
    for (index_t experts : test::on_cuda ? std::vector<index_t>{1, 33, 300} : std::vector<index_t>{1, 2, 7, 8, 15, 16, 17, 33, 64})
      for (int k : {1, 4}) {
        if (k > experts) continue;
        CAPTURE(tokens);
        CAPTURE(experts);
        CAPTURE(k);
        test::array<T> logits(tokens, experts, experts + 3, 1), d(tokens, experts, experts + 1, 1);
        logits.normal(5, 2.0);
        auto const counts = uneven_counts(tokens, experts, k);
        balance_config const config{.balance = 0.3, .z = 0.2};
        auto const got = losses(logits, counts, k, config);
        naive const expected(logits, counts, k, config);
        CHECK(std::abs(got.balance - expected.balance) <= tolerance * expected.balance);
        CHECK(std::abs(got.z - expected.z) <= tolerance * std::max(expected.z, 1e-3));
        d.fill(T(0.0f));
        double const scale = double(tokens);  // gradients of order 1
        backward(logits, counts, k, config, scale, d);
        double const allowed = (std::is_same_v<T, bf16> ? 1.0 / 128 : 4 * tolerance) * (1.0 + 0.3 * double(experts));
        for (index_t i = 0; i < tokens * experts; ++i)
          CHECK(std::abs(double(d(i / experts, i % experts)) - scale * expected.d[std::size_t(i)]) <= allowed);
      }
}

TEST_CASE_TEMPLATE("balance_losses: scores of sigmoids, sequences, and the entropy agree with the formulas", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-13 : 5e-6;
  for (moe::sequence_shape const n : {moe::sequence_shape{1, 3}, {3, 1}, {2, 64}, {3, 65}, {5, 17}})
    for (index_t experts : {1, 5, 33})
      for (balance_config const& config : forms) {
        if (experts < 2 && n.length > 3) continue;
        sequences_case const c(n, experts, experts < 2 ? 1 : 2, config.per_sequence);
        test::array<T> logits(n.tokens(), experts, experts + 1, 1);
        logits.normal(4, 2.0);
        CAPTURE(n.sequences);
        CAPTURE(n.length);
        CAPTURE(experts);
        CAPTURE(&config - forms);
        auto const got = c.run(logits, config), expected = c.expected(logits, config);
        CHECK(std::abs(got.balance - expected.balance) <= tolerance * expected.balance);
        CHECK(std::abs(got.z - expected.z) <= tolerance * std::max(expected.z, 1e-3));
        CHECK(std::abs(got.entropy - expected.entropy) <= tolerance);
      }
}

TEST_CASE("balance_losses: the entropy of no preference, of certainty, and of experts that are ruled out") {
  test::array<double> flat(40, 6), sure(40, 6), some(3, 4);
  flat.fill(-3), sure.fill(0), some.fill(-std::numeric_limits<double>::infinity());
  for (index_t t = 0; t < 40; ++t) sure(t, t % 6) = 800;
  for (index_t t = 0; t < 3; ++t) some(t, 0) = 5, some(t, 2) = 5;
  CHECK(std::abs(losses(flat, {80, 0, 0, 0, 0, 0}, 2, {}).entropy - std::log(6.0)) <= 1e-15);
  CHECK(losses(sure, {80, 0, 0, 0, 0, 0}, 2, {}).entropy == 0.0);
  CHECK(std::abs(losses(some, {3, 0, 3, 0}, 2, {}).entropy - std::log(2.0)) <= 1e-15);
}

TEST_CASE("balance_losses: gradients of sigmoids and of sequences agree with finite differences") {
  for (balance_config const& config : forms) {
    CAPTURE(&config - forms);
    sequences_case const c(test::on_cuda ? moe::sequence_shape{2, 2} : moe::sequence_shape{3, 21}, 5, 2, config.per_sequence);
    test::array<double> logits(c.shape.tokens(), 5), d(c.shape.tokens(), 5);
    logits.normal(8), d.fill(0);
    c.gradient(logits, config, 1.5, d);
    auto const analytic = d.values();
    auto const loss = [&] {
      auto const r = c.run(logits, config);
      return 1.5 * (r.balance + r.z);
    };
    test::check_gradient("balance logits", loss, logits.data(), logits.size(), analytic, {.step = 1e-3});
    d.fill(64);
    c.gradient(logits, config, 1.5, d);
    for (index_t i = 0; i < d.size(); ++i) CHECK(std::abs(d.data()[i] - 64 - analytic[std::size_t(i)]) <= 1e-13);
  }
}

TEST_CASE_TEMPLATE("balance_losses: sequences and sigmoids, the same bits for every execution; one sequence is the batch", T, float, bf16) {
  for (balance_config const& config : forms) {
    CAPTURE(&config - forms);
    sequences_case const c(test::on_cuda ? moe::sequence_shape{3, 66} : moe::sequence_shape{9, 130}, 19, 3);
    test::array<T> logits(c.shape.tokens(), 19), d(c.shape.tokens(), 19);
    logits.normal(6);
    loss_values first;
    std::vector<T> gradient;
    test::for_each_execution([&](test::space const& space, int i) {
      d.normal(7);
      auto const r = c.run(logits, config, space);
      c.gradient(logits, config, 1000.0, d, space);
      if (i == 0) first = r, gradient = d.values();
      CHECK((r.balance == first.balance && r.z == first.z && r.entropy == first.entropy));
      CHECK(test::same_bits(gradient, d.values()));
    });
    sequences_case one({1, c.shape.tokens()}, 19, 3);
    balance_config whole = config, single = config;
    whole.per_sequence = false, single.per_sequence = true;
    auto const a = one.run(logits, whole), b = one.run(logits, single);
    if (!test::on_cuda) CHECK(a.balance == b.balance);  // there in another order
    CHECK((a.z == b.z && a.entropy == b.entropy));
    test::array<T> e(c.shape.tokens(), 19);
    d.normal(7), e.normal(7);
    one.gradient(logits, whole, 1000.0, d), one.gradient(logits, single, 1000.0, e);
    CHECK(test::same_bits(d.values(), e.values()));
  }
}

TEST_CASE("balance_losses: without a coefficient neither counts nor choices are read") {
  test::array<float> logits(5, 4), d(5, 4);
  logits.normal(1), d.fill(0);
  test::array<double> result(3);
  for (bool per_sequence : {false, true})
    for (int k : {2, 4}) {
      balance_config const config{.balance = 0, .z = 1, .per_sequence = per_sequence};
      test::scratch memory(1 << 16);
      auto a = memory.get();
      test::array<index_t> const nonsense({-1, 100, 3, 7}, 4, 1);
      moe::balance_losses<float>(test::on(), logits.mat(), nonsense.vec(), k, config, result.vec(), a);
      moe::balance_losses_backward(test::on(), logits.mat(), nonsense.vec(), k, config, 1.0f, d.mat(), a);
      test::on().wait();
      CHECK(result(0) == 0.0);
      CHECK((result(1) > 0 && result(2) > 0));
      for (float x : d.values()) CHECK(std::isfinite(x));
    }
}

TEST_CASE("balance_losses: uniform load or uniform probability gives the coefficient") {
  test::array<double> logits(8, 4), flat(8, 4);
  logits.normal(3), flat.fill(-2.5);
  balance_config const config{.balance = 0.25, .z = 0};
  CHECK(std::abs(losses(logits, {4, 4, 4, 4}, 2, config).balance - 0.25) <= 1e-15);
  CHECK(losses(flat, {16, 0, 0, 0}, 2, config).balance == 0.25);
  CHECK(losses(flat, {16, 0, 0, 0}, 2, config).z == 0.0);
  test::array<double> odd(15, 6), d(15, 6);  // no powers of two, whose products would be exact anyhow
  odd.normal(4), d.fill(0);                   // and not added to larger numbers, in which a rounding error would drown
  backward(odd, {5, 5, 5, 5, 5, 5}, 2, {.balance = 0.3, .z = 0}, 1.0, d);
  for (double x : d.values()) CHECK(x == 0.0);
}

TEST_CASE("balance_losses: gradients agree with finite differences and are added") {
  for (auto const& [balance, z] : {std::pair{1.0, 0.0}, {0.0, 1.0}, {0.3, 0.7}}) {
    balance_config const config{.balance = balance, .z = z};
    index_t const tokens = test::on_cuda ? 3 : 67, experts = 5;  // in the stand-in every loss costs milliseconds; long sums have a test above
    test::array<double> logits(tokens, experts), d(tokens, experts);
    logits.normal(8);
    auto const counts = uneven_counts(tokens, experts, 2);
    d.fill(0);
    backward(logits, counts, 2, config, 1.5, d);
    auto const analytic = d.values();
    auto const loss = [&] {
      auto const r = losses(logits, counts, 2, config);
      return 1.5 * (r.balance + r.z);
    };
    // the gradient of one logit is 1e-3 of the loss at most: a larger step keeps the rounding of the sum below the tolerance
    test::check_gradient("balance logits", loss, logits.data(), logits.size(), analytic, {.step = 1e-3});
    test::check_direction("balance logits", loss, logits.data(), logits.size(), analytic, 2, 1e-3);
    d.fill(64);
    backward(logits, counts, 2, config, 1.5, d);
    for (index_t i = 0; i < d.size(); ++i) CHECK(std::abs(d.data()[i] - 64 - analytic[std::size_t(i)]) <= 1e-13);
  }
}

TEST_CASE_TEMPLATE("balance_losses: the same bits for every execution, and per row in any company", T, float, double, bf16) {
  constexpr index_t tokens = test::on_cuda ? 150 : 1000, experts = 19;
  constexpr int k = 3;
  test::array<T> logits(tokens, experts, experts + 1, 1);
  logits.normal(6);
  auto const counts = uneven_counts(tokens, experts, k);
  loss_values first;
  std::vector<T> gradient;
  test::for_each_execution([&](test::space const& space, int i) {
    test::array<T> d(tokens, experts);
    d.normal(7);
    auto const r = losses(logits, counts, k, {}, space);
    backward(logits, counts, k, {}, 1000.0, d, space);
    if (i == 0) first = r, gradient = d.values();
    CHECK(r.balance == first.balance);
    CHECK(r.z == first.z);
    CHECK(test::same_bits(gradient, d.values()));
  });
  test::array<T> reversed(tokens, experts), d(tokens, experts), start(tokens, experts);
  start.normal(7);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t e = 0; e < experts; ++e) reversed(t, e) = logits(tokens - 1 - t, e), d(t, e) = start(tokens - 1 - t, e);
  backward(reversed, counts, k, {}, 1000.0, d);
  for (index_t t = 0; t < tokens; ++t) CHECK(std::memcmp(&d(t), &gradient[std::size_t((tokens - 1 - t) * experts)], experts * sizeof(T)) == 0);
}

TEST_CASE_TEMPLATE("balance_losses: rows that have no softmax are seen, large ones are not a problem", T, float, double, bf16) {
  T const inf = T(std::numeric_limits<float>::infinity()), low = T(-std::numeric_limits<float>::infinity());
  for (int kind = 0; kind < 4; ++kind) {
    CAPTURE(kind);
    test::array<T> logits(70, 5), d(70, 5);
    logits.normal(1), d.fill(T(0.0f));
    for (index_t e = 0; e < 5; ++e) logits(66, e) = kind == 2 ? low : kind == 3 ? T(-1e30f) : logits(66, e);
    if (kind == 0) logits(66, 3) = test::quiet_nan<T>();
    if (kind == 1) logits(66, 3) = inf;
    auto const counts = uneven_counts(70, 5, 2);
    auto const r = losses(logits, counts, 2, {.balance = 1, .z = 0});
    backward(logits, counts, 2, {.balance = 1, .z = 0}, 1.0, d);
    CHECK(std::isnan(r.balance) == (kind < 3));
    CHECK(std::isnan(r.z) == (kind < 3));
    CHECK(std::isnan(r.entropy) == (kind < 3));
    for (index_t e = 0; e < 5; ++e) CHECK(std::isnan(double(d(66, e))) == (kind < 3));
    for (index_t e = 0; e < 5; ++e) CHECK(std::isfinite(double(d(65, e))));
  }
  test::array<T> some(1, 3), d(1, 3);  // -infinity beside finite logits is probability 0
  some(0, 0) = T(1.0f), some(0, 1) = low, some(0, 2) = T(1.0f);
  d.fill(T(0.0f));
  auto const r = losses(some, {1, 0, 0}, 1, {.balance = 1, .z = 1});
  CHECK(std::abs(r.balance - 1.5) <= 1e-6);
  backward(some, {1, 0, 0}, 1, {.balance = 1, .z = 1}, 1.0, d);
  CHECK(d(0, 1) == T(0.0f));
  CHECK(std::isfinite(double(d(0, 0))));
}

#if defined(MOE_TEST_CUDA)
TEST_CASE("balance_losses: a grid cut to one block, which strides over its work, gives the same sums") {
  namespace d = moe::detail;
  constexpr index_t tokens = 150, experts = 70, chunks = 3;
  test::array<float> logits(tokens, experts), probability(chunks, experts), cut_probability(chunks, experts);
  test::array<double> z(chunks), cut_z(chunks), entropy(chunks), cut_entropy(chunks), total(experts), cut_total(experts);
  logits.normal(1);
  auto const sums = [&](test::space const& space, index_t blocks, auto& p, auto& squares, auto& entropies, auto& sum) {
    moe::arena measure;
    d::cuda_balance_scratch<float> to(measure, {1, tokens}, experts, false);
    to.probability = p.mat(), to.z = squares.vec(), to.entropy = entropies.vec(), to.total = sum.vec();
    moe::launch("test", d::balance_kernel<false, float, float>, {blocks, d::balance_threads, sizeof(d::balance_layout<float>)}, space,
                moe::matrix_view<float const>(logits.mat()), moe::matrix_view<int const>(), tokens, to, true);
    moe::launch("test", d::balance_total_kernel<float>, {blocks, d::lanes * d::balance_ranges, sizeof(d::balance_total_layout)}, space,
                moe::matrix_view<float const>(p.mat()), sum.vec());
    space.wait();
  };
  test::for_each_execution([&](test::space const& space, int) {
    sums(space, 3, probability, z, entropy, total);
    sums(space, 1, cut_probability, cut_z, cut_entropy, cut_total);
    CHECK(test::same_bits(probability.values(), cut_probability.values()));
    CHECK(test::same_bits(z.values(), cut_z.values()));
    CHECK(test::same_bits(entropy.values(), cut_entropy.values()));
    CHECK(test::same_bits(total.values(), cut_total.values()));
  });
}
#endif

TEST_CASE("balance_losses: no tokens") {
  test::array<float> logits(0, 4), d(0, 4);
  auto const r = losses(logits, {0, 0, 0, 0}, 2, {});
  CHECK(r.balance == 0.0);
  CHECK(r.z == 0.0);
  CHECK(r.entropy == 0.0);
  backward(logits, {0, 0, 0, 0}, 2, {}, 1.0, d);
  for (moe::sequence_shape const n : {moe::sequence_shape{0, 5}, {5, 0}})
    for (balance_config const& config : forms) {
      sequences_case const c(n, 4, 2);
      auto const nothing = c.run(logits, config);
      CHECK((nothing.balance == 0.0 && nothing.z == 0.0 && nothing.entropy == 0.0));
      c.gradient(logits, config, 1.0, d);
    }
}

TEST_CASE_TEMPLATE("balance_losses: a row of sigmoids that is not finite", T, float, double) {
  for (double x : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    balance_config const config{.balance = 1, .z = 0, .score = moe::score_function::sigmoid, .per_sequence = true};
    sequences_case const c({2, 3}, 4, 2);
    test::array<T> logits(6, 4), d(6, 4);
    logits.normal(2), d.fill(0);
    logits(4, 1) = T(x);
    auto const r = c.run(logits, config);
    CHECK(std::isnan(r.balance) == std::isnan(x));
    CHECK(std::isnan(r.z) == !(x < 0));
    CHECK(std::isnan(r.entropy) == !(x < 0));
    c.gradient(logits, config, 1.0, d);
    for (index_t e = 0; e < 4; ++e) CHECK((std::isnan(d(4, e)) == std::isnan(x) && std::isfinite(d(3, e)) && std::isfinite(d(0, e))));
  }
}

TEST_CASE("balance_losses: wrong arguments") {
  using test::contains;
  using test::error_of;
  test::array<double> logits(3, 4), d(3, 4), d2(2, 4);
  logits.fill(0), d.fill(0);
  auto const both = [&](std::vector<index_t> counts, int k, std::string const& message) {
    CHECK(contains(error_of([&] { losses(logits, counts, k, {}); }), "balance_losses: " + message));
    CHECK(contains(error_of([&] { backward(logits, counts, k, {}, 1.0, d); }), "balance_losses_backward: " + message));
  };
  both({6, 0, 0}, 2, "counts has 3 entries, logits has 4 experts");
  both({6, 0, 0, 0}, 0, "k = 0 of 4 experts");
  both({6, 0, 0, 0}, 5, "k = 5 of 4 experts");
  if (!test::on_cuda) {
    both({7, -1, 0, 0}, 2, "counts[1] is -1");
    both({INT64_MAX, 1, 0, 0}, 2, "counts add up to more than 64 bits hold, at entry 1");
    both({7, 0, 0, 0}, 2, "counts add up to 7, 3 tokens of 2 choices make 6 at most");
  }
  CHECK(contains(error_of([&] { backward(logits, {6, 0, 0, 0}, 2, {}, 1.0, d2); }), "balance_losses_backward: d_logits is [2, 4], logits is [3, 4]"));
  balance_config const sequences{.per_sequence = true};
  sequences_case c({1, 3}, 4, 2), short_one({1, 2}, 4, 2), other_k({1, 3}, 4, 3);
  CHECK(contains(error_of([&] { short_one.run(logits, sequences); }), "balance_losses: 1 sequences of 2 tokens, logits has 3 rows"));
  other_k.k = 2;
  CHECK(contains(error_of([&] { other_k.gradient(logits, sequences, 1.0, d); }), "balance_losses_backward: expert is [3, 3], needs [3, 2]"));
  c.expert(1, 1) = 4;
  if (!test::on_cuda) CHECK(contains(error_of([&] { c.run(logits, sequences); }), "balance_losses: expert[1, 1] = 4, needs to be in [-1, 4)"));
  test::array<index_t> const counts({6, 0, 0, 0}, 4, 1);
  test::array<double> result(3);
  std::byte none;
  moe::arena empty(&none, 0);
  auto const space = test::on();
  CHECK(contains(error_of([&] { moe::balance_losses<double>(space, logits.mat(), counts.vec(), 2, {}, result.vec(), empty); }), "balance_losses: scratch has 0 bytes left"));
  CHECK(contains(error_of([&] { moe::balance_losses_backward(space, logits.mat(), counts.vec(), 2, {}, 1.0, d.mat(), empty); }), "balance_losses_backward: scratch has 0 bytes left"));
}
