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
template <class T>
void backward(array<int> const& token, array<T> const& d_y, array<T>& d_table, int threads = 2) {
  scratch s(moe::embedding_backward_scratch_bytes(moe::cpu{}, token.size(), d_table.rows()));
  auto a = s.get();
  moe::embedding_backward(moe::cpu{threads}, token.vec(), d_y.mat(), d_table.mat(), a);
}
}  // namespace

TEST_CASE_TEMPLATE("embedding: copies rows, any shape, strided and unaligned", T, float, double, bf16) {
  for (index_t n : {0, 1, 50})
    for (index_t d : {0, 1, 7, 16, 33}) {
      array<T> table(11, d, d + 2, 1), y(n, d, d + 3, 1);
      table.normal(1);
      auto const token = tokens_of(n, 11);
      moe::embedding(moe::cpu{2}, token.vec(), table.mat(), y.mat());
      for (index_t t = 0; t < n; ++t)
        for (index_t c = 0; c < d; ++c) CHECK(std::memcmp(&y(t, c), &table(token(t), c), sizeof(T)) == 0);
    }
}

TEST_CASE_TEMPLATE("embedding_backward: exact sums; absent rows stay untouched", T, float, double, bf16) {
  for (index_t n : {0, 1, 2, 30})
    for (index_t d : {0, 1, 7, 16, 33, 127, 128, 129, 300}) {
      array<T> d_y(n, d, d + 1, 1), d_table(13, d, d + 2, 3);
      d_y.integers(1, 2), d_table.integers(2, 2);
      for (index_t c = 0; c < d; ++c) d_table(12, c) = quiet_nan<T>();  // never a token: not read as one, not written
      auto const token = tokens_of(n, 12);
      auto const before = d_table.values();
      std::vector<double> expected;
      for (T x : before) expected.push_back(double(x));
      for (index_t t = 0; t < n; ++t)
        for (index_t c = 0; c < d; ++c) expected[static_cast<std::size_t>(token(t) * d + c)] += double(d_y(t, c));
      backward(token, d_y, d_table);
      auto const after = d_table.values();
      for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK((std::isnan(expected[i]) ? std::isnan(double(after[i])) : double(after[i]) == expected[i]));
    }
}

TEST_CASE_TEMPLATE("embedding_backward: a chain from what the row holds, positions ascending, for any number of threads", T, float, double, bf16) {
  using A = moe::accumulator<T>;
  index_t const n = 700, d = 150, vocab = 9;
  auto token = tokens_of(n, vocab);
  for (index_t t = 0; t < n; t += 2) token(t) = 4;  // one frequent token
  array<T> d_y(n, d), start(vocab, d);
  d_y.normal(1), start.normal(2);
  std::vector<A> sums;
  for (T x : start.values()) sums.push_back(A(x));
  for (index_t t = 0; t < n; ++t)
    for (index_t c = 0; c < d; ++c) sums[static_cast<std::size_t>(token(t) * d + c)] += A(d_y(t, c));
  std::vector<T> expected;
  for (A x : sums) expected.push_back(T(x));
  for (int threads : thread_counts) {
    array<T> d_table = start;
    backward(token, d_y, d_table, threads);
    CHECK(same_bits(d_table.values(), expected));
  }
}

TEST_CASE("embedding: gradient") {
  array<int> token({2, 0, 2, 4, 2}, 5, 1);
  array<double> table(5, 6), y(5, 6), d_y(5, 6), d_table(5, 6);
  table.normal(1), d_y.normal(2), d_table.fill(0);
  auto const loss = [&] {
    moe::embedding(moe::cpu{1}, token.vec(), table.mat(), y.mat());
    double l = 0;
    for (index_t i = 0; i < y.size(); ++i) l += y.data()[i] * d_y.data()[i];
    return l;
  };
  backward(token, d_y, d_table);
  check_gradient("table", loss, table.data(), table.size(), d_table.values());
  for (index_t c = 0; c < 6; ++c) CHECK((d_table(1, c) == 0 && d_table(3, c) == 0));
}

TEST_CASE("embedding: NaN passes; errors name position and value, before any work") {
  array<float> table(5, 6), y(3, 6), d_table(5, 6), wide(3, 7), short_y(2, 6);
  table.normal(1), d_table.normal(2);
  table(2, 3) = quiet_nan<float>();
  array<int> token({2, 0, 4}, 3, 1);
  moe::embedding(moe::cpu{1}, token.vec(), table.mat(), y.mat());
  CHECK(std::isnan(y(0, 3)));
  backward(token, y, d_table);
  CHECK(std::isnan(d_table(2, 3)));
  CHECK(!std::isnan(d_table(2, 2)));

  y.fill(1);
  auto const before = d_table.values();
  scratch s;
  auto a = s.get();
  for (int bad : {5, -1, 1 << 30}) {
    token(1) = bad;
    std::string const rest = ": token[1] is " + std::to_string(bad) + ", needs to be in [0, 5)";
    CHECK(error_of([&] { moe::embedding(moe::cpu{1}, token.vec(), table.mat(), y.mat()); }) == "embedding" + rest);
    CHECK(error_of([&] { moe::embedding_backward(moe::cpu{1}, token.vec(), y.mat(), d_table.mat(), a); }) == "embedding_backward" + rest);
  }
  CHECK(y.values() == std::vector<float>(18, 1.0f));
  CHECK(same_bits(d_table.values(), before));
  token(1) = 0;
  CHECK(error_of([&] { moe::embedding(moe::cpu{1}, token.vec(), table.mat(), wide.mat()); }) == "embedding: y is [3, 7], needs [3, 6]");
  CHECK(error_of([&] { moe::embedding(moe::cpu{1}, token.vec(), table.mat(), short_y.mat()); }) == "embedding: y is [2, 6], needs [3, 6]");
  CHECK(error_of([&] { moe::embedding_backward(moe::cpu{1}, token.vec(), wide.mat(), d_table.mat(), a); }) ==
        "embedding_backward: d_y is [3, 7], needs [3, 6]");
  scratch small(100);
  auto b = small.get();
  CHECK(moe::embedding_backward_scratch_bytes(moe::cpu{}, 3, 5) == 128);
  CHECK(error_of([&] { moe::embedding_backward(moe::cpu{1}, token.vec(), y.mat(), d_table.mat(), b); }) == "arena: 64 bytes asked, 36 of 100 left");
}
