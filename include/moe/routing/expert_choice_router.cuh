#pragma once
// What expert_choice_router.hpp needs in the CUDA space.
#include <moe/core/elementwise.cuh>
#include <moe/routing/expert_choice.cuh>
#include <moe/routing/expert_choice_router.hpp>
#include <moe/routing/router.cuh>
