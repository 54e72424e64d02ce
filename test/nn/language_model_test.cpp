#include <moe/nn/attention_layer.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/sequence.hpp>
#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/schedule.hpp>
#if defined(MOE_TEST_CUDA)
#include <moe/moe.cuh>
#endif

#include "test/nn/parameter_places.hpp"

using namespace moe::nn;
using moe::index_t;

namespace {
constexpr attention_config heads{.d_model = 8, .heads = 2, .kv_heads = 1};
constexpr moe_ffn_config sparse{.d_model = 8, .d_ff = 8, .experts = 2, .granularity = 2, .losses = {.balance = 0.05, .z = 0.02}};
using block = sequence<residual<attention_layer<heads>>, residual<moe_ffn<sparse>>>;
template <bool Tied>
struct ends {
  static constexpr language_model_config config{.vocab = 11, .d_model = 8, .tied = Tied, .embedding_std = 0.7};
};
template <bool Tied>
using model = language_model<ends<Tied>::config, repeat<2, block>>;

template <class M, class T>
struct run {
  sequence_shape shape;
  test::space space;
  test::memory<T> w = test::memory<T>(static_cast<std::size_t>(M::parameter_count));
  test::memory<moe::accumulator<T>> g = test::memory<moe::accumulator<T>>(w.size());
  test::memory<int> token, target;
  test::memory<std::byte> kept_memory, scratch_memory;
  moe::arena kept;
  typename M::template activations<T> a;

  static std::size_t bytes(test::space const& s, sequence_shape n) {
    moe::arena measure;
    typename M::template activations<T>(s, measure, n);
    return measure.peak();
  }
  explicit run(sequence_shape n, test::space const& s = test::on())
      : shape(n), space(s), kept_memory(bytes(s, n)), scratch_memory(M::template scratch_bytes<T>(s, n)), kept(kept_memory.data(), kept_memory.size()),
        a(s, kept, n) {
    initialise<M, test::space>(w.data(), 4);
    moe::random_stream const random{8, moe::random_purpose::test, 0};
    for (index_t t = 0; t < n.tokens(); ++t) {
      token.push_back(static_cast<int>(random.below(static_cast<std::uint64_t>(2 * t), M::vocab)));
      target.push_back(t % 5 == 3 ? -1 : static_cast<int>(random.below(static_cast<std::uint64_t>(2 * t + 1), M::vocab)));
    }
  }
  auto tokens() const { return moe::vec(token.data(), static_cast<index_t>(token.size())); }
  auto targets() const { return moe::vec(target.data(), static_cast<index_t>(target.size())); }
  moe::arena scratch() {
    std::memset(scratch_memory.data(), 0xff, scratch_memory.size());
    return moe::arena(scratch_memory.data(), scratch_memory.size());
  }
  double total(typename M::losses const& l) const { return l.cross_entropy_sum / static_cast<double>(l.targets) + l.balance + l.z; }
  double loss() {
    moe::arena s = scratch();
    M::loss(space, static_cast<T const*>(w.data()), tokens(), targets(), shape, a, s);
    return total(M::losses_of(space, a));
  }
  double gradient() {
    moe::arena s = scratch();
    std::fill(g.begin(), g.end(), moe::accumulator<T>(0));
    M::loss_and_gradient(space, static_cast<T const*>(w.data()), g.data(), tokens(), targets(), shape, a, s);
    return total(M::losses_of(space, a));
  }
  std::vector<int> choices() {
    std::vector<int> all;
    M::for_each_router(a, [&](auto const& r) {
      for (index_t t = 0; t < r.expert.template extent<0>(); ++t)
        for (index_t j = 0; j < r.expert.template extent<1>(); ++j) all.push_back(r.expert(t, j));
    });
    return all;
  }
};

template <class M>
void check_gradients() {
  run<M, double> r({2, 6});
  double const with_backward = r.gradient();
  CHECK(with_backward == r.loss());
  auto const chosen = r.choices();
  std::vector<double> const g(r.g.begin(), r.g.end());
  bool same = true;
  auto const loss = [&] {
    double const l = r.loss();
    same = same && r.choices() == chosen;
    return l;
  };
  for (auto const& p : parameters_of<M, test::space>()) {
    std::vector<double> const part(g.begin() + p.offset, g.begin() + p.offset + p.size);
    if (test::on_cuda) test::check_direction(p.name.c_str(), loss, r.w.data() + p.offset, p.size, part, 1, 1e-5);
    else test::check_gradient_at(p.name.c_str(), loss, r.w.data(), test::places_of(p), g.data());
  }
  test::check_direction("all parameters", loss, r.w.data(), static_cast<index_t>(r.w.size()), g, 1, 1e-5);
  CHECK_MESSAGE(same, "a step changed the choice of experts: take another seed");
}
}  // namespace

TEST_CASE("language_model: gradients of a whole 2-layer model") { check_gradients<model<false>>(); }
TEST_CASE("language_model: gradients with tied embeddings") { check_gradients<model<true>>(); }

TEST_CASE("language_model: bf16 has the loss and the gradient of double on the same rounded weights, but for its roundings") {
  auto const check = [](auto m) {
    using M = typename decltype(m)::type;
    run<M, moe::bf16> rounded({2, 6});
    run<M, double> exact({2, 6});
    test::copy_parameters<M>(rounded.w.data(), exact.w.data());
    double const loss = rounded.gradient(), expected = exact.gradient();
    REQUIRE_MESSAGE(rounded.choices() == exact.choices(), "rounding changed the choice of experts: take another seed");
    CHECK(loss == rounded.loss());
    CHECK(std::abs(loss - expected) < 0.005 * expected);
    auto const cosine = [&](index_t first, index_t n) {
      double product = 0, a = 0, b = 0;
      for (index_t i = first; i < first + n; ++i) {
        double const x = static_cast<double>(rounded.g[static_cast<std::size_t>(i)]), y = exact.g[static_cast<std::size_t>(i)];
        product += x * y, a += x * x, b += y * y;
      }
      return product / std::sqrt(a * b);
    };
    CHECK(cosine(0, M::parameter_count) > 0.9999);
    for (auto const& p : parameters_of<M, test::space>()) CHECK_MESSAGE(cosine(p.offset, p.size) > 0.999, p.name << ": cosine " << cosine(p.offset, p.size));
  };
  check(std::type_identity<model<false>>());
  if (!test::on_cuda) check(std::type_identity<model<true>>());
}

TEST_CASE("language_model: loss and gradients have the same bits however they are executed, also in bf16") {
  run<model<false>, moe::bf16> rounded({2, 9});
  double const in_bf16 = rounded.gradient();
  test::for_each_execution([&](test::space const& s, int) {
    run<model<false>, moe::bf16> many(rounded.shape, s);
    CHECK(many.gradient() == in_bf16);
    CHECK(test::same_bits(rounded.g, many.g));
  });
  run<model<false>, float> one({test::on_cuda ? 2 : 3, test::on_cuda ? 9 : 21});
  double const l = one.gradient();
  test::for_each_execution([&](test::space const& s, int) {
    run<model<false>, float> many(one.shape, s);
    CHECK(many.gradient() == l);
    CHECK(test::same_bits(one.g, many.g));
  });
}

TEST_CASE("language_model: twenty training steps give the same weights, bit for bit, however they are executed; the loss falls") {
  using M = model<false>;
  auto const train = [](test::space const& s, double* first, double* last) {
    run<M, float> r({test::on_cuda ? 2 : 4, test::on_cuda ? 7 : 19}, s);
    index_t const n = M::parameter_count;
    test::memory<float> m(r.w.size()), v(r.w.size());
    test::memory<double> norm(1);
    moe::warmup_cosine const schedule(0.02, 4, 20, 0.002);
    test::memory<std::byte> memory(moe::global_norm_scratch_bytes(s, n));
    for (index_t step = 1; step <= (test::on_cuda ? 3 : 20); ++step) {  // the stand-in runs three
      double const loss = r.gradient();
      if (step == 1) *first = loss;
      *last = loss;
      moe::arena scratch(memory.data(), memory.size());
      moe::global_norm<float>(r.space, moe::vec(r.g.data(), n), moe::view<1>(norm.data(), 1), scratch);
      moe::adamw(r.space, moe::vec(r.w.data(), n), moe::vec(m.data(), n), moe::vec(v.data(), n), moe::vec<float const>(r.g.data(), n), schedule.at(step), 0.1,
                 moe::clip_scale(norm[0], 1.0), step);
    }
    return r.w;
  };
  double first = 0, last = 0;
  auto const one = train(test::on(), &first, &last);
  CHECK(last < (test::on_cuda ? 1.0 : 0.7) * first);
  test::for_each_execution([&](test::space const& s, int) {
    double f = 0, l = 0;
    CHECK(test::same_bits(one, train(s, &f, &l)));
    CHECK(l == last);
  });
}

TEST_CASE_TEMPLATE("language_model: cached decoding gives the logits of the full forward at every position, for any split of the prompt", T, float, moe::bf16) {
  using M = model<false>;
  index_t const length = 40;
  run<M, T> r({1, length});
  test::array<float> full(length, M::vocab);
  {
    moe::arena s = r.scratch();
    M::logits_of_batch(r.space, static_cast<T const*>(r.w.data()), r.tokens(), r.shape, r.a, full.mat(), s);
  }
  moe::random_stream const random{77, moe::random_purpose::test, 0};
  std::uint64_t draw = 0;
  for (int attempt = 0; attempt < (test::on_cuda && !std::is_same_v<T, float> ? 2 : 6); ++attempt) {
    moe::arena measure;
    typename M::template state<T>(r.space, measure, length);
    test::memory<std::byte> memory(measure.peak()), scratch_memory(M::template logits_scratch_bytes<T>(r.space, length, length));
    moe::arena kept(memory.data(), memory.size()), scratch(scratch_memory.data(), scratch_memory.size());
    typename M::template state<T> state(r.space, kept, length);
    test::array<float> piecewise(length, M::vocab);
    while (state.position < length) {
      index_t const first = state.position, rows = attempt == 0 ? 1 : std::min<index_t>(length - first, 1 + static_cast<index_t>(random.below(draw++, 20)));
      M::logits(r.space, static_cast<T const*>(r.w.data()), moe::vec(r.token.data() + first, rows), state, moe::rows_of(piecewise.mat(), first, first + rows), scratch);
    }
    CHECK(test::same_bits(full.values(), piecewise.values()));
    std::string const text = test::error_of([&] {
      M::logits(r.space, static_cast<T const*>(r.w.data()), moe::vec(r.token.data(), 1), state, moe::rows_of(piecewise.mat(), 0, 1), scratch);
    });
    CHECK(test::contains(text, "capacity of 40"));
  }
}

TEST_CASE("language_model: gradients add up and scale") {
  using M = model<false>;
  run<M, double> r({2, 6});
  r.gradient();
  auto const once = r.g;
  moe::arena s = r.scratch();
  M::loss_and_gradient(r.space, static_cast<double const*>(r.w.data()), r.g.data(), r.tokens(), r.targets(), r.shape, r.a, s, 0.5);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(std::abs(r.g[i] - 1.5 * once[i]) <= 1e-12 * (1 + std::abs(once[i])));
}

TEST_CASE("language_model: counts of parameters, active parameters and FLOPs") {
  using M = model<false>;
  index_t const attention = 8 * (8 + 2 * 4) + 8 * 8, router = 4 * 8, expert = 3 * 8 * 4;
  CHECK(M::parameters() == 2 * 11 * 8 + 8 + 2 * (8 + attention + 8 + router + 4 * expert));
  CHECK(M::active_parameters() == 8 + 8 + 11 * 8 + 2 * (8 + attention + 8 + router + 2 * expert));
  double const per_layer = 2.0 * attention + 4.0 * 8 * 0.5 * 7 + 2.0 * (router + 2 * expert);
  CHECK(M::flops_per_token(6) == 3.0 * (2 * per_layer + 2.0 * 11 * 8));
}

TEST_CASE("language_model: wrong shapes and tokens are errors that say what was wrong") {
  using M = model<false>;
  run<M, float> r({2, 6});
  auto const message = [&](auto tokens, auto targets) {
    return test::error_of([&] {
      moe::arena s = r.scratch();
      M::loss(r.space, static_cast<float const*>(r.w.data()), tokens, targets, r.shape, r.a, s);
    });
  };
  CHECK(test::contains(message(moe::vec<int const>(r.token.data(), 11), r.targets()), "11 tokens, the shape needs 12"));
  CHECK(test::contains(message(r.tokens(), moe::vec<int const>(r.target.data(), 10)), "10 targets, the shape needs 12"));
  moe::arena s = r.scratch(), measuring;
  auto const* w = static_cast<float const*>(r.w.data());
  CHECK(test::contains(test::error_of([&] { M::loss_and_gradient(r.space, w, static_cast<float*>(nullptr), r.tokens(), r.targets(), r.shape, r.a, s); }),
                       "no data"));
  test::array<float> narrow(12, 10), few(8, 11);
  CHECK(test::contains(test::error_of([&] { M::logits_of_batch(r.space, w, r.tokens(), r.shape, r.a, narrow.mat(), s); }),
                       "language_model: out is [12, 10], needs [12, 11]"));
  CHECK(test::contains(test::error_of([&] { M::logits_of_batch(r.space, w, r.tokens(), {2, 4}, r.a, few.mat(), s); }),
                       "language_model: x has 12 rows, 2 sequences of 4 tokens need 8"));
  M::activations<float> none(r.space, measuring, r.shape);
  CHECK(test::contains(test::error_of([&] { (void)M::losses_of(r.space, none); }), "losses of the activations has 0 elements, needs 2"));
  if (test::on_cuda) return;  // values in the memory of a device are not looked at
  r.token[5] = 11;
  CHECK(message(r.tokens(), r.targets()) != "");
  r.token[5] = 3;
  r.target[4] = 11;
  CHECK(message(r.tokens(), r.targets()) != "");
}
