#include <moe/attention/attention.hpp>

#include <test/support.hpp>

using test::array;
using test::bf16;
using test::index_t;

namespace {

using shape = moe::attention_shape;

/// Operands of one call. q, k and v are columns of one matrix with odd row stride, starting at an odd address; or, if `aligned`, at multiples of 16
/// bytes where the widths are.
template <shape C, class T>
struct problem {
  using A = moe::accumulator<T>;
  static constexpr shape config = C;
  static constexpr index_t columns = C.heads * C.d_head, kv_columns = C.kv_heads * C.d_head, all = columns + 2 * kv_columns;
  index_t tokens, seq;
  array<T> qkv, o, d_o, d_qkv;
  array<A> lse;
  problem(index_t sequences, index_t length, std::uint64_t seed, double scale = 1.0, bool aligned = false)
      : tokens(sequences * length), seq(length), qkv(tokens, all, aligned ? all : all + 3, !aligned), o(tokens, columns, columns + 1, 1),
        d_o(tokens, columns, aligned ? columns : columns + 5, !aligned), d_qkv(tokens, all, all + 1, 1), lse(tokens, C.heads, C.heads + 1, 1) {
    qkv.normal(seed, scale), d_o.normal(seed + 1);
  }
  static moe::matrix_view<T> part(array<T>& m, index_t first, index_t count) {
    return moe::mat(m.data() + first, m.rows(), count).with_row_stride(m.mat().row_stride());
  }
  auto q() { return part(qkv, 0, columns); }
  auto k() { return part(qkv, columns, kv_columns); }
  auto v() { return part(qkv, columns + kv_columns, kv_columns); }
  auto d_q() { return part(d_qkv, 0, columns); }
  auto d_k() { return part(d_qkv, columns, kv_columns); }
  auto d_v() { return part(d_qkv, columns + kv_columns, kv_columns); }

  template <class S>
  test::memory<std::byte> scratch(S const& space) const {  // dirty, and not a byte more than asked for
    return test::memory<std::byte>(moe::attention_scratch_bytes<C, T>(space, tokens, seq), std::byte{0xff});
  }
  void forward() { forward(test::on()); }
  void backward() { backward(test::on()); }
  template <class S>
  void forward(S const& space) {
    auto memory = scratch(space);
    moe::arena arena(memory.data(), memory.size());
    moe::attention<C>(space, q(), k(), v(), seq, o.mat(), lse.mat(), arena);
    CHECK(arena.used() == 0);
  }
  template <class S>
  void backward(S const& space) {
    auto memory = scratch(space);
    moe::arena arena(memory.data(), memory.size());
    moe::attention_backward<C>(space, q(), k(), v(), o.mat(), lse.mat(), d_o.mat(), seq, d_q(), d_k(), d_v(), arena);
    CHECK(arena.used() == 0);
  }
};

template <shape C, class T>
bool same_bits(problem<C, T> const& a, problem<C, T> const& b) {
  return test::same_bits(a.o.values(), b.o.values()) && test::same_bits(a.lse.values(), b.lse.values()) &&
         test::same_bits(a.d_qkv.values(), b.d_qkv.values());
}

/// The definition in double; the backward uses the o that the call under test has stored, as the call does.
template <shape C, class T>
struct reference {
  std::vector<double> o, lse, d_qkv;
  explicit reference(problem<C, T>& p) {
    index_t const D = C.d_head, all = p.all;
    auto const u = [](index_t i) { return static_cast<std::size_t>(i); };
    double const scale = 1 / std::sqrt(static_cast<double>(D));
    o.assign(u(p.tokens * p.columns), 0), lse.assign(u(p.tokens * C.heads), 0), d_qkv.assign(u(p.tokens * all), 0);
    for (index_t t = 0; t < p.tokens; ++t)
      for (index_t h = 0; h < C.heads; ++h) {
        index_t const first = t / p.seq * p.seq, qc = h * D, kc = p.columns + h / (C.heads / C.kv_heads) * D, vc = kc + p.kv_columns;
        std::vector<double> s;
        double top = -1e300, sum = 0, delta = 0;
        for (index_t x = first; x <= t; ++x) {
          double dot = 0;
          for (index_t i = 0; i < D; ++i) dot += static_cast<double>(p.qkv(t, qc + i)) * static_cast<double>(p.qkv(x, kc + i));
          s.push_back(dot * scale);
          top = std::max(top, s.back());
        }
        for (double& x : s) sum += x = std::exp(x - top);
        lse[u(t * C.heads + h)] = top + std::log(sum);
        for (index_t x = first; x <= t; ++x)
          for (index_t i = 0; i < D; ++i) o[u(t * p.columns + qc + i)] += s[u(x - first)] / sum * static_cast<double>(p.qkv(x, vc + i));
        for (index_t i = 0; i < D; ++i) delta += static_cast<double>(p.d_o(t, qc + i)) * static_cast<double>(p.o(t, qc + i));
        for (index_t x = first; x <= t; ++x) {
          double const weight = s[u(x - first)] / sum;
          double d_p = 0;
          for (index_t i = 0; i < D; ++i) d_p += static_cast<double>(p.d_o(t, qc + i)) * static_cast<double>(p.qkv(x, vc + i));
          double const d_s = weight * (d_p - delta) * scale;
          for (index_t i = 0; i < D; ++i) {
            d_qkv[u(t * all + qc + i)] += d_s * static_cast<double>(p.qkv(x, kc + i));
            d_qkv[u(x * all + kc + i)] += d_s * static_cast<double>(p.qkv(t, qc + i));
            d_qkv[u(x * all + vc + i)] += weight * static_cast<double>(p.d_o(t, qc + i));
          }
        }
      }
  }
};

template <class T>
double distance(std::vector<T> const& a, std::vector<double> const& b) {
  if (a.size() != b.size()) return 1e300;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double const d = std::abs(static_cast<double>(a[i]) - b[i]) / (1 + std::abs(b[i]));
    if (!(d <= worst)) worst = d;  // NaN stays
  }
  return worst;
}

template <shape C, class T>
void agrees(index_t sequences, index_t seq) {
  double const tolerance = std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 2e-5 : 2e-2;
  INFO("heads ", C.heads, ", kv_heads ", C.kv_heads, ", d_head ", C.d_head, ", sequences ", sequences, ", seq ", seq);
  problem<C, T> p(sequences, seq, static_cast<std::uint64_t>(seq));
  p.forward();
  p.backward();
  reference<C, T> const want(p);
  CHECK(distance(p.o.values(), want.o) <= tolerance);
  CHECK(distance(p.lse.values(), want.lse) <= tolerance);
  CHECK(distance(p.d_qkv.values(), want.d_qkv) <= tolerance);
}

#if defined(MOE_TEST_CUDA)
test::space space_of(index_t) { return test::on(); }
#else
test::space space_of(index_t position) { return {.threads = 1 + static_cast<int>(position % 3)}; }
#endif

template <shape C, class T>
struct cache_run {
  problem<C, T> p;
  explicit cache_run(index_t seq) : p(1, seq, 11) { p.forward(); }

  /// Rows [position, position + n) from a cache that holds NaN beyond them.
  template <class S>
  bool equal(index_t position, index_t n, S const& space) {
    index_t const capacity = position + n + 3;
    array<T> k(capacity, p.kv_columns), v(capacity, p.kv_columns), o(n, p.columns, p.columns + 2, 1);
    for (index_t r = 0; r < position + n; ++r)
      for (index_t c = 0; c < p.kv_columns; ++c) k(r, c) = p.k()(r, c), v(r, c) = p.v()(r, c);
    test::memory<std::byte> memory(moe::attention_cached_scratch_bytes<C, T>(space, n, position), std::byte{0xff});
    moe::arena scratch(memory.data(), memory.size());
    moe::attention_cached<C>(space, moe::rows_of(p.q(), position, position + n), k.mat(), v.mat(), position, o.mat(), scratch);
    bool same = true;
    for (index_t r = 0; r < n; ++r) same = same && std::memcmp(&o(r, 0), &p.o(position + r, 0), static_cast<std::size_t>(p.columns) * sizeof(T)) == 0;
    return same;
  }
};

}  // namespace

TEST_CASE("attention: a worked example, forward and backward") {  // the last of four rows; scores .5, 1.5, -.5, 2
  constexpr shape c{1, 1, 2};
  problem<c, double> p(1, 4, 1);
  double const s[] = {.5, 1.5, -.5, 2}, v[4][2] = {{1, 0}, {0, 1}, {2, -1}, {-1, 3}};
  p.qkv.fill(0), p.d_o.fill(0);
  for (index_t t = 0; t < 4; ++t) p.k()(t, 0) = s[t], p.v()(t, 0) = v[t][0], p.v()(t, 1) = v[t][1];
  p.q()(3, 0) = std::sqrt(2.0);
  p.d_o(3, 0) = 1, p.d_o(3, 1) = -2;
  p.forward();
  p.backward();
  auto const close = [](double a, double b) { return std::abs(a - b) < 1e-8; };
  CHECK(close(p.o(3, 0), -.320492315));
  CHECK(close(p.o(3, 1), 1.843574406));
  CHECK(close(p.lse(3, 0), 2.648016866));
  double const d_s[] = {.584468791, .636954916, .34382563, -1.565249336};
  double const d_v[4][2] = {{.116715391, -.233430781}, {.317265326, -.634530651}, {.042937193, -.085874385}, {.523082091, -1.046164182}};
  for (index_t t = 0; t < 4; ++t) {
    CHECK(close(p.d_k()(t, 0), d_s[t]));
    CHECK(p.d_k()(t, 1) == 0);
    CHECK(close(p.d_v()(t, 0), d_v[t][0]));
    CHECK(close(p.d_v()(t, 1), d_v[t][1]));
  }
}

TEST_CASE_TEMPLATE("attention: agrees with the definition, forward and backward", T, float, double, bf16) {
  for (index_t seq : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65}) {
    if (test::on_cuda && seq % 16 > 1 && seq != 63) continue;  // one below and above each tile of that space
    agrees<shape{2, 1, 5}, T>(2, seq);
    agrees<shape{4, 2, 16}, T>(1, seq);
  }
  for (index_t seq : {1, 33, 70}) {
    agrees<shape{1, 1, 5}, T>(1, seq);
    agrees<shape{3, 3, 33}, T>(3, seq);
  }
}

TEST_CASE_TEMPLATE("attention: agrees with the definition beside the chunks of keys of the backward", T, float, double, bf16) {
  for (index_t seq : {95, 96, 97, 193, 224}) {
    if (test::on_cuda && seq > 97) continue;
    agrees<shape{2, 1, 5}, T>(1, seq);
  }
}

TEST_CASE_TEMPLATE("attention_backward: parts of few heads give the bits of whole heads, also in place of q, k and v", T, float, double, bf16) {
  auto const check = [](auto p, auto r) {
    p.forward(moe::cpu{1}), p.backward(moe::cpu{1});
    for (int threads : {2, 3, 16}) {  // from one head per thread on: whole heads
      r.forward(moe::cpu{threads}), r.backward(moe::cpu{threads});
      CHECK(same_bits(p, r));
    }
    auto memory = r.scratch(moe::cpu{16});
    moe::arena scratch(memory.data(), memory.size());
    moe::attention_backward<p.config>(moe::cpu{16}, r.q(), r.k(), r.v(), r.o.mat(), r.lse.mat(), r.d_o.mat(), r.seq, r.q(), r.k(), r.v(), scratch);
    CHECK(test::same_bits(r.qkv.values(), p.d_qkv.values()));
  };
  using grouped = problem<shape{4, 1, 16}, T>;
  using pair = problem<shape{2, 2, 5}, T>;
  check(grouped(1, 225, 21), grouped(1, 225, 21));
  check(pair(1, 97, 22), pair(1, 97, 22));
}

TEST_CASE_TEMPLATE("attention: equal scores average small integers exactly", T, float, double) {
  constexpr shape c{2, 1, 5};
  problem<c, T> p(2, 64, 3);
  p.qkv.integers(4);
  for (index_t t = 0; t < p.tokens; ++t)
    for (index_t i = 0; i < p.columns; ++i) p.q()(t, i) = 0;
  p.forward();
  for (index_t t = 0; t < p.tokens; ++t)
    for (index_t h = 0; h < 2; ++h)
      for (index_t i = 0; i < 5; ++i) {
        T sum = 0;
        for (index_t x = t / 64 * 64; x <= t; ++x) sum += p.v()(x, i);
        CHECK(p.o(t, h * 5 + i) == sum / static_cast<T>(t % 64 + 1));
      }
}

TEST_CASE_TEMPLATE("attention: the same bits however it runs, and for a sequence alone", T, float, double, bf16) {
  constexpr shape c{test::on_cuda ? 2 : 4, test::on_cuda ? 1 : 2, test::on_cuda ? 5 : 33};
  problem<c, T> p(2, 70, 5);
  p.forward(), p.backward();
  test::for_each_execution([&](test::space const& s, int) {
    problem<c, T> r(2, 70, 5);
    r.forward(s), r.backward(s);
    CHECK(same_bits(p, r));
  });
  problem<c, T> alone(1, 70, 5);
  for (index_t t = 0; t < 70; ++t) {
    for (index_t i = 0; i < p.all; ++i) alone.qkv(t, i) = p.qkv(70 + t, i);
    for (index_t i = 0; i < p.columns; ++i) alone.d_o(t, i) = p.d_o(70 + t, i);
  }
  alone.forward(), alone.backward();
  bool same = true;
  for (index_t t = 0; t < 70; ++t)
    same = same && std::memcmp(&alone.o(t, 0), &p.o(70 + t, 0), static_cast<std::size_t>(p.columns) * sizeof(T)) == 0 &&
           std::memcmp(&alone.d_qkv(t, 0), &p.d_qkv(70 + t, 0), static_cast<std::size_t>(p.all) * sizeof(T)) == 0;
  CHECK(same);
}

TEST_CASE_TEMPLATE("attention: a shorter sequence gives the same first rows", T, float, double, bf16) {
  constexpr shape c{2, 2, 16};
  problem<c, T> p(1, 75, 6);
  p.forward();
  for (index_t seq : {1, 5, 16, 31, 40, 64, 74}) {
    problem<c, T> r(1, seq, 6);
    for (index_t t = 0; t < seq; ++t)
      for (index_t i = 0; i < p.all; ++i) r.qkv(t, i) = p.qkv(t, i);
    r.forward();
    for (index_t t = 0; t < seq; ++t) REQUIRE(std::memcmp(&r.o(t, 0), &p.o(t, 0), static_cast<std::size_t>(p.columns) * sizeof(T)) == 0);
  }
}

TEST_CASE_TEMPLATE("attention: rows that can be moved 16 bytes at a time give the same bits as those that cannot", T, float, double, bf16) {
  constexpr shape c{4, 2, 16};
  problem<c, T> p(2, 33, 5), r(2, 33, 5, 1.0, true);
  p.forward(), p.backward();
  r.forward(), r.backward();
  CHECK(same_bits(p, r));
}

TEST_CASE_TEMPLATE("attention_backward: the bits of the CPU in every space, where the sums of d_o o are exact", T, float, double, bf16) {
  auto const check = [](auto p, auto r) {
    p.forward(moe::cpu{1});
    p.o.integers(6), p.d_o.integers(7);
    r.o = p.o, r.d_o = p.d_o, r.lse = p.lse;
    p.backward(moe::cpu{1});
    r.backward();
    CHECK(test::same_bits(p.d_qkv.values(), r.d_qkv.values()));
  };
  using odd = problem<shape{3, 1, 5}, T>;
  using wide = problem<shape{2, 1, 136}, T>;
  check(odd(2, 70, 5), odd(2, 70, 5));
  check(odd(1, 129, 5), odd(1, 129, 5));
  check(wide(1, 66, 5), wide(1, 66, 5));
}

TEST_CASE("attention: heads of many columns") {
  agrees<shape{2, 1, 136}, float>(1, 20);
  agrees<shape{2, 1, 136}, double>(1, 20);
  agrees<shape{1, 1, 264}, float>(1, 20);
}

TEST_CASE_TEMPLATE("attention_cached: any split gives the rows of attention, bit for bit", T, float, double, bf16) {
  auto const splits = [](auto& run, std::uint64_t seed) {
    index_t const seq = run.p.seq;
    moe::random_stream const random{seed, moe::random_purpose::test, 3};
    std::uint64_t draw = 0;
    for (index_t position = 0; position < seq;) {
      std::uint64_t const longest = random.below(draw, 2) == 0 ? 3 : 45;
      index_t const n = std::min<index_t>(seq - position, 1 + static_cast<index_t>(random.below(draw + 1, longest)));
      draw += 2;
      INFO("position ", position, ", rows ", n);
      REQUIRE(run.equal(position, n, space_of(position)));
      position += n;
    }
    REQUIRE(run.equal(0, seq, test::on()));
  };
  cache_run<shape{4, 2, 16}, T> even(150);
  cache_run<shape{3, 1, 5}, T> odd(101);
  for (std::uint64_t seed = 1; seed <= (test::on_cuda ? 2 : 4); ++seed) splits(even, seed), splits(odd, seed);
  for (index_t t = 0; t < 101; t += test::on_cuda ? 9 : 1) REQUIRE(odd.equal(t, 1, space_of(0)));
  for (index_t t = 0; t < 150; t += test::on_cuda ? 9 : 1) REQUIRE(even.equal(t, 1, test::on()));
}

TEST_CASE_TEMPLATE("attention: NaN and infinity in a later token do not touch earlier rows", T, float, double, bf16) {
  constexpr shape c{2, 1, 5};
  float const inf = std::numeric_limits<float>::infinity();
  for (index_t bad : {0, 1, 17, 36, 68, 69}) {
    if (test::on_cuda && bad % 2 == 0 && bad > 0) continue;
    for (float x : {std::numeric_limits<float>::quiet_NaN(), inf, -inf}) {
      INFO("row ", bad, " is ", x);
      problem<c, T> p(1, 70, 7), r(1, 70, 7);
      for (index_t i = 0; i < p.all; ++i) r.qkv(bad, i) = T(x);
      p.forward(), r.forward();
      bool same = true, seen = true;
      for (index_t t = 0; t < bad; ++t) same = same && std::memcmp(&r.o(t, 0), &p.o(t, 0), static_cast<std::size_t>(p.columns) * sizeof(T)) == 0;
      for (index_t i = 0; i < p.columns; ++i) seen = seen && std::isnan(static_cast<float>(r.o(bad, i)));
      CHECK(same);
      CHECK(seen);
    }
  }
}

TEST_CASE("attention: scores of -infinity weigh nothing, even a tile full of them; nothing else makes a row NaN") {
  constexpr shape c{2, 1, 5};
  problem<c, float> p(1, 70, 7);
  p.qkv.integers(4);
  for (index_t t = 0; t < 70; ++t)
    for (index_t i = 0; i < 5; ++i) p.q()(t, i) = p.q()(t, 5 + i) = i == 0, p.k()(t, i) = i == 0 && t < 66 ? -std::numeric_limits<float>::infinity() : 0;
  p.forward();
  for (index_t t = 0; t < 70; ++t) {
    float sum = 0;
    for (index_t x = 66; x <= t; ++x) sum += p.v()(x, 3);
    CHECK(std::isnan(p.lse(t, 1)) == (t < 66));
    if (t < 66) CHECK(std::isnan(p.o(t, 8)));
    else CHECK(p.o(t, 8) == sum / static_cast<float>(t - 65));
  }
}

TEST_CASE("attention_backward: a NaN reaches only the gradients that depend on it") {
  constexpr shape c{2, 1, 5};
  for (index_t bad : {0, 9, 33, 39}) {
    CAPTURE(bad);
    problem<c, float> p(1, 40, 8);
    p.forward();
    p.d_o(bad, 7) = test::quiet_nan<float>();  // head 1 of one row
    p.backward();
    for (index_t t = 0; t < 40; ++t) {
      CHECK(std::isnan(p.d_q()(t, 5)) == (t == bad));
      CHECK(!std::isnan(p.d_q()(t, 0)));
      CHECK(std::isnan(p.d_k()(t, 0)) == (t <= bad));
      CHECK(std::isnan(p.d_v()(t, 2)) == (t <= bad));
    }
    problem<c, float> r(1, 40, 8);
    for (index_t i = 0; i < r.kv_columns; ++i) r.k()(bad, i) = r.v()(bad, i) = test::quiet_nan<float>();
    r.forward(), r.backward();
    for (index_t t = 0; t < 40; ++t) CHECK(std::isnan(r.d_q()(t, 0)) == (t >= bad));
  }
}

TEST_CASE("attention_backward: agrees with finite differences") {
  auto const check = [](auto p) {
    p.forward();
    p.backward();
    auto const d = p.d_qkv.values();
    index_t const all = p.all;
    auto const loss = [&] {
      p.forward();
      double l = 0;
      for (index_t t = 0; t < p.tokens; ++t)
        for (index_t i = 0; i < p.columns; ++i) l += p.o(t, i) * p.d_o(t, i);
      return l;
    };
    char const* const names[] = {"attention q", "attention k", "attention v"};
    index_t const first[] = {0, p.columns, p.columns + p.kv_columns, all};
    for (int part = 0; part < 3; ++part) {
      double largest = 0, worst = 0;
      index_t const step = test::on_cuda ? 1 + p.tokens / 2 : p.tokens > 20 ? 3 : 1;  // some tokens of the long ones
      for (index_t t = 0; t < p.tokens; t += step)
        for (index_t c = first[part]; c < first[part + 1]; ++c) {
          double& x = p.qkv(t, c);
          double const saved = x, h = 1e-4, a = d[static_cast<std::size_t>(t * all + c)];
          auto const at = [&](double e) { return x = saved + e, loss(); };
          double const numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h), difference = std::abs(numeric - a);
          x = saved;
          largest = std::max(largest, std::abs(a));
          if (!(difference <= worst)) worst = difference;
        }
      CHECK_MESSAGE(worst <= (p.seq == 1 && part < 2 ? 1e-10 : 1e-7 * largest), names[part] << " seq " << p.seq << ": off by " << worst << " of " << largest);
    }
  };
  if (test::on_cuda) {
    check(problem<shape{2, 1, 5}, double>(2, 3, 9));
    check(problem<shape{1, 1, 2}, double>(1, 66, 10));
    return;
  }
  for (index_t seq : {1, 2, 7, 8, 9}) check(problem<shape{4, 2, 5}, double>(2, seq, 9));
  for (index_t seq : {15, 16, 17, 33}) check(problem<shape{2, 1, 5}, double>(2, seq, 10));
}

TEST_CASE_TEMPLATE("attention_backward: gradients may take the place of q, k and v", T, float, bf16) {
  auto const check = [](auto p, auto r) {
    p.forward(), p.backward();
    r.forward();
    auto memory = r.scratch(test::on());
    moe::arena scratch(memory.data(), memory.size());
    moe::attention_backward<p.config>(test::on(), r.q(), r.k(), r.v(), r.o.mat(), r.lse.mat(), r.d_o.mat(), r.seq, r.q(), r.k(), r.v(), scratch);
    CHECK(test::same_bits(r.qkv.values(), p.d_qkv.values()));
  };
  using narrow = problem<shape{4, 2, 16}, T>;
  using wide = problem<shape{2, 1, 136}, T>;
  check(narrow(2, 50, 12), narrow(2, 50, 12));
  check(wide(1, 66, 12), wide(1, 66, 12));
}

TEST_CASE("attention: large scores neither overflow nor vanish") {
  constexpr shape c{1, 1, 5};
  problem<c, float> p(1, 40, 13, 60.0);
  p.forward(), p.backward();
  for (float x : p.o.values()) CHECK(std::isfinite(x));
  for (float x : p.d_qkv.values()) CHECK(std::isfinite(x));
}

TEST_CASE("attention: no tokens, no work") {
  constexpr shape c{2, 1, 5};
  problem<c, float> p(0, 5, 14);
  p.forward(), p.backward();
  moe::arena none(nullptr, 0);
  moe::attention_cached<c>(test::on(), p.q(), p.k(), p.v(), 0, p.o.mat(), none);
}

TEST_CASE("attention: errors name the argument and what it needs, before any work") {
  constexpr shape c{2, 1, 5};
  problem<c, float> p(2, 6, 15);
  test::space const space = test::on();
  auto memory = p.scratch(space);
  auto const forward = [&](auto q, auto k, auto v, index_t seq, auto lse, std::size_t bytes) {
    return test::error_of([&] {
      moe::arena scratch(memory.data(), bytes);
      moe::attention<c>(space, q, k, v, seq, p.o.mat(), lse, scratch);
    });
  };
  std::size_t const enough = memory.size();
  CHECK(test::contains(forward(p.k(), p.k(), p.v(), 6, p.lse.mat(), enough), "attention: q is [12, 5], needs [12, 10]"));
  CHECK(test::contains(forward(p.q(), p.q(), p.v(), 6, p.lse.mat(), enough), "attention: k is [12, 10], needs [12, 5]"));
  CHECK(test::contains(forward(p.q(), p.k(), p.q(), 6, p.lse.mat(), enough), "attention: v is [12, 10], needs [12, 5]"));
  CHECK(test::contains(forward(p.q(), p.k(), p.v(), 5, p.lse.mat(), enough), "attention: seq is 5, needs to be at least 1 and to divide 12 tokens"));
  CHECK(test::contains(forward(p.q(), p.k(), p.v(), 0, p.lse.mat(), enough), "attention: seq is 0"));
  CHECK(test::contains(forward(p.q(), p.k(), p.v(), 6, moe::rows_of(p.lse.mat(), 0, 3), enough), "attention: lse is [3, 2], needs [12, 2]"));
  if (!test::on_cuda) CHECK(test::contains(forward(p.q(), p.k(), p.v(), 6, p.lse.mat(), 64), "attention: scratch has 64 bytes left"));  // on CUDA it needs none
  for (float x : p.o.values()) CHECK(std::isnan(x));

  auto const backward = [&](auto lse, auto d_v, index_t seq, std::size_t bytes) {
    return test::error_of([&] {
      moe::arena scratch(memory.data(), bytes);
      moe::attention_backward<c>(space, p.q(), p.k(), p.v(), p.o.mat(), lse, p.d_o.mat(), seq, p.d_q(), p.d_k(), d_v, scratch);
    });
  };
  CHECK(test::contains(backward(moe::rows_of(p.lse.mat(), 0, 3), p.d_v(), 6, enough), "attention_backward: lse is [3, 2], needs [12, 2]"));
  CHECK(test::contains(backward(p.lse.mat(), p.d_q(), 6, enough), "attention_backward: d_v is [12, 10], needs [12, 5]"));
  CHECK(test::contains(backward(p.lse.mat(), p.d_v(), 7, enough), "attention_backward: seq is 7"));
  CHECK(test::contains(backward(p.lse.mat(), p.d_v(), 6, 64), "attention_backward: scratch has 64 bytes left"));

  auto const cached = [&](index_t position, auto v) {
    return test::error_of([&] {
      moe::arena scratch(memory.data(), enough);
      moe::attention_cached<c>(space, moe::rows_of(p.q(), 0, 2), p.k(), v, position, moe::rows_of(p.o.mat(), 0, 2), scratch);
    });
  };
  CHECK(test::contains(cached(-1, p.v()), "attention_cached: position is -1, needs to be at least 0"));
  CHECK(test::contains(cached(11, p.v()), "attention_cached: position 11 and 2 new rows need a cache of that many rows, it has 12"));
  CHECK(test::contains(cached(0, p.q()), "attention_cached: v_cache is [12, 10], needs [12, 5]"));
}
