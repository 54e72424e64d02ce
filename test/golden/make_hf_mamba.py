#!/usr/bin/env python3
"""Writes test/golden/hf_mamba/: a small Mamba of Hugging Face transformers, initialised at random, and its logits.

model.safetensors   as save_pretrained writes it: the head is tied, so lm_head.weight is absent
logits.safetensors  tokens I32 [2, 40] and the float32 logits [2, 40, 101] of the forward pass over them, on the CPU

The committed files were made with the versions below (Python 3.11, PyTorch 1.13.0a0, transformers 4.45.2, safetensors 0.8.0), seed 20240102:
    python3 test/golden/make_hf_mamba.py
The decay rates, skips, biases and norms are shaken, because those of a new model are alike in every channel: a misplaced one would not show.
"""

import pathlib

import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

SEED = 20240102
folder = pathlib.Path(__file__).resolve().parent / "hf_mamba"

torch.manual_seed(SEED)
torch.set_num_threads(1)
config = MambaConfig(vocab_size=101, hidden_size=48, num_hidden_layers=2, state_size=16, expand=2, conv_kernel=4, time_step_rank="auto",
                     use_bias=False, use_conv_bias=True, layer_norm_epsilon=1e-5, tie_word_embeddings=True, pad_token_id=0, bos_token_id=0,
                     eos_token_id=0)
model = MambaForCausalLM(config).eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        if name.endswith(("A_log", "D", "norm.weight", "norm_f.weight", "bias")):
            p.add_(0.2 * torch.randn(p.shape))
    tokens = torch.randint(0, config.vocab_size, (2, 40))
    logits = model(tokens, use_cache=False).logits

model.save_pretrained(folder, safe_serialization=True)
for extra in ("config.json", "generation_config.json"):
    (folder / extra).unlink(missing_ok=True)
save_file({"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}, folder / "logits.safetensors")
print(f"torch {torch.__version__}, logits: mean square {logits.pow(2).mean():.4f}, largest {logits.abs().max():.4f}")
