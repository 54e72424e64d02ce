#include <numeric>

#include <moe/nn/hidden_forward.hpp>

#include "test/support.hpp"

// Weights in panels are of the CPU's products, so these run on the CPU alone.
namespace {
using moe::activation_kind;
using moe::bf16;
using moe::index_t;

constexpr index_t matrices(activation_kind k) { return k == activation_kind::swiglu ? 2 : 1; }

/// Experts with `counts` rows, and `behind` rows that no expert has.
template <activation_kind K, class T>
struct operands {
  index_t rows, width, inputs;
  std::vector<index_t> offsets{0};
  test::array<T> x, pre, h, weights;
  test::array<int> gather;
  moe::packed_weights<T> w;
  operands(std::vector<index_t> const& counts, index_t behind, index_t f, index_t in, index_t gap = 0)
      : rows(std::accumulate(counts.begin(), counts.end(), behind)), width(f), inputs(in), x(rows + 3, in, in + gap),
        pre(rows, matrices(K) * f, matrices(K) * f + gap), h(rows, f, f + 2 * gap),
        weights(1, static_cast<index_t>(counts.size()) * moe::panel_layout<T>::size(matrices(K) * f, in)), gather(rows),
        w(weights.data(), static_cast<index_t>(counts.size()), matrices(K) * f, in) {
    for (index_t const n : counts) offsets.push_back(offsets.back() + n);
    for (index_t r = 0; r < rows; ++r) gather(r) = static_cast<int>(5 * r % (rows + 3));
    x.normal(1), weights.fill(T(0.0f));
    test::array<T> plain(w.count() * w.out(), in);
    plain.normal(2, 0.3);
    moe::pack_weights<T>(moe::cpu{.threads = 1}, moe::tensor<T, moe::dyn, moe::dyn, moe::dyn>(plain.data(), w.count(), w.out(), in), w);
  }
  moe::vector_view<index_t const> ends() const { return moe::vec(offsets.data(), static_cast<index_t>(offsets.size())); }
  moe::vector_view<int const> index(bool gathered) const { return gathered ? gather.vec() : moe::vector_view<int const>(); }
  moe::matrix_view<T const> lines(bool gathered) { return gathered ? x.mat() : moe::rows_of(x.mat(), 0, rows); }
  std::size_t bytes(moe::cpu const& s) const { return moe::packed_gemm_scratch_bytes<T>(s, w.count(), rows, w.out(), inputs); }
  void fused(moe::cpu const& s, bool gathered) {
    test::scratch memory(bytes(s));
    moe::arena scratch = memory.get();
    moe::hidden_forward<K, T>(s, lines(gathered), ends(), w, pre.mat(), h.mat(), scratch, index(gathered));
  }
  /// The product, then the activation of the rows that experts have.
  void in_passes(bool gathered) {
    moe::cpu const s{.threads = 1};
    test::scratch memory(bytes(s));
    moe::arena scratch = memory.get();
    moe::grouped_gemm<moe::grouped_gemm_config{}, T>(s, lines(gathered), ends(), w, pre.mat(), scratch, index(gathered));
    auto const p = moe::rows_of(pre.mat(), 0, offsets.back()), to = moe::rows_of(h.mat(), 0, offsets.back());
    if constexpr (K == activation_kind::swiglu) moe::swiglu<T>(s, moe::columns_of(p, 0, width), moe::columns_of(p, width, 2 * width), to);
    else if constexpr (K == activation_kind::gelu) moe::gelu<T>(s, p, to);
    else moe::relu<T>(s, p, to);
  }
};

template <activation_kind K, class T>
void check(std::vector<index_t> const& counts, index_t width, index_t inputs) {
  for (bool const gathered : {false, true}) {
    operands<K, T> expected(counts, 3, width, inputs);
    expected.in_passes(gathered);
    test::for_each_execution([&](moe::cpu const& s, int i) {
      operands<K, T> o(counts, 3, width, inputs, i);
      o.fused(s, gathered);
      INFO("width " << width << ", " << inputs << " inputs, " << s.threads << " threads");
      CHECK(test::same_bits(o.pre.values(), expected.pre.values()));  // rows behind the last offset keep their NaN
      CHECK(test::same_bits(o.h.values(), expected.h.values()));
    });
  }
}
template <class T, class... Arguments>
void check_kinds(Arguments const&... a) {
  check<activation_kind::swiglu, T>(a...), check<activation_kind::gelu, T>(a...), check<activation_kind::relu, T>(a...);
}
}  // namespace

TEST_CASE_TEMPLATE("hidden_forward: the bits of the product and of the activation, for any threads, widths, counts and strides", T, float, double,
                   bf16) {
  std::vector<index_t> const counts{1, 0, 13, 2, 40};
  for (index_t width : {1, 20, 32, 48, 64, 96}) check_kinds<T>(counts, width, 17);
}

TEST_CASE_TEMPLATE("hidden_forward: several tiles of rows and of columns, and several passes along the inputs", T, float, bf16) {
  check_kinds<T>(std::vector<index_t>{230, 0, 5}, 32 * 9, 24);
  check<activation_kind::swiglu, T>({30, 1}, 32 * 20, 9);
  check<activation_kind::swiglu, T>({7, 20}, 64, 1100);  // bf16: sums of several passes are staged
  check<activation_kind::swiglu, T>({30, 2}, 32 * 9, 1026);  // and more columns than the stage has
  check<activation_kind::gelu, T>({7, 20}, 40, 1100);
}

TEST_CASE_TEMPLATE("hidden_forward: one weight", T, float, bf16) {
  operands<activation_kind::swiglu, T> expected({50}, 0, 64, 33), o({50}, 0, 64, 33, 1);
  expected.in_passes(false);
  test::for_each_execution([&](moe::cpu const& s, int) {
    o.h.poison(), o.pre.poison();
    test::scratch memory(moe::packed_gemm_scratch_bytes<T>(s, 1, 50, 128, 33));
    moe::arena scratch = memory.get();
    moe::hidden_forward<activation_kind::swiglu, T>(s, o.lines(false), o.w, o.pre.mat(), o.h.mat(), scratch);
    CHECK(test::same_bits(o.pre.values(), expected.pre.values()));
    CHECK(test::same_bits(o.h.values(), expected.h.values()));
  });
}

TEST_CASE("hidden_forward: no rows, no width; a NaN stays in its row") {
  operands<activation_kind::swiglu, float> none({0, 0}, 0, 32, 4), idle({0, 0}, 3, 32, 4), thin({2}, 0, 0, 4), o({3}, 0, 32, 4);
  none.fused({}, false), idle.fused({}, false), thin.fused({}, false);
  for (float x : idle.h.values()) CHECK(std::isnan(x));
  o.x(1, 2) = test::quiet_nan<float>();
  o.fused({}, false);
  for (index_t r = 0; r < 3; ++r)
    for (index_t c = 0; c < 32; ++c) CHECK(std::isnan(o.h(r, c)) == (r == 1));
}

TEST_CASE("hidden_forward: wrong arguments") {
  using test::contains;
  using test::error_of;
  operands<activation_kind::swiglu, float> o({2, 3}, 0, 32, 4), other({2, 2}, 0, 32, 4);
  test::scratch memory(o.bytes({}));
  moe::arena scratch = memory.get();
  auto const call = [&](auto x, auto h) {
    return error_of([&] { moe::hidden_forward<activation_kind::swiglu, float>({}, x, o.ends(), o.w, o.pre.mat(), h, scratch); });
  };
  CHECK(contains(call(o.lines(false), other.h.mat()), "hidden_forward: h is [4, 32], needs [5, 32]"));
  CHECK(contains(call(other.lines(false), o.h.mat()), "rows"));
  o.offsets[1] = 9;
  CHECK(contains(call(o.lines(false), o.h.mat()), "hidden_forward: offsets[2] = 5 is below offsets[1] = 9"));
  test::array<float> three(1, 3 * 4), pre(5, 3), h(5, 1);
  CHECK(contains(error_of([&] {
                   moe::hidden_forward<activation_kind::swiglu, float>({}, o.lines(false), moe::packed_weights<float>(o.weights.data(), 1, 3, 4),
                                                                       pre.mat(), h.mat(), scratch);
                 }),
                 "hidden_forward: w has 3 outputs, needs an even number"));
}
