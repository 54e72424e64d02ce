#pragma once
// Shapes of products that this library and its peers are timed at.
#include <bench/cuda/bench.hpp>

namespace bench {

using extents = std::vector<extent>;

inline std::vector<extents> const dense_shapes = {
    {{"m", 8192, 33}, {"n", 8192, 40}, {"k", 8192, 24}},
    {{"m", 32768, 33}, {"n", 4096, 40}, {"k", 2048, 24}},
};

/// tokens rows of k choices each; `out` outputs of `in` inputs per expert: the up-projections of published models, gate and up in one.
inline std::vector<extents> const expert_shapes = {
    {{"tokens", 32768, 12}, {"k", 8, 2}, {"experts", 128, 5}, {"in", 2048, 24}, {"out", 1536, 40}},
    {{"tokens", 32768, 12}, {"k", 8, 2}, {"experts", 128, 5}, {"in", 4096, 24}, {"out", 1024, 40}},
    {{"tokens", 24576, 12}, {"k", 8, 2}, {"experts", 128, 5}, {"in", 1536, 24}, {"out", 512, 40}},
};

/// Rows of experts with random loads: each choice names any expert.
struct expert_shape {
  index_t tokens, rows, experts, in, out;
  std::vector<index_t> offsets;
  std::vector<int> token;  ///< of each row

  explicit expert_shape(run& r) : tokens(r["tokens"]), rows(tokens * r["k"]), experts(r["experts"]), in(r["in"]), out(r["out"]) {
    auto const ids = r.ids(rows, experts);
    offsets.assign(static_cast<std::size_t>(experts) + 1, 0);
    for (int const e : ids) ++offsets[static_cast<std::size_t>(e) + 1];
    for (std::size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
    token.resize(ids.size());
    auto next = offsets;
    for (std::size_t i = 0; i < ids.size(); ++i)
      token[static_cast<std::size_t>(next[static_cast<std::size_t>(ids[i])]++)] = static_cast<int>(i) / static_cast<int>(rows / tokens);
  }
  index_t expert_of(index_t row) const {
    index_t e = 0;
    while (offsets[static_cast<std::size_t>(e) + 1] <= row) ++e;
    return e;
  }
  double flops() const { return 2.0 * static_cast<double>(rows) * static_cast<double>(in * out); }
  work forward_work(std::size_t size) const {
    return {.bytes = static_cast<double>(rows * (in + out) + experts * in * out) * static_cast<double>(size), .flops = flops()};
  }
};

/// Checks y[r] = x[r] w[e]^T, or x[gather[r]] w[e]^T, in some rows and columns.
template <class T>
void check_grouped(run& r, expert_shape const& shape, matrix_view<T> const& x, matrix_view<T> const& w, matrix_view<T> const& y,
                   std::vector<int> const& gather) {
  error e;
  for (auto const row : some_rows(shape.rows)) {
    auto const from = r.host_row(x, gather.empty() ? row : gather[static_cast<std::size_t>(row)]), got = r.host_row(y, row);
    for (auto const o : some_rows(shape.out)) e.add(got[static_cast<std::size_t>(o)], dot(from, r.host_row(w, shape.expert_of(row) * shape.out + o)));
  }
  r.check(e);
}

}  // namespace bench
