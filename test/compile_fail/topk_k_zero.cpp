// must say: topk_config::k must be at least 1
#include <moe/routing/topk.hpp>

void call(moe::matrix_view<float const> logits, moe::tensor<float, moe::dyn, 0> weight, moe::tensor<int, moe::dyn, 0> expert) {
  moe::topk<moe::topk_config{.k = 0}>(moe::cpu{}, logits, weight, expert);
}
