// must say: biased_topk_config::kept_groups must be in [1, groups]
#include <moe/routing/biased_topk.hpp>

void call(moe::matrix_view<float const> logits, moe::tensor<float, moe::dyn, 2> weight, moe::tensor<int, moe::dyn, 2> expert) {
  moe::biased_topk<moe::biased_topk_config{.groups = 4, .kept_groups = 5}>(moe::cpu{}, logits, {}, weight, expert);
}
