#pragma once
// mamba on the cuda space: the layer of mamba.hpp with the CUDA overloads of the operators it calls.
#include <moe/core/elementwise.cuh>
#include <moe/nn/linear.cuh>
#include <moe/nn/mamba.hpp>
#include <moe/ssm/causal_conv1d.cuh>
#include <moe/ssm/decay_rates.cuh>
#include <moe/ssm/selective_scan.cuh>
