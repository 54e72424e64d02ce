#include <cstdio>

#include <moe/gemm/gemm.hpp>
#include <moe/version.hpp>

int main() {
  float const a[] = {1, 2, 3, 4}, b[] = {5, 6, 7, 8};
  float c[4];
  moe::cpu const space;
  moe::buffer const memory(moe::gemm_scratch_bytes<float>(space, 2, 2, 2));
  moe::arena scratch(memory);
  moe::gemm(space, moe::mat(a, 2, 2), moe::mat(b, 2, 2), moe::mat(c, 2, 2), scratch);
  std::printf("moe %d.%d.%d: [[%g %g] [%g %g]]\n", MOE_VERSION_MAJOR, MOE_VERSION_MINOR, MOE_VERSION_PATCH, c[0], c[1], c[2], c[3]);
  return c[0] == 19 && c[1] == 22 && c[2] == 43 && c[3] == 50 ? 0 : 1;
}
