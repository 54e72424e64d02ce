#pragma once
// Products of a layer on the cuda space: the layer of linear.hpp with the CUDA overloads of the operators it calls.
#include <moe/gemm/gemm.cuh>
#include <moe/nn/linear.hpp>
