#include "unit.hpp"

#include <moe/gemm/gemm.hpp>

/// c = a b with small integers, 19 x 23 x 29: every instruction set must find the same.
report UNIT() {
  report r{moe::instruction_set(), moe::machine_has_instruction_set(), {}};
  if (!r.runs_here) return r;
  constexpr int m = 19, k = 23, n = 29;
  std::vector<float> a(m * k), b(k * n);
  for (int i = 0; i < m * k; ++i) a[static_cast<std::size_t>(i)] = static_cast<float>(i % 7 - 3);
  for (int i = 0; i < k * n; ++i) b[static_cast<std::size_t>(i)] = static_cast<float>(i % 5 - 2);
  r.product.assign(m * n, -1.0f);
  moe::cpu const space;
  moe::buffer const memory(moe::gemm_scratch_bytes<float>(space, m, n, k));
  moe::arena scratch(memory);
  moe::gemm(space, moe::mat(a.data(), m, k), moe::mat(b.data(), k, n), moe::mat(r.product.data(), m, n), scratch);
  return r;
}
