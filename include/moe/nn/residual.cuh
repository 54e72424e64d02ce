#pragma once
// residual on the cuda space: the layer of residual.hpp with the CUDA overloads of the operators it calls.
#include <moe/core/elementwise.cuh>
#include <moe/nn/residual.hpp>
#include <moe/nn/rms_norm.cuh>
