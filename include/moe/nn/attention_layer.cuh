#pragma once
// attention_layer on the cuda space: the layer of attention_layer.hpp with the CUDA overloads of the operators it calls.
#include <moe/attention/attention.cuh>
#include <moe/attention/rope.cuh>
#include <moe/core/elementwise.cuh>
#include <moe/nn/attention_layer.hpp>
#include <moe/nn/linear.cuh>
