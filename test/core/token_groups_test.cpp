#include <moe/core/token_groups.hpp>

#include <vector>

#include "test/support.hpp"

using moe::index_t;

TEST_CASE("token_groups: neighbouring sequences at one position, every row in one group") {
  for (moe::sequence_shape const n : {moe::sequence_shape{4, 3}, {6, 1}, {1, 5}, {12, 7}, {0, 4}, {4, 0}})
    for (index_t size : {1, 2, 3, 4, 6, 12}) {
      if (n.sequences % size != 0) continue;
      moe::token_groups const groups = moe::groups_of(n, size);
      CHECK(groups.count() * size == n.tokens());
      std::vector<int> seen(static_cast<std::size_t>(n.tokens()));
      for (index_t g = 0; g < groups.count(); ++g)
        for (index_t i = 0; i < size; ++i) {
          index_t const row = groups.row(g, i);
          CHECK(row % n.length == g % n.length);             // the position
          CHECK(row / n.length == g / n.length * size + i);  // the sequence
          CHECK(++seen[static_cast<std::size_t>(row)] == 1);
        }
    }
}

TEST_CASE("token_groups: all tokens in one group") {
  moe::token_groups const all = moe::one_group(5);
  CHECK(all.count() == 1);
  for (index_t i = 0; i < 5; ++i) CHECK(all.row(0, i) == i);
  CHECK(moe::one_group(0).count() == 0);
}

TEST_CASE("token_groups: a batch that makes no whole groups is refused") {
  CHECK(test::error_of([] {
          moe::groups_of({6, 8}, 4);
        }) == "groups_of: 6 sequences do not make whole groups of 4: the batch must be a multiple of the group");
  CHECK(test::error_of([] { moe::groups_of({6, 8}, 0); }) == "groups_of: groups of 0 sequences, needs at least 1");
}
