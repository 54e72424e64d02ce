#include <moe/data/dataset.hpp>

#include "test/data/words.hpp"
#include "test/support.hpp"

namespace {
using moe::index_t;
std::vector<int> counting(int n) {
  std::vector<int> v;
  for (int i = 0; i < n; ++i) v.push_back(i);
  return v;
}
}  // namespace

TEST_CASE("split_text: the last tenth from the start of a line") {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i) + "\r\n";
  auto const parts = moe::split_text(text);
  CHECK(std::string(parts.training) + std::string(parts.held_out) == text);
  CHECK(parts.training.back() == '\n');
  CHECK(parts.held_out.substr(0, 5) == "line ");
  CHECK((parts.held_out.size() >= text.size() / 10 && parts.held_out.size() <= text.size() / 10 + 9));
}

TEST_CASE("split_text: without lines, at a whole character; any bytes are kept") {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\xe6\x96\x87";
  for (std::size_t cut = 0; cut < 4; ++cut) {
    std::string const t = std::string(cut, 'x') + text;
    auto const parts = moe::split_text(t);
    CHECK(std::string(parts.training) + std::string(parts.held_out) == t);
    CHECK((parts.held_out.size() >= 30 && parts.held_out.size() <= 32));
    CHECK(parts.held_out.substr(0, 3) == "\xe6\x96\x87");
  }
  for (std::size_t n = 0; n < 60; ++n)
    for (std::string const& t : {test::random_bytes(n, n), std::string(n, '\x80'), std::string(n, '\n')})
      for (double const fraction : {0.0, 0.1, 0.5, 0.99}) {
        auto const parts = moe::split_text(t, fraction);
        CHECK(std::string(parts.training) + std::string(parts.held_out) == t);
        if (fraction == 0.0) CHECK(parts.held_out.empty());
      }
  CHECK(test::contains(test::error_of([] { moe::split_text("x", 1.0); }), "fraction is 1"));
  CHECK(test::contains(test::error_of([] { moe::split_text("x", std::nan("")); }), "fraction is nan"));
}

TEST_CASE("token_windows: random rows depend on seed, step and row only") {
  moe::token_windows const w(counting(1000), 8, "text");
  test::array<int> input(4 * 8), target(4 * 8), part(8), part_target(8);
  w.random_rows(3, 17, 0, input.vec(), target.vec());
  for (index_t i = 0; i < 32; ++i) {
    CHECK(target(i) == input(i) + 1);
    CHECK((input(i) >= 0 && target(i) < 1000));
    if (i % 8 > 0) CHECK(input(i) == input(i - 1) + 1);
  }
  for (index_t r = 0; r < 4; ++r) {
    w.random_rows(3, 17, r, part.vec(), part_target.vec());
    for (index_t i = 0; i < 8; ++i) CHECK(part(i) == input(8 * r + i));
  }
  auto const first = [&](std::uint64_t seed, std::uint32_t step) {
    w.random_rows(seed, step, 0, part.vec(), part_target.vec());
    return part(0);
  };
  CHECK(first(3, 17) == input(0));
  CHECK(first(4, 17) != input(0));
  CHECK(first(3, 18) != input(0));
}

TEST_CASE("token_windows: every window can be drawn, first and last too") {
  moe::token_windows const w(counting(11), 8, "text");  // starts 0, 1, 2
  test::array<int> input(8), target(8);
  bool seen[3] = {};
  for (std::uint32_t step = 0; step < 100; ++step) {
    w.random_rows(1, step, 0, input.vec(), target.vec());
    REQUIRE(input(0) <= 2);
    seen[input(0)] = true;
  }
  CHECK((seen[0] && seen[1] && seen[2]));
}

TEST_CASE("token_windows: consecutive rows have every token but the first as a target, once") {
  for (int const n : {9, 10, 16, 17, 18, 24, 25}) {
    moe::token_windows const w(counting(n), 8, "text");
    std::vector<int> seen(static_cast<std::size_t>(n), 0);
    for (index_t first = 0; first < w.count(); first += 2) {
      test::array<int> input(16), target(16);
      w.consecutive_rows(first, input.vec(), target.vec());
      for (index_t i = 0; i < 16; ++i) {
        if (target(i) >= 0) {
          CHECK(input(i) == target(i) - 1);
          ++seen[static_cast<std::size_t>(target(i))];
        } else {
          CHECK(input(i) == 0);
        }
      }
    }
    CHECK(seen[0] == 0);
    for (std::size_t i = 1; i < seen.size(); ++i) CHECK(seen[i] == 1);
    test::array<int> input(8), target(8);
    w.consecutive_rows(w.count(), input.vec(), target.vec());  // one behind: nothing to predict
    CHECK(target.values() == std::vector<int>(8, -1));
  }
}

TEST_CASE("token_windows: wrong shapes and short texts are errors") {
  CHECK(test::contains(test::error_of([] { moe::token_windows(counting(8), 8, "the text"); }), "the text has 8 tokens, too few for one window of 8"));
  CHECK(test::contains(test::error_of([] { moe::token_windows({}, 8, "the text"); }), "has 0 tokens"));
  CHECK(test::contains(test::error_of([] { moe::token_windows(counting(8), 0, "the text"); }), "a window of 0 tokens"));
  moe::token_windows const w(counting(9), 8, "text");
  test::array<int> a(8), b(16), c(9);
  CHECK(test::contains(test::error_of([&] { w.random_rows(1, 1, 0, a.vec(), b.vec()); }), "input has 8 and target has 16"));
  CHECK(test::contains(test::error_of([&] { w.consecutive_rows(0, c.vec(), c.vec()); }), "whole windows of 8"));
  CHECK(test::contains(test::error_of([&] { w.consecutive_rows(-1, a.vec(), a.vec()); }), "window -1"));
  w.random_rows(1, 1, 0, moe::vector_view<int>(), moe::vector_view<int>());
}

TEST_CASE("make_dataset: parts, bytes and hash of a text") {
  std::string const text = test::made_up_text(20000, 3);
  auto const t = moe::tokenizer::train_bpe(text, 300);
  auto const data = moe::make_dataset(text, t, 16);
  CHECK(t.decode(data.training.tokens()) + t.decode(data.held_out.tokens()) == text);
  auto rest = data.held_out.tokens();
  rest.erase(rest.begin());
  CHECK(data.predicted_bytes == static_cast<index_t>(t.decode(rest).size()));
  CHECK(data.hash == moe::fnv1a(text));
  CHECK(moe::make_dataset(text + " ", t, 16).hash != data.hash);
}

TEST_CASE("make_dataset: empty, short, binary, CRLF and invalid texts train or say why not") {
  moe::tokenizer const bytes;
  CHECK(test::contains(test::error_of([&] { moe::make_dataset("", bytes, 16); }), "the text is empty"));
  CHECK(test::contains(test::error_of([&] { moe::make_dataset("short", bytes, 16); }), "the training text has"));
  CHECK(test::contains(test::error_of([&] { moe::make_dataset(std::string(100, 'x'), bytes, 16); }), "the held-out text has 10 tokens"));
  for (auto const& text : {test::random_bytes(3000), std::string(3000, '\0'), std::string(3000, '\n'), std::string(3000, '\xff')})
    CHECK(moe::make_dataset(text, bytes, 16).held_out.size() >= 300);
}
