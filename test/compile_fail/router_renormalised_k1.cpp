// must say: renormalised with k = 1 every weight is 1 and the router's gradient is zero
#include <moe/routing/router.hpp>

int experts_per_token() { return moe::softmax_topk_router<moe::topk_config{.k = 1, .renormalise = true}>::k; }
