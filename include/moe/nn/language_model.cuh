#pragma once
// language_model on the cuda space: the layer of language_model.hpp with the CUDA overloads of the operators it calls.
#include <moe/core/elementwise.cuh>
#include <moe/nn/cross_entropy.cuh>
#include <moe/nn/embedding.cuh>
#include <moe/nn/language_model.hpp>
#include <moe/nn/linear.cuh>
#include <moe/nn/rms_norm.cuh>
