// The products with weights in panels: gemm.hpp and grouped_gemm.hpp, CPU. Their bits are those of the products with plain weights.
#include <moe/gemm/grouped_gemm.hpp>

#include <algorithm>

#include <test/guarded.hpp>
#include <test/support.hpp>

using moe::bf16;
using moe::gemm_config;
using moe::grouped_gemm_config;
using moe::index_t;
using moe::matrix_unit;
using moe::packed_weights;
using moe::panel_layout;
using moe::weight_gradient_config;
using test::array;
using test::contains;
using test::error_of;
using test::same_bits;

namespace {

constexpr grouped_gemm_config forward{}, backward{.transpose_w = false}, forward_add{.accumulate = true},
    backward_add{.transpose_w = false, .accumulate = true};
constexpr weight_gradient_config overwrite{}, add{.accumulate = true};

using counts = std::vector<index_t>;  ///< rows of each expert
std::vector<counts> const ragged = {{5},          {0},          {0, 0, 0}, {1, 0, 12, 13, 0, 11}, {0, 97, 0}, {200, 0, 0}, {1, 1, 1, 1},
                                    {31, 32, 33}, {95, 96, 97}, {193, 1},  {23, 24, 25}};

array<index_t> offsets_of(counts const& g) {
  array<index_t> o(static_cast<index_t>(g.size()) + 1);
  o(0) = 0;
  for (index_t e = 0; e + 1 < o.rows(); ++e) o(e + 1) = o(e) + g[static_cast<std::size_t>(e)];
  return o;
}
index_t experts_of(counts const& g) { return static_cast<index_t>(g.size()); }
index_t rows_of(counts const& g) { return offsets_of(g)(experts_of(g)); }
array<int> some_gather(index_t rows, index_t sources, std::uint64_t seed) {
  array<int> g(rows);
  moe::random_stream const random{seed, moe::random_purpose::test, 9};
  for (index_t r = 0; r < rows; ++r) g(r) = static_cast<int>(random.below(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(sources)));
  return g;
}

/// Weights in panels between canaries.
template <class T>
struct panels {
  index_t count, out, in;
  array<T> memory;
  panels(index_t c, index_t o, index_t i) : count(c), out(o), in(i), memory(c * panel_layout<T>::size(o, i)) { memory.fill(T(0.0f)); }
  template <class S>
  panels(array<S> const& plain, index_t c, index_t o, index_t i, T padding = T(0.0f)) : panels(c, o, i) {
    memory.fill(padding);
    for (index_t e = 0; e < c; ++e)
      for (index_t j = 0; j < o; ++j)
        for (index_t l = 0; l < i; ++l) view()(e, j, l) = static_cast<T>(plain(e * o + j, l));
  }
  packed_weights<T> view() { return {memory.data(), count, out, in}; }
};
template <class T>
moe::tensor<T, moe::dyn, moe::dyn, moe::dyn> three(array<T>& w, index_t experts) {
  return moe::tensor<T, moe::dyn, moe::dyn, moe::dyn>(w.data(), experts, w.rows() / experts, w.columns());
}

/// Exactly `bytes` of aligned dirty memory, and canaries behind.
class exact_scratch {
 public:
  explicit exact_scratch(std::size_t bytes) : bytes_(bytes), memory_(bytes + 2 * moe::alignment + canaries, 0xff) {
    std::fill_n(data() + bytes_, canaries, canary);
  }
  ~exact_scratch() {
    CHECK_MESSAGE(std::all_of(data() + bytes_, data() + bytes_ + canaries, [](unsigned char c) { return c == canary; }),
                  "something wrote behind scratch");
  }
  moe::arena get(std::size_t less = 0) { return moe::arena(data(), bytes_ - less); }

 private:
  static constexpr std::size_t canaries = 4096;
  static constexpr unsigned char canary = 0xa5;
  unsigned char* data() {
    auto const at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (moe::alignment - at % moe::alignment) % moe::alignment;
  }
  std::size_t bytes_;
  std::vector<unsigned char> memory_;
};

struct shape {
  index_t out, in;
  bool gathered = false;
  index_t stride = 0;  ///< y is columns of a wider matrix, x too
  index_t offset = 0;  ///< elements before the first, so that addresses are odd
};

template <grouped_gemm_config C, class T>
struct problem {
  index_t experts, rows, out, in, n, k;
  array<index_t> offsets;
  array<int> gather;
  array<T> x, w, y;
  problem(counts const& g, shape s)
      : experts(experts_of(g)), rows(rows_of(g)), out(s.out), in(s.in), n(C.transpose_w ? out : in), k(C.transpose_w ? in : out),
        offsets(offsets_of(g)), gather(s.gathered && rows > 0 ? some_gather(rows, 40, 5) : array<int>(0)),
        x(gather.rows() > 0 ? 40 : rows, k, k + s.stride, s.offset), w(experts * out, in), y(rows, n, n + s.stride, s.offset) {
    x.normal(1), w.normal(2);
    if (C.accumulate) y.normal(3);
  }
  array<T> plain(moe::cpu const& space = test::on()) {
    array<T> result = y;
    exact_scratch memory(moe::grouped_gemm_scratch_bytes<T>(space, experts, n, k));
    auto scratch = memory.get();
    moe::grouped_gemm<C>(space, x.mat(), offsets.vec(), three(w, experts), result.mat(), scratch, gather.vec());
    return result;
  }
  array<T> packed(moe::cpu const& space = test::on()) {
    array<T> result = y;
    panels<T> p(w, experts, out, in);
    exact_scratch memory(moe::packed_gemm_scratch_bytes<T>(space, experts, rows, out, in));
    auto scratch = memory.get();
    moe::grouped_gemm<C>(space, x.mat(), offsets.vec(), p.view(), result.mat(), scratch, gather.vec());
    CHECK(scratch.used() == 0);
    return result;
  }
  /// f(e, r, j, sum, size) with the sum of all terms in double, and of their sizes.
  template <class F>
  void each_sum(F const& f) const {
    for (index_t e = 0; e < experts; ++e)
      for (index_t r = offsets(e); r < offsets(e + 1); ++r)
        for (index_t j = 0; j < n; ++j) {
          double sum = C.accumulate ? static_cast<double>(y(r, j)) : 0.0, size = std::abs(sum);
          for (index_t l = 0; l < k; ++l) {
            double const term = static_cast<double>(x(gather.rows() > 0 ? gather(r) : r, l)) *
                                static_cast<double>(C.transpose_w ? w(e * out + j, l) : w(e * out + l, j));
            sum += term, size += std::abs(term);
          }
          f(r, j, sum, size);
        }
  }
};
template <grouped_gemm_config C, class T>
void check(counts const& g, shape s, moe::cpu const& space = test::on()) {
  problem<C, T> p(g, s);
  REQUIRE_MESSAGE(same_bits(p.packed(space).values(), p.plain(space).values()),
                  "rows " << p.rows << " out " << s.out << " in " << s.in << " turned " << !C.transpose_w << " adds " << C.accumulate);
}
template <class T>
void check_directions(counts const& g, shape s) {
  check<forward, T>(g, s);
  check<backward, T>(g, s);
  check<forward_add, T>(g, s);
  check<backward_add, T>(g, s);
}

/// The gradient of weights of type TW from rows of type T.
template <weight_gradient_config C, class T, class TW>
struct gradient {
  index_t experts, rows, out, in;
  array<index_t> offsets;
  array<int> gather_d_y, gather_x;
  array<T> d_y, x;
  array<TW> d_w;
  gradient(counts const& g, shape s, bool by_y = false)
      : experts(experts_of(g)), rows(rows_of(g)), out(s.out), in(s.in), offsets(offsets_of(g)),
        gather_d_y(by_y && rows > 0 ? some_gather(rows, 30, 6) : array<int>(0)),
        gather_x(s.gathered && rows > 0 ? some_gather(rows, 40, 5) : array<int>(0)),
        d_y(gather_d_y.rows() > 0 ? 30 : rows, out, out + s.stride, s.offset), x(gather_x.rows() > 0 ? 40 : rows, in, in + s.stride, s.offset),
        d_w(experts * out, in) {
    d_y.normal(1), x.normal(2);
    if (C.accumulate) d_w.normal(3);
  }
  std::vector<TW> plain(moe::cpu const& space = test::on()) {
    array<TW> result = d_w;
    exact_scratch memory(moe::grouped_gemm_weight_gradient_scratch_bytes<TW>(space, experts, rows, in));
    auto scratch = memory.get();
    moe::grouped_gemm_weight_gradient<C>(space, d_y.mat(), x.mat(), offsets.vec(), three(result, experts), scratch, gather_d_y.vec(), gather_x.vec());
    return panels<TW>(result, experts, out, in, TW(5.0f)).memory.values();
  }
  /// The padding holds 5, and must keep it: nothing but elements is written.
  std::vector<TW> packed(moe::cpu const& space = test::on()) {
    panels<TW> result(d_w, experts, out, in, TW(5.0f));
    exact_scratch memory(moe::packed_gemm_scratch_bytes<T>(space, experts, rows, out, in));
    auto scratch = memory.get();
    moe::grouped_gemm_weight_gradient<C>(space, d_y.mat(), x.mat(), offsets.vec(), result.view(), scratch, gather_d_y.vec(), gather_x.vec());
    CHECK(scratch.used() == 0);
    return result.memory.values();
  }
};
template <class T, class TW>
void check_gradients(counts const& g, shape s, bool by_y = false) {
  gradient<overwrite, T, TW> p(g, s, by_y);
  REQUIRE_MESSAGE(same_bits(p.packed(), p.plain()), "rows " << p.rows << " out " << s.out << " in " << s.in);
  gradient<add, T, TW> q(g, s, by_y);
  REQUIRE_MESSAGE(same_bits(q.packed(), q.plain()), "adds: rows " << q.rows << " out " << s.out << " in " << s.in);
}

}  // namespace

TEST_CASE_TEMPLATE("grouped_gemm of packed weights: the bits of plain weights, ragged and gathered, beside the edges of panels and tiles", T, float,
                   double, bf16) {
  for (counts const& g : ragged)
    for (bool gathered : {false, true}) {
      check_directions<T>(g, {37, 19, gathered});
      check_directions<T>(g, {32, 34, gathered, 3, 1});
    }
  for (index_t out : {1, 2, 31, 32, 33, 64, 65})
    for (index_t in : {1, 2, 7, 31, 32, 33, 63}) check_directions<T>({3, 0, 26}, {out, in, false, 5, 2});
}

TEST_CASE_TEMPLATE("grouped_gemm of packed weights: sums of one pass over k and of several, staged for bf16", T, float, double, bf16) {
  for (index_t k : {511, 512, 513, 1023, 1024, 1025, 2049}) {
    check_directions<T>({1, 30}, {33, k, false, 1, 1});
    check_directions<T>({1, 30}, {k, 33, false, 1, 1});
  }
  check_directions<T>({13}, {3, 1300});
  check_directions<T>({98, 2}, {1030, 545});  // several tiles of rows and of columns
}

TEST_CASE_TEMPLATE("grouped_gemm of packed weights: nothing to sum, nothing to write", T, float, double, bf16) {
  check_directions<T>({3, 0, 2}, {5, 0});
  check_directions<T>({3, 0, 2}, {0, 5});
  problem<forward, T> zeros({3}, {5, 0});
  for (T v : zeros.packed().values()) CHECK(same_bits<T>({v}, {T(0.0f)}));
}

TEST_CASE_TEMPLATE("gradient of packed weights: the bits of plain ones, element by element, and padding is not written", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  for (counts const& g : ragged)
    for (bool gathered : {false, true}) {
      check_gradients<T, TW>(g, {37, 19, gathered, 1, 1}, !gathered);
      check_gradients<T, TW>(g, {32, 34, gathered}, gathered);
    }
  for (index_t out : {1, 31, 32, 33, 65, 97})
    for (index_t in : {1, 2, 31, 33, 97, 193}) check_gradients<T, TW>({3, 0, 27}, {out, in});
  for (index_t rows : {511, 512, 513, 1023, 1024, 1025, 1537}) check_gradients<T, TW>({rows, 0, 2}, {35, 13});
  check_gradients<T, TW>({70, 3}, {1030, 200});
}

TEST_CASE_TEMPLATE("gradient of packed weights: an expert without rows gets zeros, or is left as it is", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  gradient<overwrite, T, TW> zeros({4, 0, 3}, {33, 5});
  gradient<add, T, TW> kept({4, 0, 3}, {33, 5});
  for (index_t j = 0; j < 5; ++j) kept.d_w(33, j) = TW(-0.0f), kept.d_w(34, j) = test::quiet_nan<TW>();
  auto z = zeros.packed(), k = kept.packed();
  packed_weights<TW> const zw(z.data(), 3, 33, 5), kw(k.data(), 3, 33, 5);
  for (index_t o = 0; o < 33; ++o)
    for (index_t i = 0; i < 5; ++i) {
      REQUIRE(same_bits<TW>({zw(1, o, i)}, {TW(0.0f)}));
      REQUIRE(same_bits<TW>({kw(1, o, i)}, {kept.d_w(33 + o, i)}));
    }
}

TEST_CASE_TEMPLATE("products of packed weights: small integers are exact", T, float, double, bf16) {
  auto const run = []<grouped_gemm_config C>() {
    for (shape s : {shape{45, 67}, {67, 35, true, 3, 1}, {33, 1031}, {1031, 3}}) {
      problem<C, T> p({1, 0, 14, 29}, s);
      p.x.integers(1, 3), p.w.integers(2, 3);
      if (C.accumulate) p.y.integers(3);
      auto const y = p.packed();
      p.each_sum([&](index_t r, index_t j, double sum, double) {
        REQUIRE(static_cast<double>(y(r, j)) == static_cast<double>(T(static_cast<float>(sum))));
      });
    }
  };
  run.template operator()<forward>();
  run.template operator()<backward>();
  run.template operator()<forward_add>();
  run.template operator()<backward_add>();
  using TW = moe::accumulator<T>;
  gradient<add, T, TW> q({1, 0, 17, 1030}, {34, 37});
  q.d_y.integers(1), q.x.integers(2), q.d_w.integers(3);
  auto values = q.packed();
  packed_weights<TW> const d_w(values.data(), 4, 34, 37);
  for (index_t e = 0; e < 4; ++e)
    for (index_t o = 0; o < 34; ++o)
      for (index_t i = 0; i < 37; ++i) {
        double sum = static_cast<double>(q.d_w(e * 34 + o, i));
        for (index_t r = q.offsets(e); r < q.offsets(e + 1); ++r) sum += static_cast<double>(q.d_y(r, o)) * static_cast<double>(q.x(r, i));
        REQUIRE(static_cast<double>(d_w(e, o, i)) == sum);
      }
}

TEST_CASE_TEMPLATE("grouped_gemm of packed weights: near a product in double, bf16 rounded once", T, float, double, bf16) {
  auto const run = []<grouped_gemm_config C>() {
    for (shape s : {shape{45, 301}, {301, 35}, {7, 1500}, {1500, 7}}) {
      problem<C, T> p({3, 30}, s);
      auto const y = p.packed();
      double const unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24, last = std::is_same_v<T, bf16> ? 0x1p-8 : 0.0;
      double const n = static_cast<double>(p.k) + 1;
      p.each_sum([&](index_t r, index_t j, double sum, double size) {
        double const of_sum = n * unit * size;
        REQUIRE(std::abs(static_cast<double>(y(r, j)) - sum) <= of_sum + last * (std::abs(sum) + of_sum));
      });
    }
  };
  run.template operator()<forward>();
  run.template operator()<backward>();
  run.template operator()<backward_add>();
}

TEST_CASE_TEMPLATE("gradient of packed weights: near a product in double, within the rounding of its sums", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  auto const run = []<weight_gradient_config C>() {
    gradient<C, T, TW> q({3, 130, 0, 1100}, {45, 35});
    auto values = q.packed();
    packed_weights<TW> const d_w(values.data(), 4, 45, 35);
    double const unit = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;  // bf16 sums are float, and products of bf16 are exact
    for (index_t e = 0; e < 4; ++e)
      for (index_t o = 0; o < 45; ++o)
        for (index_t i = 0; i < 35; ++i) {
          double sum = C.accumulate ? static_cast<double>(q.d_w(e * 45 + o, i)) : 0, size = std::abs(sum);
          for (index_t r = q.offsets(e); r < q.offsets(e + 1); ++r) {
            double const term = static_cast<double>(q.d_y(r, o)) * static_cast<double>(q.x(r, i));
            sum += term, size += std::abs(term);
          }
          double const n = static_cast<double>(q.offsets(e + 1) - q.offsets(e)) + 1;
          REQUIRE(std::abs(static_cast<double>(d_w(e, o, i)) - sum) <= n * unit * size);
        }
  };
  run.template operator()<overwrite>();
  run.template operator()<add>();
}

TEST_CASE_TEMPLATE("products of packed weights: the same bits for every number of threads", T, float, double, bf16) {
  counts const g{150, 0, 1, 260, 13, 0, 25};
  problem<forward, T> f(g, {70, 131});
  problem<backward_add, T> b(g, {131, 70, true});
  gradient<overwrite, T, moe::accumulator<T>> q(g, {131, 70, true});
  auto const y = f.plain().values(), x = b.plain().values();
  auto const d_w = q.plain();
  test::for_each_execution([&](moe::cpu const& space, int) {
    CHECK(same_bits(f.packed(space).values(), y));
    CHECK(same_bits(b.packed(space).values(), x));
    CHECK(same_bits(q.packed(space), d_w));
  });
}

TEST_CASE_TEMPLATE("products of packed weights: a row's bits do not depend on how many others its expert has", T, float, double, bf16) {
  auto const run = []<grouped_gemm_config C>(index_t out, index_t in) {
    problem<C, T> all({1, 97}, {out, in});
    auto const together = all.packed();
    for (index_t others : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 95, 96}) {
      problem<C, T> p({0, others}, {out, in});
      p.w = all.w;
      for (index_t r = 0; r < others; ++r)
        for (index_t l = 0; l < p.k; ++l) p.x(r, l) = all.x(98 - others + r, l);  // the last rows
      auto const y = p.packed();
      for (index_t r = 0; r < others; ++r)
        REQUIRE(std::memcmp(&y(r, 0), &together(98 - others + r, 0), static_cast<std::size_t>(p.n) * sizeof(T)) == 0);
    }
  };
  run.template operator()<forward>(45, 67);
  run.template operator()<backward>(67, 45);
  run.template operator()<forward>(5, 1031);
  run.template operator()<backward>(1031, 5);
}

TEST_CASE_TEMPLATE("products of packed weights: a NaN reaches exactly the outputs it belongs to", T, float, double, bf16) {
  auto const run = []<grouped_gemm_config C>() {
    problem<C, T> p({14, 30}, {39, 41});
    auto const clean = p.packed();
    p.x(15, 38) = test::quiet_nan<T>();
    p.w(39 + 33, 40) = test::quiet_nan<T>();
    p.w(20, 7) = T(std::numeric_limits<float>::infinity());
    auto const dirty = p.packed();
    for (index_t r = 0; r < 44; ++r)
      for (index_t j = 0; j < p.n; ++j) {
        if (r == 15 || (r >= 14 && j == (C.transpose_w ? 33 : 40))) REQUIRE(std::isnan(static_cast<double>(dirty(r, j))));
        else if (r < 14 && j == (C.transpose_w ? 20 : 7)) REQUIRE(std::isinf(static_cast<double>(dirty(r, j))));
        else REQUIRE(same_bits<T>({dirty(r, j)}, {clean(r, j)}));
      }
  };
  run.template operator()<forward>();
  run.template operator()<backward>();
  gradient<overwrite, T, moe::accumulator<T>> q({14, 21}, {35, 37});
  auto const clean = q.packed();
  q.d_y(13, 33) = test::quiet_nan<T>(), q.x(34, 36) = test::quiet_nan<T>();
  auto dirty = q.packed();
  packed_weights<moe::accumulator<T>> const w(dirty.data(), 2, 35, 37);
  for (index_t o = 0; o < 35; ++o)
    for (index_t i = 0; i < 37; ++i) {
      REQUIRE(std::isnan(static_cast<double>(w(0, o, i))) == (o == 33));
      REQUIRE(std::isnan(static_cast<double>(w(1, o, i))) == (i == 36));
    }
}

TEST_CASE_TEMPLATE("products of packed weights: read and write nothing before the first and behind the last element", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  for (auto where : {test::guard::after, test::guard::before})
    for (index_t rows : {1, 13, 26})
      for (index_t out : {1, 32, 47})
        for (index_t in : {1, 16, 33}) {
          test::guarded<T> x(rows * in, where), y(rows * out, where), w(panel_layout<T>::size(out, in), where);
          test::guarded<TW> d_w(panel_layout<TW>::size(out, in), where);
          for (index_t i = 0; i < rows * in; ++i) x[i] = T(static_cast<float>(i % 5 - 2));
          for (index_t i = 0; i < rows * out; ++i) y[i] = T(static_cast<float>(i % 7 - 3));
          for (index_t i = 0; i < panel_layout<T>::size(out, in); ++i) w[i] = T(0.0f);
          auto const xs = moe::mat(x.data(), rows, in);
          auto const ys = moe::mat(y.data(), rows, out);
          packed_weights<T> const ws(w.data(), 1, out, in);
          moe::buffer const memory(moe::packed_gemm_scratch_bytes<T>(test::on(), 1, rows, out, in));
          moe::arena scratch(memory);
          moe::gemm<gemm_config{.transpose_a = true}>(test::on(), ys, xs, packed_weights<TW>(d_w.data(), 1, out, in), scratch);
          moe::gemm<gemm_config{.transpose_b = true}>(test::on(), xs, ws, ys, scratch);
          moe::gemm(test::on(), ys, ws, xs, scratch);
          REQUIRE(std::all_of(x.data(), x.data() + rows * in, [](T v) { return static_cast<double>(v) == 0.0; }));
        }
}

namespace {
/// gemm with one packed weight, TA rows and TC results: the same bits as with a plain one.
template <gemm_config C, class TA, class T, class TC>
void check_gemm(index_t rows, index_t out, index_t in, index_t stride = 1) {
  index_t const n = C.transpose_b ? out : in, k = C.transpose_b ? in : out;
  array<TA> a(rows, k, k + stride, 1);
  array<T> w(out, in);
  array<TC> c(rows, n, n + stride, 1);
  a.normal(1), w.normal(2);
  if (C.accumulate) c.normal(3);
  array<TC> plain = c;
  panels<T> p(w, 1, out, in);
  test::scratch static memory(std::size_t{4} << 20);
  auto scratch = memory.get();
  moe::gemm<C>(test::on(), a.mat(), w.mat(), plain.mat(), scratch);
  scratch = memory.get();
  moe::gemm<C>(test::on(), a.mat(), packed_weights<T const>(p.view()), c.mat(), scratch);
  REQUIRE_MESSAGE(same_bits(c.values(), plain.values()), "rows " << rows << " out " << out << " in " << in << " turned " << !C.transpose_b);
}
template <class TA, class T, class TC, matrix_unit U = matrix_unit::automatic>
void check_gemms() {
  for (index_t rows : {0, 1, 24, 25, 97})
    for (auto [out, in] : {std::pair<index_t, index_t>{33, 19}, {64, 31}, {1, 1030}, {1030, 1}}) {
      check_gemm<gemm_config{.transpose_b = true, .unit = U}, TA, T, TC>(rows, out, in);
      check_gemm<gemm_config{.unit = U}, TA, T, TC>(rows, out, in);
      check_gemm<gemm_config{.transpose_b = true, .accumulate = true, .unit = U}, TA, T, TC>(rows, out, in);
      check_gemm<gemm_config{.accumulate = true, .unit = U}, TA, T, TC>(rows, out, in);
    }
}
template <gemm_config C, class TA, class TB, class TC>
void check_gemm_gradient(index_t rows, index_t out, index_t in) {
  array<TA> a(rows, out, out + 1, 1);
  array<TB> b(rows, in, in + 1, 1);
  array<TC> g(out, in);
  a.normal(1), b.normal(2);
  if (C.accumulate) g.normal(3);
  panels<TC> packed(g, 1, out, in, TC(5.0f));
  test::scratch static memory(std::size_t{4} << 20);
  auto scratch = memory.get();
  moe::gemm<C>(test::on(), a.mat(), b.mat(), g.mat(), scratch);
  scratch = memory.get();
  moe::gemm<C>(test::on(), a.mat(), b.mat(), packed.view(), scratch);
  REQUIRE_MESSAGE(same_bits(packed.memory.values(), panels<TC>(g, 1, out, in, TC(5.0f)).memory.values()),
                  "rows " << rows << " out " << out << " in " << in);
}
}  // namespace

TEST_CASE("gemm with a packed weight: the bits of a plain one, every mixture of types that there is") {
  check_gemms<float, float, float>();
  check_gemms<double, double, double>();
  check_gemms<bf16, bf16, bf16>();
  check_gemms<bf16, bf16, float>();
  check_gemms<float, bf16, float>();
  check_gemms<float, bf16, bf16>();
  check_gemms<bf16, float, float>();
  check_gemms<float, float, bf16>();
  check_gemms<bf16, bf16, bf16, matrix_unit::fma>();
  check_gemms<bf16, bf16, float, matrix_unit::fma>();
}

TEST_CASE_TEMPLATE("gemm into a packed gradient: the bits of a plain one; padding is not written", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  for (index_t rows : {0, 1, 2, 25, 1027})
    for (index_t out : {1, 32, 45})
      for (index_t in : {1, 33, 97, 200}) {
        check_gemm_gradient<gemm_config{.transpose_a = true}, T, T, TW>(rows, out, in);
        check_gemm_gradient<gemm_config{.transpose_a = true, .accumulate = true}, T, T, TW>(rows, out, in);
      }
  check_gemm_gradient<gemm_config{.transpose_a = true}, T, float, TW>(30, 45, 33);
}

TEST_CASE_TEMPLATE("gemm with a part of a packed weight: the bits of that part", T, float, double, bf16) {
  array<T> x(29, 71), w(100, 71), y(29, 67), y_of_part(29, 67), part(67, 39), x_part(29, 39);
  x.normal(1), w.normal(2);
  for (index_t o = 0; o < 67; ++o)
    for (index_t i = 0; i < 39; ++i) part(o, i) = w(32 + o, 32 + i);
  panels<T> p(w, 1, 100, 71);
  auto const view = p.view().outputs(32, 99).inputs(32, 71);
  test::scratch memory(std::size_t{4} << 20);
  auto scratch = memory.get();
  moe::gemm<gemm_config{.transpose_b = true}>(test::on(), moe::columns_of(x.mat(), 32, 71), view, y.mat(), scratch);
  moe::gemm<gemm_config{.transpose_b = true}>(test::on(), moe::columns_of(x.mat(), 32, 71), part.mat(), y_of_part.mat(), scratch);
  CHECK(same_bits(y.values(), y_of_part.values()));
  array<T> turned(29, 39);
  moe::gemm(test::on(), y.mat(), view, turned.mat(), scratch);
  moe::gemm(test::on(), y.mat(), part.mat(), x_part.mat(), scratch);
  CHECK(same_bits(turned.values(), x_part.values()));
}

TEST_CASE_TEMPLATE("products of packed weights: exactly the stated scratch is enough, less is refused before any work", T, float, double, bf16) {
  using TW = moe::accumulator<T>;
  auto const refused = [](char const* name, auto const& run, auto const& result, std::size_t bytes) {
    auto const before = result.values();
    exact_scratch memory(bytes);
    auto enough = memory.get(), less = memory.get(moe::alignment), none = moe::arena(nullptr, 0), measuring = moe::arena();
    for (moe::arena* scratch : {&less, &none, &measuring}) {
      std::string const message = error_of([&] { run(*scratch); });
      CHECK(contains(message, scratch == &measuring ? "measuring" : std::string(name) + ": scratch has"));
      CHECK(scratch->used() == 0);
    }
    CHECK(same_bits(result.values(), before));
    CHECK_NOTHROW(run(enough));
    CHECK(!same_bits(result.values(), before));
  };
  for (index_t threads : {1, 3})
    for (index_t rows : {1, 23, 24, 25, 60}) {
      moe::cpu const space{.threads = static_cast<int>(threads)};
      index_t const out = 70, in = 37;
      array<T> x(rows, in), y(rows, out), w(out, in);
      array<index_t> offsets = offsets_of({rows});
      x.normal(1), y.normal(2), w.normal(3);
      panels<T> p(w, 1, out, in);
      panels<TW> d(1, out, in);
      std::size_t const all = moe::packed_gemm_scratch_bytes<T>(space, 1, rows, out, in);
      auto const bytes_of = [&](moe::detail::product_extents const& e, bool staged) {
        return staged ? moe::detail::product_scratch_bytes<TW, bf16>(space, e) : moe::detail::product_scratch_bytes<TW, TW>(space, e);
      };
      CHECK(all % moe::alignment == 0);
      bool const staged = std::is_same_v<T, bf16>;
      using step = moe::detail::step_of<matrix_unit::automatic, T, T, T>;
      refused(
          "grouped_gemm", [&](moe::arena& s) { moe::grouped_gemm<forward>(space, x.mat(), offsets.vec(), p.view(), y.mat(), s); }, y,
          bytes_of({1, out, moe::detail::copied_lanes<step, T>(1, rows, out, in)}, staged));
      refused(
          "grouped_gemm", [&](moe::arena& s) { moe::grouped_gemm<backward>(space, y.mat(), offsets.vec(), p.view(), x.mat(), s); }, x,
          moe::detail::turned_scratch_bytes<TW>(space, {1, in, out}));
      refused(
          "grouped_gemm_weight_gradient",
          [&](moe::arena& s) { moe::grouped_gemm_weight_gradient<overwrite>(space, y.mat(), x.mat(), offsets.vec(), d.view(), s); }, d.memory,
          bytes_of({1, out, moe::detail::panel_lanes(rows, out), moe::detail::gradient_rows}, false));
      exact_scratch memory(all);
      auto scratch = memory.get();
      moe::gemm<gemm_config{.transpose_b = true}>(space, x.mat(), p.view(), y.mat(), scratch);
      moe::gemm(space, y.mat(), p.view(), x.mat(), scratch);
      moe::gemm<gemm_config{.transpose_a = true}>(space, y.mat(), x.mat(), d.view(), scratch);
    }
}

// What is larger than the caches and overwritten is written past them.
TEST_CASE("gradients of weights that are larger than the caches: overwritten == added to zeros, with whole and cut panels") {
  constexpr index_t experts = 4, out = 1050, in = 517;  // 33 panels, the last cut; 8.9 MB
  static_assert(experts * panel_layout<float>::size(out, in) * 4 >= moe::detail::streaming_bytes);
  array<index_t> const offsets = offsets_of({3, 0, 700, 14});  // of several passes, of one, of none
  index_t const rows = offsets(experts);
  array<float> x(rows, in), y(rows, out);
  x.normal(1), y.normal(2);
  std::size_t const bytes = moe::packed_gemm_scratch_bytes<float>(test::on(), experts, rows, out, in);
  panels<float> added(experts, out, in);
  moe::buffer const aligned(moe::packed_weights_bytes<float>(experts, out, in));
  auto const values = reinterpret_cast<float*>(aligned.data());
  packed_weights<float> const over(values, experts, out, in);
  REQUIRE(moe::detail::worth_streaming(values, panel_layout<float>::columns, experts * over.matrix_size()));
  exact_scratch memory(bytes);
  auto scratch = memory.get();
  moe::grouped_gemm_weight_gradient<add>(test::on(), y.mat(), x.mat(), offsets.vec(), added.view(), scratch);
  for (int threads : {1, 2, 3}) {
    std::fill_n(values, experts * over.matrix_size(), NAN);
    exact_scratch own(moe::packed_gemm_scratch_bytes<float>(moe::cpu{threads}, experts, rows, out, in));
    auto s = own.get();
    moe::grouped_gemm_weight_gradient<overwrite>(moe::cpu{threads}, y.mat(), x.mat(), offsets.vec(), over, s);
    index_t different = 0;
    for (index_t e = 0; e < experts; ++e)
      for (index_t o = 0; o < out; ++o)
        for (index_t i = 0; i < in; ++i) different += over(e, o, i) != added.view()(e, o, i);
    CHECK(different == 0);
  }
  CHECK(added.view()(1, 5, 5) == 0.0f);
  double exact = 0;
  for (index_t r = 0; r < 3; ++r) exact += double(y(r, 1049)) * double(x(r, 516));
  CHECK(over(0, 1049, 516) == doctest::Approx(exact).epsilon(1e-5));
}

TEST_CASE("products of packed weights: wrong arguments are named before anything is written") {
  array<float> x(3, 4), w(10, 4), y(3, 5), narrow(3, 3);
  x.normal(1), w.normal(2), y.fill(2.0f);
  panels<float> two(w, 2, 5, 4);
  panels<float> d(2, 5, 4);
  array<index_t> offsets = offsets_of({1, 2}), wrong = offsets_of({1, 1, 1}), late = offsets_of({1, 3});
  test::scratch memory(std::size_t{4} << 20);
  auto scratch = memory.get();
  auto const by = [&](array<index_t>& o, array<float>& from, array<float>& to) {
    moe::grouped_gemm<forward>(test::on(), from.mat(), o.vec(), two.view(), to.mat(), scratch);
  };
  CHECK(error_of([&] { by(offsets, narrow, y); }) == "grouped_gemm: x has 3 columns, w sums over 4");
  CHECK(error_of([&] { by(offsets, x, narrow); }) == "grouped_gemm: y has 3 columns, w gives 5");
  CHECK(test::code_of([&] { by(wrong, x, y); }) == moe::errc::shape_mismatch);
  CHECK(test::code_of([&] { by(late, x, y); }) == moe::errc::bad_argument);
  auto const gradient_by = [&](array<index_t>& o, array<float>& from) {
    moe::grouped_gemm_weight_gradient(test::on(), y.mat(), from.mat(), o.vec(), d.view(), scratch);
  };
  CHECK(test::code_of([&] { gradient_by(offsets, narrow); }) == moe::errc::shape_mismatch);
  CHECK(test::code_of([&] { gradient_by(late, x); }) == moe::errc::bad_argument);
  constexpr gemm_config transposed{.transpose_b = true}, of_weight{.transpose_a = true};
  CHECK(error_of([&] { moe::gemm<transposed>(test::on(), x.mat(), two.view(), y.mat(), scratch); }) ==
        "gemm: 2 packed weights, needs one (grouped_gemm multiplies several)");
  CHECK(test::code_of([&] { moe::gemm<of_weight>(test::on(), y.mat(), x.mat(), d.view(), scratch); }) == moe::errc::bad_argument);
  panels<float> one(w, 1, 5, 4);
  CHECK(test::code_of([&] { moe::gemm<transposed>(test::on(), narrow.mat(), one.view(), y.mat(), scratch); }) == moe::errc::shape_mismatch);
  CHECK(test::code_of([&] { moe::gemm<of_weight>(test::on(), y.mat(), narrow.mat(), one.view(), scratch); }) == moe::errc::shape_mismatch);
  for (float v : y.values()) CHECK(v == 2.0f);
  for (float v : d.memory.values()) CHECK(v == 0.0f);
}
