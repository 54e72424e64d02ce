#include <bench/support.hpp>
#include <moe/attention/rope.hpp>

namespace {

using namespace moe;

/// Queries of 8 heads of 32, 2048 tokens. The inverse costs the same: it turns the other way.
void rotate(benchmark::State& state) {
  constexpr rope_config turn{.d_head = 32};
  index_t const tokens = 2048, length = 256, width = 8 * turn.d_head;
  bench::operands o(16);
  auto const x = o.mat(tokens, width);
  auto const table = rope_table<float>::take(o.memory(), length, turn.d_head);
  auto const position = o.memory().vec<index_t>(tokens);
  for (index_t t = 0; t < tokens; ++t) position(t) = t % length;
  fill_rope_table<turn>(bench::space(), table);
  auto const elements = static_cast<double>(tokens * width);
  bench::run(state, {.items = static_cast<double>(tokens), .flops = 3 * elements, .bytes = 8 * elements},
             [&] { rope<turn, float>(bench::space(), x, table, position); });
}
BENCHMARK(rotate)->UseRealTime();

}  // namespace
