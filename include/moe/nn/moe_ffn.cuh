#pragma once
// moe_ffn on the cuda space: the layer of moe_ffn.hpp with the CUDA overloads of the operators it calls.
#include <moe/core/elementwise.cuh>
#include <moe/gemm/grouped_gemm.cuh>
#include <moe/nn/ffn.cuh>
#include <moe/nn/moe_ffn.hpp>
#include <moe/routing/balance.cuh>
#include <moe/routing/dispatch.cuh>
#include <moe/routing/topk.cuh>
