#include <moe/core/detail/counting_sort.cuh>

#include "test/simt/support.hpp"

namespace {
using moe::index_t;

struct key_of {
  moe::vector_view<int const> keys;
  index_t operator()(index_t i) const { return keys(i); }
};

/// Every item to its place by the definition, with one counter per key; keys outside have none.
std::vector<int> places(test::array<int> const& keys, index_t count, index_t limit, std::vector<index_t>& total, std::vector<index_t>& offsets) {
  std::vector<int> rank(std::size_t(keys.size()), -1);
  total.assign(std::size_t(count), 0), offsets.assign(1, 0);
  for (index_t i = 0; i < keys.size(); ++i)
    if (keys(i) >= 0 && keys(i) < count) rank[std::size_t(i)] = int(total[std::size_t(keys(i))]++);
  for (index_t t : total) offsets.push_back(offsets.back() + std::min(t, limit));
  return rank;
}

/// rank_by_key with grids of one block, as if the grid had been cut: its blocks stride over their work.
void rank_in_one_block(key_of key, index_t n, index_t chunk, int* rank, moe::matrix_view<int> table, moe::vector_view<index_t> total) {
  using namespace moe::detail;
  moe::launch("test", rank_kernel<key_of>, {.blocks = 1, .threads = sort_tile, .shared_bytes = sizeof(rank_layout)}, moe::cuda{}, n, chunk, key, rank,
              table);
  moe::launch("test", column_kernel<sort_warps>, {.blocks = 1, .threads = lanes * sort_warps, .shared_bytes = sizeof(column_layout)}, moe::cuda{},
              table, total);
}

void check(index_t n, index_t count, index_t chunk, index_t limit, int spread, bool one_block = false) {
  test::array<int> keys(n), rank(n), table((n + chunk - 1) / chunk, count);
  test::array<index_t> total(count), offsets(count + 1);
  moe::random_stream const random{std::uint64_t(n)};
  for (index_t i = 0; i < n; ++i) keys(i) = int(random.below(std::uint64_t(i), std::uint64_t(spread))) - (spread > count ? 1 : 0);
  moe::cuda const space;
  if (one_block) rank_in_one_block({keys.vec()}, n, chunk, rank.data(), table.mat(), total.vec());
  else moe::detail::rank_by_key("test", space, n, chunk, key_of{keys.vec()}, rank.data(), table.mat(), total.vec());
  moe::detail::offsets_of_keys("test", space, total.vec(), limit, offsets.vec());
  std::vector<index_t> expected_total, expected_offsets;
  auto const expected = places(keys, count, limit, expected_total, expected_offsets);
  CHECK(total.values() == expected_total);
  CHECK(offsets.values() == expected_offsets);
  bool same = true;
  for (index_t i = 0; i < n; ++i)
    same &= expected[std::size_t(i)] < 0 ? rank(i) == -1 : table(i / chunk, keys(i)) + rank(i) == expected[std::size_t(i)];
  CHECK(same);
}
}  // namespace

TEST_CASE("rank_by_key and offsets_of_keys: the places of a stable sort, tiles, chunks and many keys, every schedule") {
  simt::for_each_schedule(
      [] {
        for (index_t n : {0, 1, 255, 256, 257, 1100})
          for (index_t chunk : {64, 256, 520}) {
            check(n, 1, chunk, n + 1, 1);
            check(n, 7, chunk, 20, 7);
            check(n, 33, chunk, n + 1, 40);  // some keys lie outside
          }
        check(700, 600, 512, 2, 600);
        check(700, 100, 64, 9, 100, true);
        return 0;
      },
      [](auto const&, int) {});
  check(3000, 1100, 64, 1, 1100);
}
