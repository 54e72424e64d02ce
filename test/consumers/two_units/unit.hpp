#pragma once
#include <vector>

/// What one unit says of itself: the instruction set it was compiled for, whether this machine has it, and a product.
struct report {
  char const* instruction_set;
  bool runs_here;
  std::vector<float> product;
};
report plain();
report native();
report avx2();
report avx512();
