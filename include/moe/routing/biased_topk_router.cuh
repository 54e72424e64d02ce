#pragma once
// What biased_topk_router.hpp needs in the CUDA space.
#include <moe/routing/biased_topk.cuh>
#include <moe/routing/biased_topk_router.hpp>
#include <moe/routing/router.cuh>
