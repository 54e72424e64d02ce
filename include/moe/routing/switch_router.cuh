#pragma once
// What switch_router.hpp needs in the CUDA space.
#include <moe/routing/router.cuh>
#include <moe/routing/switch_router.hpp>
