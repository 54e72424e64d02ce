#pragma once
// What router.hpp needs in the CUDA space: softmax_topk_router finds topk and its gradient by the space it is called with.
#include <moe/routing/router.hpp>
#include <moe/routing/topk.cuh>
