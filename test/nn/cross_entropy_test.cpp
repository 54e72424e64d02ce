#include <moe/nn/cross_entropy.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
template <class T>
using A = moe::accumulator<T>;
index_t const chunk = on_cuda ? 1024 : 256;  // tokens whose logits exist at a time

template <class T>
struct problem {
  array<T> x, w, d_x;
  array<A<T>> d_w;
  array<int> target;
  array<double> losses{2};
  A<T> scale = A<T>(0.25);
  problem(index_t tokens, index_t d, index_t vocab, index_t gap = 0, index_t offset = 0)
      : x(tokens, d, d + gap, offset), w(vocab, d, d + gap, offset), d_x(tokens, d, d + gap, offset), d_w(vocab, d, d + gap, offset), target(tokens) {
    x.normal(1), w.normal(2), d_w.normal(3);
    moe::random_stream const random{1, moe::random_purpose::test, 4};
    for (index_t t = 0; t < tokens; ++t)
      target(t) =
          t % 5 == 3 ? -1 - static_cast<int>(t) : static_cast<int>(random.below(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(vocab)));
  }
  std::size_t bytes(space const& s) const { return moe::cross_entropy_scratch_bytes<T>(s, x.rows(), x.columns(), w.rows()); }
  /// The sum in nats; both losses are in `losses`.
  template <moe::cross_entropy_config C = moe::cross_entropy_config{}>
  double run(space const& s = on()) {
    scratch memory(bytes(s));
    auto a = memory.get();
    losses.poison();
    moe::cross_entropy<C>(s, x.mat(), w.mat(), target.vec(), scale, moe::view<2>(losses.data(), 2), d_x.mat(), d_w.mat(), a);
    return losses(0);
  }
  double loss(space const& s = on()) {
    scratch memory(bytes(s));
    auto a = memory.get();
    losses.poison();
    moe::cross_entropy_loss(s, x.mat(), w.mat(), target.vec(), moe::view<2>(losses.data(), 2), a);
    return losses(0);
  }
};

/// The formulas in double, with all logits at once.
struct reference {
  double loss = 0, targets = 0;
  std::vector<double> d_x, d_w;
  template <class T>
  explicit reference(problem<T> const& p, bool mean = false) {
    index_t const tokens = p.x.rows(), d = p.x.columns(), vocab = p.w.rows();
    d_x.assign(static_cast<std::size_t>(tokens * d), 0);
    for (auto const x : p.d_w.values()) d_w.push_back(double(x));
    for (index_t t = 0; t < tokens; ++t) targets += p.target(t) >= 0;
    double const scale = double(p.scale) / (mean && targets > 0 ? targets : 1);
    for (index_t t = 0; t < tokens; ++t) {
      if (p.target(t) < 0) continue;
      std::vector<double> l(static_cast<std::size_t>(vocab));
      double top = -1e300, sum = 0;
      for (index_t v = 0; v < vocab; ++v) {
        double& logit = l[static_cast<std::size_t>(v)];
        for (index_t c = 0; c < d; ++c) logit += double(p.x(t, c)) * double(p.w(v, c));
        top = std::max(top, logit);
      }
      for (double logit : l) sum += std::exp(logit - top);
      loss += top + std::log(sum) - l[static_cast<std::size_t>(p.target(t))];
      for (index_t v = 0; v < vocab; ++v) {
        double const g = scale * (std::exp(l[static_cast<std::size_t>(v)] - top) / sum - (v == p.target(t) ? 1.0 : 0.0));
        for (index_t c = 0; c < d; ++c) {
          d_x[static_cast<std::size_t>(t * d + c)] += g * double(p.w(v, c));
          d_w[static_cast<std::size_t>(v * d + c)] += g * double(p.x(t, c));
        }
      }
    }
  }
};
template <class T>
std::vector<double> numbers(array<T> const& a) {
  std::vector<double> all;
  for (T const x : a.values()) all.push_back(double(x));
  return all;
}
template <class T>
double worst(std::vector<T> const& a, std::vector<double> const& b) {
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (double const difference = std::abs(double(a[i]) - b[i]) / (1 + std::abs(b[i])); !(difference <= w)) w = difference;
  return a.size() == b.size() ? w : quiet_nan<double>();
}
}  // namespace

TEST_CASE_TEMPLATE("cross_entropy: agrees with the formulas for any shape, strided and unaligned", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 1e-5 : 1e-2;
  for (index_t vocab : {1, 2, 7, 8, 15, 16, 17, 65, 130, 1100})
    for (index_t d : {1, 9, 16})
      for (index_t tokens : {1, 6}) {
        if (on_cuda && (vocab % 4 == 0 || (d == 16) != (vocab > 1000))) continue;
        problem<T> p(tokens, d, vocab, d % 4, tokens % 3);
        reference const r(p);
        double const loss = p.run();
        CHECK(std::abs(loss - r.loss) <= (std::is_same_v<T, double> ? 1e-12 : 1e-5) * (1 + r.loss));
        CHECK(p.losses(1) == r.targets);
        CHECK(p.loss() == loss);
        CHECK(p.losses(1) == r.targets);
        CHECK(worst(p.d_x.values(), r.d_x) <= tolerance);
        CHECK(worst(p.d_w.values(), r.d_w) <= tolerance);
      }
}

TEST_CASE_TEMPLATE("cross_entropy: one below, at and above a chunk of tokens", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 1e-4 : 1e-2;
  for (index_t tokens : {chunk - 1, chunk, chunk + 1, 2 * chunk + 88}) {
    if (on_cuda && (tokens != chunk + 1 || std::is_same_v<T, double>)) continue;  // fibers take their time
    problem<T> p(tokens, 5, 19);
    reference const r(p);
    CHECK(std::abs(p.run() - r.loss) <= (std::is_same_v<T, double> ? 1e-12 : 1e-5) * r.loss);
    CHECK(p.losses(1) == r.targets);
    CHECK(worst(p.d_x.values(), r.d_x) <= tolerance);
    CHECK(worst(p.d_w.values(), r.d_w) <= tolerance);
  }
}

TEST_CASE_TEMPLATE("cross_entropy: the mean divides the scale by the targets that count", T, float, double, bf16) {
  double const tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 1e-5 : 1e-2;
  for (index_t tokens : {1, 8, 40}) {
    problem<T> mean(tokens, 5, 19), sum(tokens, 5, 19);
    if (tokens == 1) mean.target(0) = sum.target(0) = -3;  // nothing counts: the divisor is 1
    reference const r(mean, true);
    double const loss = mean.template run<moe::cross_entropy_config{.mean = true}>();
    CHECK(mean.losses(1) == r.targets);
    CHECK(worst(mean.d_x.values(), r.d_x) <= tolerance);
    CHECK(worst(mean.d_w.values(), r.d_w) <= tolerance);
    sum.scale = static_cast<A<T>>(static_cast<double>(sum.scale) / std::max(1.0, r.targets));
    CHECK(sum.run() == loss);
    CHECK(same_bits(mean.d_x.values(), sum.d_x.values()));
    CHECK(same_bits(mean.d_w.values(), sum.d_w.values()));
  }
}

TEST_CASE("cross_entropy: gradients") {
  problem<double> p(6, 5, 11, 1, 1);
  p.scale = 1;
  p.d_w.fill(0);
  p.run();
  auto const loss = [&] { return p.loss(); };
  for (index_t t = 0; t < (on_cuda ? 1 : 6); ++t) {
    std::vector<double> const d(&p.d_x(t, 0), &p.d_x(t, 0) + 5);
    check_gradient("x", loss, &p.x(t, 0), 5, d, {.step = 1e-3, .relative = 1e-7});
    if (p.target(t) < 0) CHECK(d == std::vector<double>(5, 0.0));
  }
  for (index_t v = 0; v < (on_cuda ? 2 : 11); ++v)
    check_gradient("w", loss, &p.w(v, 0), 5, std::vector<double>(&p.d_w(v, 0), &p.d_w(v, 0) + 5), {.step = 1e-3, .relative = 1e-7});
}

TEST_CASE("cross_entropy: equal logits cost log(vocab)") {
  for (index_t vocab : {1, 16, 50, 257}) {
    problem<double> p(3, 4, vocab);
    p.x.fill(0);
    p.target = array<int>({0, static_cast<int>(vocab) - 1, -7}, 3, 1);
    CHECK(p.run() == doctest::Approx(2 * std::log(double(vocab))).epsilon(1e-14));
  }
}

TEST_CASE_TEMPLATE("cross_entropy: the same bits for any execution, any strides, and any other tokens in the call", T, float, double, bf16) {
  index_t const tokens = on_cuda ? 50 : 530, d = 21, vocab = 83;
  problem<T> expected(tokens, d, vocab);
  double const loss = expected.run();
  for_each_execution([&](space const& s, int i) {
    problem<T> p(tokens, d, vocab, i, i % 4);
    CHECK(p.run(s) == loss);
    CHECK(p.loss(s) == loss);
    CHECK(same_bits(p.d_x.values(), expected.d_x.values()));
    CHECK(same_bits(p.d_w.values(), expected.d_w.values()));
  });
  for (index_t t : {index_t{0}, index_t{1}, tokens / 2, tokens - 1}) {
    problem<T> one(1, d, vocab);
    for (index_t c = 0; c < d; ++c) one.x(0, c) = expected.x(t, c);
    one.target(0) = expected.target(t);
    one.run();
    for (index_t c = 0; c < d; ++c) CHECK(double(one.d_x(0, c)) == double(expected.d_x(t, c)));
  }
}

TEST_CASE_TEMPLATE("cross_entropy: d_w is one chain over the tokens, wherever the chunks end", T, float, double) {
  if (on_cuda && std::is_same_v<T, double>) return;
  index_t const tokens = chunk + 76, part = tokens / 4;
  problem<T> whole(tokens, 7, 30), parts(tokens, 7, 30);
  double const loss = whole.run();
  double sum = 0;
  scratch s;
  for (index_t begin = 0; begin < tokens; begin += part) {
    auto a = s.get();
    auto const rows = [&](array<T>& m) { return moe::rows_of(m.mat(), begin, begin + part); };
    moe::cross_entropy(on(), rows(parts.x), parts.w.mat(), moe::vec(parts.target.data() + begin, part), parts.scale,
                       moe::view<2>(parts.losses.data(), 2), rows(parts.d_x), parts.d_w.mat(), a);
    sum += parts.losses(0);
  }
  CHECK(sum == doctest::Approx(loss).epsilon(1e-14));
  CHECK(same_bits(whole.d_x.values(), parts.d_x.values()));
  CHECK(same_bits(whole.d_w.values(), parts.d_w.values()));
}

TEST_CASE("cross_entropy: the loss is the sum of the losses of the tokens, in ascending order") {
  index_t const most = 71;
  problem<float> all(most, 5, 23);
  double sum = 0;
  for (index_t t = 0; t < most; ++t) {
    problem<float> one(1, 5, 23), first(t + 1, 5, 23);
    for (index_t c = 0; c < 5; ++c) one.x(0, c) = all.x(t, c);
    one.target(0) = all.target(t);
    sum += one.loss();
    if (t % 7 == 0) CHECK(first.loss() == sum);
  }
}

TEST_CASE_TEMPLATE("cross_entropy: without d_w, everything else is the same", T, float, bf16) {
  problem<T> with(40, 9, 20), without(40, 9, 20);
  double const loss = with.run();
  scratch s;
  auto a = s.get();
  moe::cross_entropy(on(), without.x.mat(), without.w.mat(), without.target.vec(), without.scale, moe::view<2>(without.losses.data(), 2),
                     without.d_x.mat(), {}, a);
  CHECK(without.losses(0) == loss);
  CHECK(same_bits(with.d_x.values(), without.d_x.values()));
  CHECK(same_bits(without.d_w.values(), array<A<T>>(20, 9).normal(3).values()));
}

TEST_CASE_TEMPLATE("cross_entropy: huge logits, NaN, ignored tokens", T, float, double) {
  problem<T> p(4, 1, 20);
  p.x = array<T>({T(1e30), T(-1e30), T(0), T(1)}, 4, 1);
  for (index_t v = 0; v < 20; ++v) p.w(v, 0) = T(v);
  p.target = array<int>({19, 19, -1, -5}, 4, 1);
  p.d_w.fill(0);
  CHECK(p.run() == doctest::Approx(19e30).epsilon(1e-6));  // token 0: certain and right, token 1: certain and wrong
  CHECK(p.d_x(0, 0) == 0);
  CHECK(p.d_x(1, 0) == T(-19) * p.scale);
  CHECK((p.d_x(2, 0) == 0 && p.d_x(3, 0) == 0));
  p.x(0, 0) = quiet_nan<T>();
  CHECK(std::isnan(p.run()));
  CHECK(std::isnan(p.loss()));
  CHECK(std::isnan(p.d_x(0, 0)));
  CHECK(p.d_x(1, 0) == T(-19) * p.scale);
  CHECK(std::isnan(p.d_w(0, 0)));

  problem<T> low(1, 1, 20);  // all logits far below 0: the padding of a row must not count
  low.x(0, 0) = 1, low.w.fill(T(-2000)), low.target(0) = 3;
  CHECK(low.run() == doctest::Approx(std::log(20.0)).epsilon(1e-6));
  low.w(3, 0) = -std::numeric_limits<T>::infinity();
  CHECK(low.loss() == std::numeric_limits<double>::infinity());

  problem<T> ignored(300, 3, 9);  // more tokens than a block has threads
  for (index_t t = 0; t < 300; ++t) ignored.target(t) = -1;
  auto const before = ignored.d_w.values();
  CHECK(ignored.run() == 0);
  CHECK(ignored.losses(1) == 0);
  CHECK(ignored.d_x.values() == std::vector<T>(900, T(0)));
  CHECK(ignored.d_w.values() == before);
}

TEST_CASE("cross_entropy: with no tokens both losses are 0 and nothing else is written; errors come before any work") {
  problem<float> none(0, 3, 9);
  auto const d_w = none.d_w.values();
  CHECK((none.run() == 0 && none.losses(1) == 0));
  CHECK((none.loss() == 0 && none.losses(1) == 0));
  CHECK(same_bits(none.d_w.values(), d_w));

  problem<float> p(3, 4, 9);
  array<float> x5(3, 5), x2(2, 4), w8(8, 4);
  array<int> two(2);
  scratch s;
  auto a = s.get();
  auto const losses = moe::view<2>(p.losses.data(), 2);
  auto const text = [&](array<float>& x, array<float>& w, array<int>& target, array<float>& d_x, array<float>& d_wide) {
    return error_of([&] { moe::cross_entropy(on(), x.mat(), w.mat(), target.vec(), 1.0f, losses, d_x.mat(), d_wide.mat(), a); });
  };
  CHECK(text(x5, p.w, p.target, p.d_x, p.d_w) == "cross_entropy: w is [9, 4], needs [9, 5]");
  CHECK(text(p.x, p.w, two, p.d_x, p.d_w) == "cross_entropy: target has 2 elements, needs 3");
  CHECK(text(p.x, p.w, p.target, x2, p.d_w) == "cross_entropy: d_x is [2, 4], needs [3, 4]");
  CHECK(text(p.x, p.w, p.target, p.d_x, w8) == "cross_entropy: d_w is [8, 4], needs [9, 4]");
  CHECK(error_of([&] { moe::cross_entropy_loss(on(), x5.mat(), p.w.mat(), p.target.vec(), losses, a); }) ==
        "cross_entropy_loss: w is [9, 4], needs [9, 5]");
  if constexpr (!on_cuda) {  // nobody looks at targets on a device: see the next test
    p.target(2) = 9;
    CHECK(text(p.x, p.w, p.target, p.d_x, p.d_w) == "cross_entropy: target[2] is 9, needs to be below 9 (negative: ignored)");
    p.target(2) = 8;
  }
  CHECK((std::isnan(p.d_x(0, 0)) && std::isnan(p.losses(0)) && std::isnan(p.losses(1))));
  auto const before = p.d_w.values();
  scratch small(p.bytes(on()) - 1);
  auto b = small.get();
  CHECK(contains(error_of([&] { moe::cross_entropy(on(), p.x.mat(), p.w.mat(), p.target.vec(), 1.0f, losses, p.d_x.mat(), p.d_w.mat(), b); }),
                 "cross_entropy: scratch has "));
  CHECK(contains(error_of([&] { moe::cross_entropy_loss(on(), p.x.mat(), p.w.mat(), p.target.vec(), losses, b); }), "cross_entropy_loss: scratch has "));
  CHECK((std::isnan(p.losses(0)) && std::isnan(p.losses(1))));
  CHECK(same_bits(p.d_w.values(), before));
}

#if defined(MOE_TEST_CUDA)
TEST_CASE_TEMPLATE("cross_entropy on the device: a target out of range makes NaN and harms nobody else", T, float, double, bf16) {
  for (int target : {9, 10, std::numeric_limits<int>::max()}) {
    problem<T> good(5, 3, 9), bad(5, 3, 9);
    good.run();
    bad.target(2) = target;
    CHECK(std::isnan(bad.loss()));
    CHECK(std::isnan(bad.run()));
    CHECK(bad.losses(1) == good.losses(1));
    for (auto const d : bad.d_w.values()) CHECK(d != d);
    for (index_t t = 0; t < 5; ++t)
      for (index_t c = 0; c < 3; ++c) CHECK((t == 2 ? bad.d_x(t, c) != bad.d_x(t, c) : bad.d_x(t, c) == good.d_x(t, c)));
  }
}

TEST_CASE("cross_entropy on the device: a grid with fewer blocks than rows") {
  array<float> all(7, 9), cut(7, 9), scale(1);
  array<int> target({3, -1, 0, 8, -2, 5, 5}, 7, 1);
  array<double> all_nats(7), cut_nats(7);
  scale(0) = 0.5f;
  auto const rows = [&](index_t blocks, array<float>& logits, array<double>& nats) {
    logits.normal(1);
    moe::launch("test", moe::detail::softmax_rows_kernel<true, float, float>,
                {.blocks = blocks, .threads = moe::detail::cross_entropy_threads, .shared_bytes = sizeof(moe::detail::softmax_layout<float>)}, on(),
                moe::matrix_view<float const>(logits.mat()), logits.mat(), target.vec(), scale.vec(), nats.vec());
  };
  rows(7, all, all_nats);
  for_each_execution([&](space const&, int) {
    rows(2, cut, cut_nats);
    CHECK(same_bits(cut.values(), all.values()));
    CHECK(same_bits(cut_nats.values(), all_nats.values()));
  });
}

TEST_CASE_TEMPLATE("cross_entropy on the device: the bits of the CPU where the sum of a row is exact", T, float, double, bf16) {
  for (index_t vocab : {5, 64, 1300}) {
    problem<T> p(9, 6, vocab), q(9, 6, vocab);
    for (index_t v = 0; v < vocab; ++v)  // equal logits
      for (index_t c = 0; c < 6; ++c) p.w(v, c) = q.w(v, c) = p.w(0, c);
    p.run();
    scratch memory;
    auto a = memory.get();
    moe::cross_entropy(moe::cpu{}, q.x.mat(), q.w.mat(), q.target.vec(), q.scale, moe::view<2>(q.losses.data(), 2), q.d_x.mat(), q.d_w.mat(), a);
    CHECK(same_bits(p.losses.values(), q.losses.values()));
    if constexpr (std::is_same_v<T, bf16>) {  // products of bf16 are summed by another unit in each space
      CHECK(worst(p.d_x.values(), numbers(q.d_x)) <= 1e-2);
      CHECK(worst(p.d_w.values(), numbers(q.d_w)) <= 1e-6);
    } else {
      CHECK(same_bits(p.d_x.values(), q.d_x.values()));
      CHECK(same_bits(p.d_w.values(), q.d_w.values()));
    }
  }
}
#endif
