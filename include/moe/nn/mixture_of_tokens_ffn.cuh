#pragma once
// mixture_of_tokens_ffn on the cuda space: the layer of mixture_of_tokens_ffn.hpp with the CUDA overloads of the operators it calls.
#include <moe/core/elementwise.cuh>
#include <moe/gemm/grouped_gemm.cuh>
#include <moe/mix/group_softmax.cuh>
#include <moe/mix/token_mixing.cuh>
#include <moe/nn/ffn.cuh>
#include <moe/nn/mixture_of_tokens_ffn.hpp>
