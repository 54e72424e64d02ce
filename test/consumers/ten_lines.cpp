#include <cstdio>
#include <moe/routing/topk.hpp>

int main() {
  float const logits[] = {0.3f, -1.2f, 2.0f, 0.9f, 1.1f, 0.4f, -0.5f, 3.0f};  // 2 tokens, 4 experts
  float weight[4];
  int expert[4];
  moe::topk(moe::cpu{}, moe::mat(logits, 2, 4), moe::view<moe::dyn, 2>(weight, 2, 2), moe::view<moe::dyn, 2>(expert, 2, 2));
  for (int i = 0; i < 4; ++i) std::printf("token %d: expert %d, weight %.4f\n", i / 2, expert[i], double(weight[i]));
}
