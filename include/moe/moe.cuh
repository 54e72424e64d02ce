#pragma once
// The whole library for the cuda space, and with it the CPU library. A test checks that every CUDA header stands here but those that bring CUB.

#include <moe/moe.hpp>

#include <moe/attention/attention.cuh>
#include <moe/attention/rope.cuh>

#include <moe/core/block.cuh>
#include <moe/core/buffer.cuh>
#include <moe/core/elements.cuh>
#include <moe/core/elementwise.cuh>
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/space.cuh>
#include <moe/core/tensor_map.cuh>
#include <moe/core/vectors.cuh>

#include <moe/gemm/gemm.cuh>
#include <moe/gemm/grouped_gemm.cuh>

#include <moe/mix/group_softmax.cuh>
#include <moe/mix/token_mixing.cuh>

#include <moe/nn/activation.cuh>
#include <moe/nn/attention_layer.cuh>
#include <moe/nn/cross_entropy.cuh>
#include <moe/nn/embedding.cuh>
#include <moe/nn/ffn.cuh>
#include <moe/nn/hidden_backward.cuh>
#include <moe/nn/language_model.cuh>
#include <moe/nn/layer_norm.cuh>
#include <moe/nn/linear.cuh>
#include <moe/nn/mamba.cuh>
#include <moe/nn/mixture_of_tokens_ffn.cuh>
#include <moe/nn/moe_ffn.cuh>
#include <moe/nn/residual.cuh>
#include <moe/nn/rms_norm.cuh>
#include <moe/nn/routers.cuh>

#include <moe/optim/adamw.cuh>
#include <moe/optim/clip.cuh>
#include <moe/optim/group_adamw.cuh>

#include <moe/routing/balance.cuh>
#include <moe/routing/biased_topk.cuh>
#include <moe/routing/biased_topk_router.cuh>
#include <moe/routing/dispatch.cuh>
#include <moe/routing/dispatch_plan.cuh>
#include <moe/routing/expert_choice.cuh>
#include <moe/routing/expert_choice_router.cuh>
#include <moe/routing/jitter.cuh>
#include <moe/routing/router.cuh>
#include <moe/routing/selection_bias.cuh>
#include <moe/routing/switch_router.cuh>
#include <moe/routing/topk.cuh>
#include <moe/routing/weigh_rows.cuh>

#include <moe/ssm/causal_conv1d.cuh>
#include <moe/ssm/decay_rates.cuh>
#include <moe/ssm/selective_scan.cuh>
