#include "unit.hpp"

#include <cstdio>
#include <cstring>

int main() {
  report const first = plain();
  std::vector<report> reports{first, native()};
#if defined(HAS_AVX2)
  reports.push_back(avx512());
  if (std::strcmp(reports.back().instruction_set, "avx512") != 0) return std::puts("units were mixed up"), 1;
  reports.push_back(avx2());
  // Same names would mean that the linker kept one unit's functions for both.
  if (std::strcmp(first.instruction_set, "portable") != 0 || std::strcmp(reports.back().instruction_set, "avx2") != 0) return std::puts("units were mixed up"), 1;
#endif
  for (report const& r : reports) {
    std::printf("%-12s %s\n", r.instruction_set, r.runs_here ? "runs" : "is not what this machine has");
    if (!r.runs_here) continue;
    for (int i = 0; i < 19; ++i)
      for (int j = 0; j < 29; ++j) {
        int sum = 0;
        for (int l = 0; l < 23; ++l) sum += ((i * 23 + l) % 7 - 3) * ((l * 29 + j) % 5 - 2);
        if (r.product[static_cast<std::size_t>(i * 29 + j)] != static_cast<float>(sum)) return std::printf("c[%d, %d] is wrong\n", i, j), 1;
      }
  }
  return 0;
}
