#pragma once
// The whole CPU library. A test checks that every public header stands here and that all of them together stay cheap to include.

#include <moe/version.hpp>

#include <moe/core/algorithms.hpp>
#include <moe/core/buffer.hpp>
#include <moe/core/elementwise.hpp>
#include <moe/core/error.hpp>
#include <moe/core/macros.hpp>
#include <moe/core/math.hpp>
#include <moe/core/parallel.hpp>
#include <moe/core/random.hpp>
#include <moe/core/sequence_shape.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/space.hpp>
#include <moe/core/tensor.hpp>
#include <moe/core/token_groups.hpp>
#include <moe/core/types.hpp>

#include <moe/gemm/gemm.hpp>
#include <moe/gemm/grouped_gemm.hpp>
#include <moe/gemm/packed_weights.hpp>

#include <moe/routing/balance.hpp>
#include <moe/routing/balance_config.hpp>
#include <moe/routing/biased_topk.hpp>
#include <moe/routing/biased_topk_router.hpp>
#include <moe/routing/dispatch.hpp>
#include <moe/routing/dispatch_plan.hpp>
#include <moe/routing/expert_choice.hpp>
#include <moe/routing/expert_choice_router.hpp>
#include <moe/routing/jitter.hpp>
#include <moe/routing/load.hpp>
#include <moe/routing/router.hpp>
#include <moe/routing/score_function.hpp>
#include <moe/routing/selection_bias.hpp>
#include <moe/routing/switch_router.hpp>
#include <moe/routing/topk.hpp>
#include <moe/routing/weigh_rows.hpp>

#include <moe/attention/attention.hpp>
#include <moe/attention/rope.hpp>

#include <moe/mix/group_softmax.hpp>
#include <moe/mix/token_mixing.hpp>

#include <moe/ssm/causal_conv1d.hpp>
#include <moe/ssm/decay_rates.hpp>
#include <moe/ssm/selective_scan.hpp>
#include <moe/ssm/selective_scan_operands.hpp>
#include <moe/ssm/sequence_rows.hpp>

#include <moe/nn/activation.hpp>
#include <moe/nn/attention_layer.hpp>
#include <moe/nn/cross_entropy.hpp>
#include <moe/nn/embedding.hpp>
#include <moe/nn/ffn.hpp>
#include <moe/nn/hidden_backward.hpp>
#include <moe/nn/hidden_forward.hpp>
#include <moe/nn/hugging_face.hpp>
#include <moe/nn/language_model.hpp>
#include <moe/nn/layer.hpp>
#include <moe/nn/layer_norm.hpp>
#include <moe/nn/linear.hpp>
#include <moe/nn/mamba.hpp>
#include <moe/nn/mixture_of_tokens_ffn.hpp>
#include <moe/nn/moe_ffn.hpp>
#include <moe/nn/parameter.hpp>
#include <moe/nn/residual.hpp>
#include <moe/nn/rms_norm.hpp>
#include <moe/nn/routers.hpp>
#include <moe/nn/sequence.hpp>

#include <moe/optim/adamw.hpp>
#include <moe/optim/clip.hpp>
#include <moe/optim/group_adamw.hpp>
#include <moe/optim/group_schedule.hpp>
#include <moe/optim/parameter_group.hpp>
#include <moe/optim/rounded_weights.hpp>
#include <moe/optim/schedule.hpp>

#include <moe/data/byte_pairs.hpp>
#include <moe/data/dataset.hpp>
#include <moe/data/tokenizer.hpp>
#include <moe/data/word_split.hpp>

#include <moe/io/atomic_file.hpp>
#include <moe/io/checkpoint.hpp>
#include <moe/io/checksum.hpp>
#include <moe/io/json.hpp>
#include <moe/io/json_writer.hpp>
#include <moe/io/safetensors.hpp>
#include <moe/io/safetensors_writer.hpp>
