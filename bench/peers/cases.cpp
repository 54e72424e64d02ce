#include <bench/peers/cases.hpp>

namespace bench::peers {
namespace {

constexpr index_t d = 512;

/// Tokens, width of an expert, experts: both ways to deal the rows.
std::vector<shape> both(std::vector<std::array<index_t, 3>> const& sizes) {
  std::vector<shape> list;
  for (auto const& [tokens, width, experts] : sizes)
    for (bool zipf : {false, true}) list.push_back({.tokens = tokens, .in = d, .out = width, .experts = experts, .zipf = zipf});
  return list;
}
std::vector<shape> grid() {
  std::vector<std::array<index_t, 3>> sizes;
  for (index_t tokens : {64, 512, 4096})
    for (index_t width : {256, 512, 2048})
      for (index_t experts : {8, 32, 64, 128}) sizes.push_back({tokens, width, experts});
  return both(sizes);
}
std::vector<shape> balanced(std::vector<shape> list) {
  std::erase_if(list, [](shape const& s) { return s.zipf; });
  return list;
}
shape dense(index_t m, index_t n, index_t k) { return {.tokens = m, .in = k, .out = n, .k = 1}; }

}  // namespace

std::vector<shape> dense_shapes(amount a) {
  if (a == amount::quick) return {dense(512, 512, 512)};
  return {dense(512, 512, 512),   dense(1024, 1024, 1024), dense(2048, 2048, 2048), dense(4096, 512, 512),
          dense(4096, 2048, 512), dense(4096, 512, 2048),  dense(64, 2048, 512),    dense(8, 2048, 512)};
}

std::vector<shape> forward_shapes(amount a) {
  if (a == amount::all) return grid();
  if (a == amount::quick) return balanced(both({{512, 512, 32}, {64, 512, 32}}));
  return both({{4096, 256, 64},
               {4096, 512, 32},
               {4096, 512, 128},
               {4096, 2048, 8},
               {512, 256, 64},
               {512, 512, 32},
               {512, 512, 128},
               {512, 2048, 8},
               {64, 256, 64},
               {64, 512, 32},
               {64, 512, 128},
               {64, 2048, 8}});
}

std::vector<shape> backward_shapes(amount a) {
  if (a == amount::all) return grid();
  if (a == amount::quick) return balanced(both({{512, 512, 32}}));
  return balanced(both({{4096, 256, 64},
                        {4096, 512, 32},
                        {4096, 512, 128},
                        {4096, 2048, 8},
                        {512, 256, 64},
                        {512, 512, 128},
                        {512, 2048, 8},
                        {64, 512, 128},
                        {64, 2048, 8}}));
}

std::vector<pair_of_shapes> odd_shapes(amount a) {
  std::vector<pair_of_shapes> list;
  for (index_t tokens : {64, 512, 4096}) {
    if (a == amount::quick && tokens != 512) continue;
    list.push_back(
        {{.tokens = tokens, .in = 384, .out = 344, .experts = 7, .k = 3}, {.tokens = tokens, .in = 384, .out = 352, .experts = 8, .k = 3}});
  }
  return list;
}

std::vector<pair_of_shapes> skew_shapes(amount a) {
  std::vector<shape> const list = forward_shapes(a == amount::quick ? amount::usual : a);
  std::vector<pair_of_shapes> pairs;
  for (std::size_t i = 0; i + 1 < list.size(); i += 2)
    if (a != amount::quick || list[i].tokens == 512) pairs.push_back({list[i + 1], list[i]});
  return pairs;
}

std::vector<shape> scaling_shapes(amount a) {
  std::vector<shape> list = balanced(both({{4096, 512, 32}, {4096, 2048, 8}, {512, 512, 32}, {64, 512, 128}}));
  if (a == amount::quick) list.erase(list.begin(), list.begin() + 2);
  else list.push_back(dense(2048, 2048, 2048));
  return list;
}

}  // namespace bench::peers
