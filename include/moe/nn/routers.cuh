#pragma once
// What routers.hpp needs in the CUDA space.
#include <moe/nn/moe_ffn.cuh>
#include <moe/nn/routers.hpp>
#include <moe/routing/jitter.cuh>
#include <moe/routing/selection_bias.cuh>
