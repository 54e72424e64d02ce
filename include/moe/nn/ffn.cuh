#pragma once
// ffn on the cuda space: the layer of ffn.hpp with the CUDA overloads of the operators it calls.
#include <moe/nn/activation.cuh>
#include <moe/nn/ffn.hpp>
#include <moe/nn/hidden_backward.cuh>
#include <moe/nn/linear.cuh>
