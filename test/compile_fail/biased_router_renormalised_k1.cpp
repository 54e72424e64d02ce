// must say: renormalised with k = 1 every weight is the same and the router's gradient is zero
#include <moe/routing/biased_topk_router.hpp>

int experts_per_token() { return moe::biased_topk_router<moe::biased_topk_config{.k = 1}>::k; }
