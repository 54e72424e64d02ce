#include <moe/core/parallel.hpp>

#include <atomic>

#include "test/support.hpp"

using moe::index_t;

TEST_CASE("parallel_for: every index exactly once, for any number of threads and any amount of work") {
  for (int threads : {0, 1, 2, 3, 7, 64})
    for (index_t n : {0, 1, 2, 3, 63, 64, 65, 1000})
      for (double work : {0.0, 1.0, 50.0, 1e9}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
        moe::parallel_for(moe::cpu{threads}, n, work, [&](index_t i) { ++seen[static_cast<std::size_t>(i)]; });
        for (auto const& s : seen) REQUIRE(s == 1);
      }
  moe::parallel_for(moe::cpu{2}, -5, 1e9, [](index_t) { FAIL("no index is below 0"); });
}

TEST_CASE("parallel_for: small loops stay on the calling thread") {
  auto const caller = omp_get_level();
  moe::parallel_for(moe::cpu{4}, 10, 1.0, [&](index_t) { CHECK(omp_get_level() == caller); });
}

TEST_CASE("parallel_chunks: boundaries depend on the length and the chunk alone") {
  for (index_t n : {0, 1, 4, 5, 9, 10, 11, 1003})
    for (index_t chunk : {1, 5, 1000}) {
      index_t const chunks = (n + chunk - 1) / chunk;
      for (int threads : test::thread_counts) {
        std::vector<index_t> begin(static_cast<std::size_t>(chunks), -1), end(static_cast<std::size_t>(chunks), -1);
        moe::parallel_chunks(moe::cpu{threads}, n, chunk, 1e6, [&](index_t c, index_t b, index_t e) {
          begin[static_cast<std::size_t>(c)] = b;
          end[static_cast<std::size_t>(c)] = e;
        });
        for (index_t c = 0; c < chunks; ++c) {
          REQUIRE(begin[static_cast<std::size_t>(c)] == c * chunk);
          REQUIRE(end[static_cast<std::size_t>(c)] == (c + 1 == chunks ? n : (c + 1) * chunk));
        }
      }
    }
}

TEST_CASE("parallel_chunks: partial sums added in order have the same bits for any number of threads") {
  index_t const n = 10007, chunk = 128;
  test::array<float> x(n);
  x.normal(1);
  std::vector<float> sums;
  for (int threads : test::thread_counts) {
    std::vector<float> part(static_cast<std::size_t>((n + chunk - 1) / chunk));
    moe::parallel_chunks(moe::cpu{threads}, n, chunk, 1e3, [&](index_t c, index_t b, index_t e) {
      float s = 0;
      for (index_t i = b; i < e; ++i) s += x(i);
      part[static_cast<std::size_t>(c)] = s;
    });
    float s = 0;
    for (float p : part) s += p;
    sums.push_back(s);
  }
  for (float s : sums) CHECK(test::same_bits<float>({s}, {sums[0]}));
}

TEST_CASE("thread_index: below thread_count, alone in its slot") {
  for (int threads : {0, 1, 2, 3, 7}) {
    moe::cpu const space{threads};
    int const count = moe::thread_count(space);
    CHECK(count == std::max(threads, 1));
    std::vector<std::atomic<int>> inside(static_cast<std::size_t>(count));
    std::atomic<int> wrong = 0;
    moe::parallel_for(space, 2000, 1e9, [&](index_t) {
      int const t = moe::thread_index();
      if (t < 0 || t >= count) {
        ++wrong;
        return;
      }
      if (++inside[static_cast<std::size_t>(t)] != 1) ++wrong;
      --inside[static_cast<std::size_t>(t)];
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("thread_index: counts within the innermost parallel_for, also inside a parallel region of the caller") {
  std::atomic<int> wrong = 0, calls = 0;
#pragma omp parallel num_threads(4)
  for (double work : {1.0, 1e9})
    for (int threads : {1, 2})
      moe::parallel_for(moe::cpu{threads}, 8, work, [&](index_t) {
        ++calls;
        if (moe::thread_index() >= threads) ++wrong;
      });
  CHECK(wrong == 0);
  CHECK(calls == 4 * 2 * 2 * 8);

  moe::parallel_for(moe::cpu{3}, 60, 1e9, [&](index_t) {  // nested: the outer index comes back
    int const before = moe::thread_index();
    moe::parallel_for(moe::cpu{1}, 2, 1.0, [&](index_t) { wrong += moe::thread_index() != 0; });
    wrong += moe::thread_index() != before;
  });
  CHECK(wrong == 0);
}
