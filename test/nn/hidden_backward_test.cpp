#include <moe/nn/hidden_backward.hpp>
#include <moe/routing/weigh_rows.hpp>
#if defined(MOE_TEST_CUDA)
#include <moe/routing/weigh_rows.cuh>
#endif

#include "test/support.hpp"

namespace {
using moe::activation_kind;
using moe::bf16;
using moe::index_t;

constexpr index_t matrices(activation_kind k) { return k == activation_kind::swiglu ? 2 : 1; }

/// Slots in some order, then -1.
test::array<int> some_slots(index_t slots, index_t kept) {
  test::array<int> slot(slots);
  for (index_t r = 0; r < kept; ++r) slot(r) = static_cast<int>((7 * r + 3) % slots);
  return slot;
}

/// Operands of tokens * k rows, of which the first `kept` have a slot.
template <activation_kind K, class T, class TW = moe::accumulator<T>>
struct operands {
  test::array<TW> weight, d_weight;
  test::array<T> pre, d_h, h, d_pre;
  test::array<int> slot;
  operands(index_t tokens, index_t k, index_t kept, index_t width, index_t gap = 0, index_t offset = 0)
      : weight(tokens, k, k + offset), d_weight(tokens, k, k + gap), pre(tokens * k, matrices(K) * width, matrices(K) * width + gap, offset),
        d_h(tokens * k, width, width + gap, offset), h(tokens * k, width, width + 2 * gap, offset),
        d_pre(tokens * k, matrices(K) * width, matrices(K) * width + 3 * gap, offset), slot(some_slots(tokens * k, kept)) {
    weight.normal(1), pre.normal(2, 2), d_h.normal(3);
  }
  void weighted(test::space const& s) {
    moe::hidden_backward<K, T>(s, slot.vec(), weight.mat(), pre.mat(), d_h.mat(), h.mat(), d_pre.mat(), d_weight.mat());
    s.wait();
  }
  void plain(test::space const& s) {
    moe::hidden_backward<K, T>(s, pre.mat(), d_h.mat(), h.mat(), d_pre.mat());
    s.wait();
  }
  /// The activation, weigh_rows if asked, and the activation's backward, on the first `kept` rows.
  void in_passes(test::space const& s, bool with_weights, index_t kept) {
    index_t const f = h.columns();
    auto const p = moe::rows_of(pre.mat(), 0, kept), d = moe::rows_of(d_h.mat(), 0, kept), x = moe::rows_of(h.mat(), 0, kept),
               g = moe::rows_of(d_pre.mat(), 0, kept);
    if constexpr (K == activation_kind::swiglu) moe::swiglu<T>(s, moe::columns_of(p, 0, f), moe::columns_of(p, f, 2 * f), x);
    else if constexpr (K == activation_kind::gelu) moe::gelu<T>(s, p, x);
    else moe::relu<T>(s, p, x);
    if (with_weights) moe::weigh_rows<T>(s, slot.vec(), weight.mat(), x, d, d_weight.mat());
    if constexpr (K == activation_kind::swiglu)
      moe::swiglu_backward<T>(s, moe::columns_of(p, 0, f), moe::columns_of(p, f, 2 * f), d, moe::columns_of(g, 0, f), moe::columns_of(g, f, 2 * f));
    else if constexpr (K == activation_kind::gelu) moe::gelu_backward<T>(s, p, d, g);
    else moe::relu_backward<T>(s, p, d, g);
    s.wait();
  }
};

/// Bit by bit, but for the sign of a NaN, which nobody promises.
template <class T>
bool same_numbers(test::array<T> const& a, test::array<T> const& b) {
  std::vector<T> v = a.values(), w = b.values();
  for (auto* u : {&v, &w})
    for (T& x : *u) x = x != x ? test::quiet_nan<T>() : x;
  return test::same_bits(v, w);
}

template <class F>
void for_each_kind(F const& f) {
  f.template operator()<activation_kind::swiglu>();
  f.template operator()<activation_kind::gelu>();
  f.template operator()<activation_kind::relu>();
}
}  // namespace

TEST_CASE_TEMPLATE("hidden_backward: the bits of the operators it stands for, however it runs, for any shape, strided and unaligned", T, float,
                   double, bf16) {
  for_each_kind([]<activation_kind K>() {
    test::for_each_execution([](test::space const& s, int i) {
      for (index_t width : {1, 7, 16, 17, 40, 203}) {
        index_t const k = 2 + i % 2, tokens = width < 200 ? 3 : 5, kept = tokens * k - 2;
        operands<K, T> o(tokens, k, kept, width, i % 3 * 4, i % 2), expected(tokens, k, kept, width);
        o.weighted(s);
        expected.in_passes(test::on(), true, kept);
        CHECK(test::same_bits(o.d_weight.values(), expected.d_weight.values()));
        CHECK(same_numbers(o.h, expected.h));  // rows without a slot are NaN in both: not written
        CHECK(same_numbers(o.d_pre, expected.d_pre));
        CHECK(test::same_bits(o.d_h.values(), operands<K, T>(tokens, k, kept, width).d_h.values()));

        operands<K, T> p(tokens, k, 0, width, i % 3 * 4, i % 2), q(tokens, k, 0, width);
        p.plain(s);
        q.in_passes(test::on(), false, tokens * k);
        CHECK(test::same_bits(p.h.values(), q.h.values()));
        CHECK(test::same_bits(p.d_pre.values(), q.d_pre.values()));
      }
    });
  });
}

TEST_CASE_TEMPLATE("hidden_backward: NaN, infinities and large numbers as the operators have them", T, float, double, bf16) {
  for_each_kind([]<activation_kind K>() {
    operands<K, T> o(2, 2, 4, 21), expected(2, 2, 4, 21);
    float const inf = std::numeric_limits<float>::infinity();
    for (auto* a : {&o, &expected}) {
      for (int i = 0;
           float const special : {0.0f, -0.0f, 1e-40f, -1e-40f, 88.8f, -88.8f, 1e4f, -1e4f, 3e38f, -3e38f, inf, -inf, test::quiet_nan<float>()})
        a->pre(0, i++) = T(special);
      a->d_h(1, 3) = T(inf), a->d_h(2, 20) = test::quiet_nan<T>();
      a->weight(0, 0) = a->weight(1, 0) = 0, a->weight(1, 1) = test::quiet_nan<moe::accumulator<T>>();
    }
    SUBCASE("weighted") { o.weighted(test::on()), expected.in_passes(test::on(), true, 4); }
    SUBCASE("not weighted") { o.plain(test::on()), expected.in_passes(test::on(), false, 4); }
    CHECK(same_numbers(o.h, expected.h));
    CHECK(same_numbers(o.d_pre, expected.d_pre));
    CHECK(same_numbers(o.d_weight, expected.d_weight));
    CHECK(std::isnan(double(o.d_pre(2, 20))));
  });
}

TEST_CASE_TEMPLATE("hidden_backward: in place", T, float, bf16) {
  for_each_kind([]<activation_kind K>() {
    index_t const width = 37;
    operands<K, T> expected(3, 2, 6, width), a(3, 2, 6, width), b(3, 2, 6, width), plain(3, 2, 6, width), c(3, 2, 6, width);
    expected.weighted(test::on());
    // h in the place of d_h, d_pre in that of pre
    moe::hidden_backward<K, T>(test::on(), a.slot.vec(), a.weight.mat(), a.pre.mat(), a.d_h.mat(), a.d_h.mat(), a.pre.mat(), a.d_weight.mat());
    test::on().wait();
    CHECK(test::same_bits(a.d_h.values(), expected.h.values()));
    CHECK(test::same_bits(a.pre.values(), expected.d_pre.values()));
    CHECK(test::same_bits(a.d_weight.values(), expected.d_weight.values()));
    // d_h in the first columns of d_pre
    for (auto* o : {&b, &c})
      for (index_t r = 0; r < 6; ++r)
        for (index_t i = 0; i < width; ++i) o->d_pre(r, i) = o->d_h(r, i);
    auto const first = [](operands<K, T>& o) { return moe::columns_of(o.d_pre.mat(), 0, width); };
    moe::hidden_backward<K, T>(test::on(), b.slot.vec(), b.weight.mat(), b.pre.mat(), first(b), b.h.mat(), b.d_pre.mat(), b.d_weight.mat());
    test::on().wait();
    CHECK(test::same_bits(b.h.values(), expected.h.values()));
    CHECK(test::same_bits(b.d_pre.values(), expected.d_pre.values()));
    CHECK(test::same_bits(b.d_weight.values(), expected.d_weight.values()));
    plain.plain(test::on());
    moe::hidden_backward<K, T>(test::on(), c.pre.mat(), first(c), c.h.mat(), c.d_pre.mat());
    test::on().wait();
    CHECK(test::same_bits(c.h.values(), plain.h.values()));
    CHECK(test::same_bits(c.d_pre.values(), plain.d_pre.values()));
    operands<K, T> d(3, 2, 6, width);
    moe::hidden_backward<K, T>(test::on(), d.pre.mat(), d.d_h.mat(), d.d_h.mat(), d.pre.mat());
    test::on().wait();
    CHECK(test::same_bits(d.d_h.values(), plain.h.values()));
    CHECK(test::same_bits(d.pre.values(), plain.d_pre.values()));
  });
}

TEST_CASE("hidden_backward: gradients of weights and of the pre-activation") {
  for_each_kind([]<activation_kind K>() {
    // loss = sum over rows with a slot of weight[slot] <u, act(pre[r])>, u the gradient of h without its weight
    operands<K, double> o(4, 2, 6, 9), at(4, 2, 6, 9);
    o.weighted(test::on());
    auto const loss = [&] {
      at.in_passes(test::on(), false, 6);
      double sum = 0;
      for (index_t r = 0; r < 6; ++r)
        for (index_t c = 0; c < 9; ++c) sum += at.weight(at.slot(r) / 2, at.slot(r) % 2) * at.d_h(r, c) * at.h(r, c);
      return sum;
    };
    test::check_gradient("weight", loss, at.weight.data(), at.weight.size(), o.d_weight.values());
    auto const d_pre = o.d_pre.values();
    index_t const kept = 6 * matrices(K) * 9;
    test::check_gradient("pre", loss, at.pre.data(), kept, std::vector<double>(d_pre.begin(), d_pre.begin() + kept));
  });
}

TEST_CASE("hidden_backward: no rows, no tokens, no columns, no slots") {
  for_each_kind([]<activation_kind K>() {
    operands<K, float> o(3, 2, 6, 4), none(0, 2, 0, 4), thin(3, 2, 6, 0), dropped(3, 2, 0, 5);
    auto const no_rows = [](auto& a) { return moe::rows_of(a.mat(), 0, 0); };
    moe::hidden_backward<K, float>(test::on(), o.slot.vec(), o.weight.mat(), no_rows(o.pre), no_rows(o.d_h), no_rows(o.h), no_rows(o.d_pre),
                                   o.d_weight.mat());
    none.weighted(test::on()), none.plain(test::on());
    thin.weighted(test::on()), thin.plain(test::on());
    dropped.weighted(test::on());
    for (auto* a : {&o, &thin, &dropped})
      for (float x : a->d_weight.values()) CHECK(x == 0.0f);
    for (float x : dropped.h.values()) CHECK(std::isnan(x));
  });
}

TEST_CASE("hidden_backward: wrong arguments") {
  using test::contains;
  using test::error_of;
  using kind = activation_kind;
  test::space const s = test::on();
  operands<kind::swiglu, float> o(3, 2, 6, 4), other(3, 3, 6, 4);
  auto const plain = [&](auto pre, auto d_h, auto d_pre) {
    return error_of([&] { moe::hidden_backward<kind::swiglu, float>(s, pre, d_h, o.h.mat(), d_pre); });
  };
  CHECK(contains(plain(o.h.mat(), o.d_h.mat(), o.d_pre.mat()), "hidden_backward: pre is [6, 4], needs [6, 8]"));
  CHECK(contains(plain(o.pre.mat(), other.d_h.mat(), o.d_pre.mat()), "hidden_backward: d_h is [9, 4], needs [6, 4]"));
  CHECK(contains(plain(o.pre.mat(), o.d_h.mat(), other.d_pre.mat()), "hidden_backward: d_pre is [9, 8], needs [6, 8]"));
  CHECK(contains(error_of([&] { moe::hidden_backward<kind::relu, float>(s, o.pre.mat(), o.d_h.mat(), o.h.mat(), o.h.mat()); }),
                 "hidden_backward: pre is [6, 8], needs [6, 4]"));
  auto const weighted = [&](auto slot, auto d_weight) {
    return error_of(
        [&] { moe::hidden_backward<kind::swiglu, float>(s, slot, o.weight.mat(), o.pre.mat(), o.d_h.mat(), o.h.mat(), o.d_pre.mat(), d_weight); });
  };
  CHECK(contains(weighted(moe::vec(o.slot.data(), 5), o.d_weight.mat()), "hidden_backward: slot has 5 elements, h has 6 rows"));
  CHECK(contains(weighted(o.slot.vec(), other.d_weight.mat()), "hidden_backward: d_weight is [3, 3], needs [3, 2]"));
  if constexpr (test::on_cuda) return;  // no look at device memory
  for (int wrong : {-2, 6}) {
    o.slot(3) = wrong;
    CHECK(contains(weighted(o.slot.vec(), o.d_weight.mat()), "hidden_backward: slot[3] = " + std::to_string(wrong) + ", needs to be in [-1, 6)"));
  }
}
