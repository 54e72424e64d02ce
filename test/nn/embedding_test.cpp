#include <moe/nn/embedding.hpp>

#include <test/support.hpp>

using namespace test;

namespace {
array<int> tokens_of(index_t n, index_t vocab, std::uint64_t seed = 1) {
  array<int> t(n);
  moe::random_stream const random{seed, moe::random_purpose::test, 3};
  for (index_t i = 0; i < n; ++i) t(i) = static_cast<int>(random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab)));
  return t;
}
/// The same elements in rows `stride` apart, `offset` elements off alignment.
template <class T>
array<T> with_layout(array<T> const& a, index_t stride, index_t offset) {
  array<T> b(a.rows(), a.columns(), stride, offset);
  for (index_t r = 0; r < a.rows(); ++r)
    for (index_t c = 0; c < a.columns(); ++c) b(r, c) = a(r, c);
  return b;
}
template <class T>
void backward(array<int> const& token, array<T> const& d_y, array<moe::accumulator<T>>& d_table, space const& where = on()) {
  scratch s(moe::embedding_backward_scratch_bytes(where, token.size(), d_table.rows()));
  auto a = s.get();
  moe::embedding_backward(where, token.vec(), d_y.mat(), d_table.mat(), a);
}
}  // namespace

TEST_CASE_TEMPLATE("embedding: copies rows, any shape, strided and unaligned", T, float, double, bf16) {
  for (index_t n : {0, 1, 50})
    for (index_t d : {0, 1, 7, 16, 33}) {
      array<T> table(11, d, d + 2, 1), y(n, d, d + 3, 1);
      table.normal(1);
      auto const token = tokens_of(n, 11);
      moe::embedding(on(), token.vec(), table.mat(), y.mat());
      for (index_t t = 0; t < n; ++t)
        for (index_t c = 0; c < d; ++c) CHECK(std::memcmp(&y(t, c), &table(token(t), c), sizeof(T)) == 0);
    }
}

TEST_CASE_TEMPLATE("embedding_backward: exact sums; absent rows stay untouched", T, float, double, bf16) {
  for (index_t n : {0, 1, 2, 30})
    for (index_t d : {0, 1, 7, 16, 33, 127, 128, 129, 300}) {
      array<T> d_y(n, d, d + 1, 1);
      array<moe::accumulator<T>> d_table(13, d, d + 2, 3);
      d_y.integers(1, 2), d_table.integers(2, 2);
      for (index_t c = 0; c < d; ++c) d_table(12, c) = quiet_nan<moe::accumulator<T>>();  // never a token: not read as one, not written
      auto const token = tokens_of(n, 12);
      auto const before = d_table.values();
      std::vector<double> expected;
      for (auto const x : before) expected.push_back(double(x));
      for (index_t t = 0; t < n; ++t)
        for (index_t c = 0; c < d; ++c) expected[static_cast<std::size_t>(token(t) * d + c)] += double(d_y(t, c));
      backward(token, d_y, d_table);
      auto const after = d_table.values();
      for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK((std::isnan(expected[i]) ? std::isnan(double(after[i])) : double(after[i]) == expected[i]));
    }
}

TEST_CASE_TEMPLATE("embedding_backward: a chain from what the row holds, positions ascending, however it runs", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  index_t const n = on_cuda ? 300 : 700, d = on_cuda ? 35 : 150, vocab = 9;
  auto token = tokens_of(n, vocab);
  for (index_t t = 0; t < n; t += 2) token(t) = 4;  // one frequent token
  array<T> d_y(n, d);
  array<A> start(vocab, d);
  d_y.normal(1), start.normal(2);
  std::vector<A> sums;
  for (A x : start.values()) sums.push_back(x);
  for (index_t t = 0; t < n; ++t)
    for (index_t c = 0; c < d; ++c) sums[static_cast<std::size_t>(token(t) * d + c)] += A(d_y(t, c));
  for_each_execution([&](space const& s, int i) {
    array<T> const strided_d_y = with_layout(d_y, d + i, i % 3);
    array<A> d_table = with_layout(start, d + 2 * i, i % 5);
    backward(token, strided_d_y, d_table, s);
    CHECK(same_bits(d_table.values(), sums));
  });
}

TEST_CASE("embedding_backward: more tokens than one chunk of the sort, few and many vocabulary rows") {
  index_t const n = on_cuda ? 2100 : 20000, d = 2;
  for (index_t vocab : {1, 3, 700, 5000}) {
    auto const token = tokens_of(n, vocab, 7);
    array<float> d_y(n, d), d_table(vocab, d);
    d_y.normal(1), d_table.fill(0.5f);
    std::vector<float> expected = d_table.values();
    for (index_t t = 0; t < n; ++t)
      for (index_t c = 0; c < d; ++c) expected[static_cast<std::size_t>(token(t) * d + c)] += d_y(t, c);
    backward(token, d_y, d_table);
    CHECK(same_bits(d_table.values(), expected));
  }
}

TEST_CASE("embedding: gradient") {
  array<int> token({2, 0, 2, 4, 2}, 5, 1);
  array<double> table(5, 6), y(5, 6), d_y(5, 6), d_table(5, 6);
  table.normal(1), d_y.normal(2), d_table.fill(0);
  auto const loss = [&] {
    moe::embedding(on(), token.vec(), table.mat(), y.mat());
    double l = 0;
    for (index_t i = 0; i < y.size(); ++i) l += y.data()[i] * d_y.data()[i];
    return l;
  };
  backward(token, d_y, d_table);
  check_gradient("table", loss, table.data(), table.size(), d_table.values());
  for (index_t c = 0; c < 6; ++c) CHECK((d_table(1, c) == 0 && d_table(3, c) == 0));
}

TEST_CASE("embedding: NaN passes; errors name the argument") {
  array<float> table(5, 6), y(3, 6), d_table(5, 6), wide(3, 7), short_y(2, 6);
  table.normal(1), d_table.normal(2);
  table(2, 3) = quiet_nan<float>();
  array<int> const token({2, 0, 4}, 3, 1);
  moe::embedding(on(), token.vec(), table.mat(), y.mat());
  CHECK(std::isnan(y(0, 3)));
  backward(token, y, d_table);
  CHECK(std::isnan(d_table(2, 3)));
  CHECK(!std::isnan(d_table(2, 2)));

  scratch s;
  auto a = s.get();
  CHECK(error_of([&] { moe::embedding(on(), token.vec(), table.mat(), wide.mat()); }) == "embedding: y is [3, 7], needs [3, 6]");
  CHECK(error_of([&] { moe::embedding(on(), token.vec(), table.mat(), short_y.mat()); }) == "embedding: y is [2, 6], needs [3, 6]");
  CHECK(error_of([&] { moe::embedding_backward(on(), token.vec(), wide.mat(), d_table.mat(), a); }) ==
        "embedding_backward: d_y is [3, 7], needs [3, 6]");
  std::size_t const needed = moe::embedding_backward_scratch_bytes(on(), 3, 5);
  scratch small(needed - 28);
  auto b = small.get();
  CHECK(error_of([&] { moe::embedding_backward(on(), token.vec(), y.mat(), d_table.mat(), b); }) ==
        "embedding_backward: scratch has " + std::to_string(needed - 28) + " bytes left, needs " + std::to_string(needed));
}

TEST_CASE("embedding: tokens out of range") {
  for (int bad : {5, -1, 1 << 30}) {
    array<float> table(5, 6), y(3, 6), d_y(3, 6), d_table(5, 6);
    table.normal(1), d_y.integers(1), d_table.integers(2), y.fill(1);
    array<int> const token({2, bad, 4}, 3, 1);
    auto const before = d_table.values();
    scratch s;
    auto a = s.get();
    auto const forward = [&] { moe::embedding(on(), token.vec(), table.mat(), y.mat()); };
    auto const gradient = [&] { moe::embedding_backward(on(), token.vec(), d_y.mat(), d_table.mat(), a); };
    if (on_cuda) {  // the host does not see them: NaN in the output, and nothing in the gradient
      forward(), gradient();
      for (index_t c = 0; c < 6; ++c) {
        CHECK((y(0, c) == table(2, c) && std::isnan(y(1, c)) && y(2, c) == table(4, c)));
        for (index_t v = 0; v < 5; ++v)
          CHECK(d_table(v, c) == before[static_cast<std::size_t>(v * 6 + c)] + (v == 2 ? d_y(0, c) : v == 4 ? d_y(2, c) : 0));
      }
    } else {  // an error that names position and value, before any work
      std::string const rest = ": token[1] is " + std::to_string(bad) + ", needs to be in [0, 5)";
      CHECK(error_of(forward) == "embedding" + rest);
      CHECK(error_of(gradient) == "embedding_backward" + rest);
      CHECK(y.values() == std::vector<float>(18, 1.0f));
      CHECK(same_bits(d_table.values(), before));
    }
  }
}
