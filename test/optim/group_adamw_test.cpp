#include <moe/optim/group_adamw.hpp>

#include <test/support.hpp>

using namespace test;
using moe::group_schedule;
using moe::parameter_group;
using moe::parameter_span;

namespace {
/// All that parameter_spans asks for.
struct piece {
  parameter_group group;
  index_t offset, size, rows;
};
// Not norm: CUDA has a function of that name.
constexpr auto a_norm = parameter_group::norm, expert = parameter_group::expert, router = parameter_group::router, ffn = parameter_group::ffn;

std::vector<piece> const model{{a_norm, 0, 16, 1},    {expert, 16, 48, 3},  {expert, 64, 16, 4},
                               {router, 80, 32, 2}, {expert, 112, 16, 1}, {ffn, 144, 16, 2}};

template <class T>
struct state {
  array<T> w{160}, m{160}, v{160}, g{160};
  state() { w.normal(1), m.normal(2, 0.01), v.fill(T(0.02)), g.normal(3); }
  std::vector<T> all() const {
    std::vector<T> values;
    for (auto const* x : {&w, &m, &v})
      for (index_t i = 0; i < 160; ++i) values.push_back((*x)(i));
    return values;
  }
  template <class Scale>
  void step(space const& s, std::vector<parameter_span> const& spans, group_schedule const& rates, Scale const& scale, index_t t,
            moe::adamw_config c = {}) {
    moe::adamw_by_group(s, spans, rates, w.vec(), m.vec(), v.vec(), g.vec(), scale, t, c);
  }
};

group_schedule const rates = group_schedule(moe::warmup_cosine(0.1, 2, 10, 0.01), 0.3).scaled(router, 0.25).with_weight_decay(a_norm, 0);
}  // namespace

TEST_CASE("parameter_spans: neighbours of one group and kind are joined, gaps and vectors are not") {
  CHECK(moe::parameter_spans(model) ==
        std::vector<parameter_span>{
            {a_norm, 0, 16, false}, {expert, 16, 80, true}, {router, 80, 112, true}, {expert, 112, 128, false}, {ffn, 144, 160, true}});
  CHECK(moe::parameter_spans(std::vector<piece>{}).empty());
  CHECK(moe::parameter_spans(std::vector<piece>{{ffn, 0, 8, 2}, {ffn, 9, 8, 2}}).size() == 2);
}

TEST_CASE("parameter_spans: lists that are no buffer are refused") {
  auto const message = [](std::vector<piece> const& list) { return error_of([&] { moe::parameter_spans(list); }); };
  CHECK(
      message({{ffn, 0, 16, 2}, {a_norm, 15, 8, 1}}) ==
      "parameter_spans: a parameter of group norm is elements [15, 23) of the buffer, needs to begin at 16 or later and not to end before it begins");
  CHECK(contains(message({{ffn, -1, 16, 2}}), "elements [-1, 15)"));
  CHECK(contains(message({{ffn, 8, -4, 2}}), "elements [8, 4)"));
  CHECK(contains(message({{static_cast<parameter_group>(10), 0, 4, 2}}), "10 is no group"));
}

TEST_CASE_TEMPLATE("adamw_by_group: the bits of one adamw per parameter; what no span covers stays", T, float, double) {
  auto const spans = moe::parameter_spans(model);
  state<T> expected;
  for (index_t t = 1; t <= 3; ++t)
    for (auto const& p : model) {
      double const decay = p.rows == 1 || p.group == a_norm ? 0 : 0.3, base = moe::warmup_cosine(0.1, 2, 10, 0.01).at(t);
      auto const part = [&](array<T>& x) { return moe::vec(x.data() + p.offset, p.size); };
      moe::adamw(on(), part(expected.w), part(expected.m), part(expected.v), part(expected.g), p.group == router ? 0.25 * base : base, decay,
                 0.7, t, {.beta1 = 0.8});
    }
  for_each_execution([&](space const& where, int) {
    state<T> s;
    for (index_t t = 1; t <= 3; ++t) s.step(where, spans, rates, 0.7, t, {.beta1 = 0.8});
    CHECK(same_bits(s.all(), expected.all()));
    CHECK((s.w(130) == state<T>().w(130) && s.m(130) == state<T>().m(130)));  // between the spans
  });
}

TEST_CASE_TEMPLATE("adamw_by_group: a factor in the memory of the space gives the bits of the same number", T, float, double) {
  auto const spans = moe::parameter_spans(model);
  array<double> factor(1);
  for (double const scale : {0.0, 0.37, 1.0}) {
    state<T> known, kept;
    factor(0) = scale;
    for (index_t t = 1; t <= 2; ++t) {
      known.step(on(), spans, rates, scale, t);
      kept.step(on(), spans, rates, moe::view<1>(factor.data(), 1), t);
    }
    CHECK(same_bits(kept.all(), known.all()));
  }
}

TEST_CASE("adamw_by_group: a factor in the memory of the space that is no number changes nothing; where the host can see it, it is an error") {
  array<double> factor(1);
  for (double const scale : {-1.0, quiet_nan<double>(), std::numeric_limits<double>::infinity()}) {
    state<float> s;
    factor(0) = scale;
    std::string const text = error_of([&] { s.step(on(), moe::parameter_spans(model), rates, moe::view<1>(factor.data(), 1), 1); });
    CHECK(contains(text, "grad_scale") == !on_cuda);
    CHECK(same_bits(s.all(), state<float>().all()));
  }
}

TEST_CASE("adamw_by_group: any way to cut the buffer gives the same bits") {
  state<float> whole, cut;
  whole.step(on(), {{ffn, 0, 160, true}}, rates, 1, 1);
  cut.step(on(), {{ffn, 0, 7, true}, {ffn, 7, 7, true}, {expert, 7, 90, true}, {ffn, 90, 160, true}}, rates, 1, 1);
  CHECK(same_bits(whole.all(), cut.all()));
}

TEST_CASE("adamw_by_group: what lies between two spans of equal rates stays") {
  state<double> s;
  state<double> const before;
  s.step(on(), {{ffn, 0, 50, true}, {ffn, 51, 160, true}}, rates, 1, 1);
  for (index_t i = 0; i < 160; ++i) CHECK((s.w(i) == before.w(i) && s.m(i) == before.m(i) && s.v(i) == before.v(i)) == (i == 50));
}

TEST_CASE("adamw_by_group: a frozen group keeps its weights; no spans change nothing") {
  state<double> s;
  s.step(on(), {{router, 0, 80, true}, {ffn, 80, 160, true}}, group_schedule(moe::warmup_cosine(0.1, 0, 10, 0), 0.1).scaled(router, 0), 1, 1);
  state<double> const before;
  for (index_t i = 0; i < 160; ++i) CHECK((s.w(i) == before.w(i)) == (i < 80));
  state<double> none;
  none.step(on(), {}, rates, 1, 1);
  CHECK(same_bits(none.all(), before.all()));
}

TEST_CASE("adamw_by_group: zeroes and rounds what spans cover, each span in its layout from its begin on") {
  auto const pairs = moe::bf16_layout::row_pairs;
  // 16: no multiple of 64 before the pairs; two spans of equal rates, unlike in layout; a gap
  std::vector<parameter_span> const spans{{ffn, 0, 16, true}, {ffn, 16, 80, true, pairs}, {ffn, 80, 144, true, pairs}, {expert, 150, 160, true}};
  for_each_execution([&](space const& where, int) {
    state<float> expected, s;
    expected.step(where, spans, rates, 0.7, 1);
    array<moe::bf16> rounded(160);
    moe::adamw_by_group(where, spans, rates, s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 0.7, 1, {},
                        {.zeroed = s.g.vec(), .rounded = rounded.vec()});
    CHECK(same_bits(s.all(), expected.all()));
    std::uint16_t const untouched = array<moe::bf16>(1)(0).bits;
    for (index_t i = 0; i < 160; ++i) {
      bool const gap = i >= 144 && i < 150;
      CHECK((s.g(i) == 0) == !gap);
      index_t const b = i - 16;
      index_t const at = i < 16 || i >= 144 ? i : 16 + b / 64 * 64 + b % 32 * 2 + b / 32 % 2;
      CHECK(rounded(at).bits == (gap ? untouched : moe::bf16(s.w(i)).bits));
    }
  });
}

TEST_CASE("parameter_spans: a parameter that says how it is rounded is joined only with its like") {
  struct packed_piece : piece {
    moe::bf16_layout rounded_layout;
  };
  auto const plain = moe::bf16_layout::plain, pairs = moe::bf16_layout::row_pairs;
  CHECK(moe::parameter_spans(std::vector<packed_piece>{{{ffn, 0, 64, 2}, pairs}, {{ffn, 64, 64, 2}, pairs}, {{ffn, 128, 64, 2}, plain}}) ==
        std::vector<parameter_span>{{ffn, 0, 128, true, pairs}, {ffn, 128, 192, true, plain}});
}

TEST_CASE("adamw_by_group: wrong use is refused before anything is changed") {
  state<float> s;
  double const nan = quiet_nan<double>();
  std::vector<parameter_span> const good{{a_norm, 0, 16, false}, {ffn, 16, 160, true}};
  auto const message = [&](std::vector<parameter_span> const& spans, double scale = 1, index_t t = 1, moe::adamw_config c = {}) {
    return error_of([&] { s.step(on(), spans, rates, scale, t, c); });
  };
  CHECK(message({{a_norm, 0, 16, false}, {ffn, 16, 161, true}}) == "adamw_by_group: a span is elements [16, 161) of 160");
  CHECK(contains(message({{a_norm, 0, 16, false}, {ffn, 15, 160, true}}), "a span is elements [15, 160), needs to begin at 16 or later"));
  CHECK(contains(message({{a_norm, 0, 16, false}, {ffn, 20, 18, true}}), "elements [20, 18)"));
  CHECK(contains(message({{a_norm, 0, 16, false}, {static_cast<parameter_group>(10), 16, 18, true}}), "10 is no group"));
  CHECK(contains(message(good, nan), "grad_scale"));
  CHECK(contains(message(good, 1, 0), "step is 0"));
  CHECK(contains(message(good, 1, 1, {.beta2 = 1}), "beta2 is 1"));
  auto const rises = [](double last) {
    struct later {
      double last;
      double at(index_t t) const { return t < 5 ? 0.1 : last; }
    };
    return group_schedule(later{0.1}).with_schedule(ffn, later{last}).with_weight_decay(ffn, 1);
  };
  CHECK(contains(error_of([&] { s.step(on(), good, rises(2), 1, 5); }), "lr * weight_decay is 2"));
  CHECK(contains(error_of([&] { s.step(on(), good, rises(nan), 1, 5); }), "the learning rate of ffn at step 5"));
  array<moe::bf16> rounded(160);
  auto const outputs = [&](std::vector<parameter_span> const& spans, moe::adamw_outputs<float> const& also) {
    return error_of([&] { moe::adamw_by_group(on(), spans, rates, s.w.vec(), s.m.vec(), s.v.vec(), s.g.vec(), 1, 1, {}, also); });
  };
  CHECK(outputs({{ffn, 0, 16, true}, {ffn, 16, 96, true, moe::bf16_layout::row_pairs}}, {.rounded = rounded.vec()}) ==
        "adamw_by_group: a span is elements [16, 96), needs to be a multiple of 64 of them for pairs of rows of 32");
  CHECK(outputs(good, {.zeroed = s.w.vec()}) == "adamw_by_group: zeroed is not g, the very same view");
  CHECK(outputs(good, {.rounded = moe::vec(rounded.data(), 100)}) == "adamw_by_group: rounded has 100 elements, needs 160");
  array<float> few(159);
  few.fill(0);
  CHECK(error_of([&] { moe::adamw_by_group(on(), good, rates, s.w.vec(), few.vec(), s.v.vec(), s.g.vec(), 1, 1); }) ==
        "adamw_by_group: w, m, v and g have 160, 159, 160 and 160 elements, need to have as many");
  CHECK(same_bits(s.all(), state<float>().all()));
}
