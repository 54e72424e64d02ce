#pragma once
#include <moe/routing/dispatch_plan.hpp>

#include "test/support.hpp"

namespace test {
using moe::index_t;

/// A plan and the memory it lies in.
struct planned {
  test::memory<std::byte> memory;
  moe::dispatch_plan plan;

  planned(index_t tokens, index_t k, index_t experts) : memory(bytes(tokens, k, experts), std::byte{0xa5}) {
    moe::arena a(memory.data(), memory.size());
    plan = moe::dispatch_plan::take(a, tokens, k, experts);
  }
  planned(test::array<int> const& expert, index_t experts, index_t capacity, test::space const& execution = test::on())
      : planned(expert.rows(), expert.columns(), experts) {
    test::memory<std::byte> scratch(moe::make_dispatch_scratch_bytes(execution, expert.rows(), experts), std::byte{0xff});
    moe::arena a(scratch.data(), scratch.size());
    moe::make_dispatch(execution, expert.mat(), capacity, plan, a);
    execution.wait();
  }
  /// Rows that the operators ask of a matrix of rows: those of the plan, where the space may look into it.
  index_t rows_needed() const { return on_cuda ? plan.most_rows : plan.rows(); }
  static std::size_t bytes(index_t tokens, index_t k, index_t experts) {
    moe::arena measure;
    moe::dispatch_plan::take(measure, tokens, k, experts);
    return measure.peak();
  }
};

inline array<int> random_experts(index_t tokens, index_t k, index_t experts, std::uint64_t seed) {
  moe::random_stream const random{seed};
  array<int> e(tokens, k, k + 1, 1);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < k; ++j) e(t, j) = static_cast<int>(random.below(std::uint64_t(t * k + j), std::uint64_t(experts)));
  return e;
}

}  // namespace test
