#!/usr/bin/env python3
"""Operators in PyTorch, as a user writes them without an extension, by the names of bench/peers/ops.cpp and with its protocol. See torch_compare.py.

Experts are a loop over index_select, three matrix products, and index_add. Attention is softmax(q k^T + mask) v. Routing is softmax, topk, and a
renormalisation; with a bias, scores, topk of scores + bias, and a gather; groups are topk of the sum of their two best, and a mask; where
experts choose, softmax and topk over the tokens of a pool. Sorting by expert is a stable argsort and a bincount. The convolution has its channels before time, as torch wants it. Mixing is bmm of tokens that lie group by group
already, and writes where it wrote before: the hardest to beat.
"""
import sys
import time

import torch

sys.dont_write_bytecode = True
from torch_step import Sparse, blas  # noqa: E402


def moe_ffn(tokens, backward):
    layer, x, d_y = Sparse(512, 512, 32, 2), torch.rand(1, tokens, 512) * 2 - 1, torch.rand(1, tokens, 512)

    def forward():
        with torch.no_grad():
            layer(x)

    def both():
        for p in layer.parameters():
            p.grad = None
        x.grad = None
        layer(x).backward(d_y)
    x.requires_grad_(backward)
    return both if backward else forward


def attention(batch, length, d_head, backward):
    q, k, v = (torch.rand(batch, 8, length, d_head) * 2 - 1 for _ in range(3))
    mask, d_y = torch.full((length, length), float("-inf")).triu(1), torch.rand(batch, 8, length, d_head)

    def product():
        return torch.softmax(q @ k.transpose(-1, -2) * d_head ** -0.5 + mask, -1) @ v

    def forward():
        with torch.no_grad():
            product()

    def both():
        q.grad = k.grad = v.grad = None
        product().backward(d_y)
    for x in (q, k, v):
        x.requires_grad_(backward)
    return both if backward else forward


def routing(k, sort):
    logits = torch.rand(4096, 64) * 2 - 1

    def call():
        with torch.no_grad():
            weight, expert = torch.softmax(logits, -1).topk(k, -1)
            weight = weight / weight.sum(-1, keepdim=True)
            if sort:
                torch.argsort(expert.flatten(), stable=True), torch.bincount(expert.flatten(), minlength=64)
    return call


def mixing(size, backward=False, back=False):
    groups = 4096 // size
    x, weight, d_mixed = (torch.rand(groups, size, n) * 2 - 1 for n in (512, size, 512))
    out = torch.empty(groups, size, 512)

    def forward():
        with torch.no_grad():
            return torch.bmm(weight if back else weight.transpose(1, 2), x, out=out)

    def both():
        x.grad = weight.grad = None
        torch.bmm(weight.transpose(1, 2), x).backward(d_mixed)
    wanted = torch.einsum("gie,gec->gic" if back else "gie,gic->gec", weight[-1:].double(), x[-1:].double())
    assert (forward()[-1:].double() - wanted).abs().max() < 1e-3
    for v in (x, weight):
        v.requires_grad_(backward)
    return both if backward else forward


def biased_routing(k, score=torch.sigmoid, groups=1, kept=1):
    logits, bias = torch.rand(4096, 64) * 2 - 1, (torch.rand(64) * 2 - 1) * 0.05

    def call():
        with torch.no_grad():
            scores = score(logits)
            candidates = scores + bias
            if kept < groups:
                grouped = candidates.view(-1, groups, 64 // groups)
                best = grouped.topk(2, -1)[0].sum(-1).topk(kept, -1)[1]
                dropped = torch.ones(len(logits), groups, dtype=torch.bool).scatter_(1, best, False)
                candidates = grouped.masked_fill(dropped.unsqueeze(-1), float("-inf")).flatten(1)
            expert = candidates.topk(k, -1)[1]
            weight = scores.gather(1, expert)
            weight / weight.sum(-1, keepdim=True)
    return call


def expert_choice(pool):
    """Two experts a token on average. The lists of the experts are the result; which token has which experts is not written."""
    logits = torch.rand(pool, 4096 // pool, 64) * 2 - 1

    def call():
        with torch.no_grad():
            torch.softmax(logits, -1).topk(max(1, 2 * pool // 64), 0)
    return call


def causal_conv1d(backward):
    batch, channels, length = 4, 1024, 2048
    x, weight, bias = torch.rand(batch, channels, length) * 2 - 1, torch.rand(channels, 1, 4) - 0.5, torch.rand(channels) - 0.5
    d_y = torch.rand(batch, channels, length)

    def convolved():
        return torch.nn.functional.silu(torch.nn.functional.conv1d(x, weight, bias, padding=3, groups=channels)[..., :length])

    def forward():
        with torch.no_grad():
            convolved()

    def both():
        x.grad = weight.grad = bias.grad = None
        convolved().backward(d_y)
    for v in (x, weight, bias):
        v.requires_grad_(backward)
    return both if backward else forward


def adamw():
    weights = torch.nn.Parameter(torch.rand(42_000_000))
    weights.grad = torch.rand(42_000_000) - 0.5
    return torch.optim.AdamW([weights], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, foreach=False).step


OPERATORS = {
    "moe_ffn T=4096": lambda: moe_ffn(4096, False),
    "moe_ffn T=512": lambda: moe_ffn(512, False),
    "moe_ffn forward and backward T=4096": lambda: moe_ffn(4096, True),
    "attention B=8 L=256 d_head=32": lambda: attention(8, 256, 32, False),
    "attention B=8 L=256 d_head=64": lambda: attention(8, 256, 64, False),
    "attention B=4 L=1024 d_head=64": lambda: attention(4, 1024, 64, False),
    "attention forward and backward B=8 L=256 d_head=32": lambda: attention(8, 256, 32, True),
    "attention forward and backward B=4 L=1024 d_head=64": lambda: attention(4, 1024, 64, True),
    "routing E=64 k=2": lambda: routing(2, False),
    "routing E=64 k=8": lambda: routing(8, False),
    "routing and sort E=64 k=2": lambda: routing(2, True),
    "routing and sort E=64 k=8": lambda: routing(8, True),
    "sigmoid and bias E=64 k=2": lambda: biased_routing(2),
    "sigmoid and bias E=64 k=8": lambda: biased_routing(8),
    "softmax and bias E=64 k=2": lambda: biased_routing(2, lambda x: torch.softmax(x, -1)),
    "4 of 8 groups E=64 k=8": lambda: biased_routing(8, groups=8, kept=4),
    "expert choice E=64 c=2": lambda: expert_choice(4096),
    "expert choice E=64 c=2 pools of 32": lambda: expert_choice(32),
    **{f"mix_tokens g={n} E={n}": lambda n=n: mixing(n) for n in (32, 8, 64)},
    **{f"redistribute_tokens g={n} E={n}": lambda n=n: mixing(n, back=True) for n in (32, 8, 64)},
    **{f"mix_tokens forward and backward g={n} E={n}": lambda n=n: mixing(n, backward=True) for n in (32, 8, 64)},
    "causal_conv1d B=4 D=1024 L=2048": lambda: causal_conv1d(False),
    "causal_conv1d forward and backward B=4 D=1024 L=2048": lambda: causal_conv1d(True),
    "adamw": adamw,
}


def main():
    torch.manual_seed(1)
    torch.set_num_threads(int(sys.argv[1]))
    library = blas()
    if library.startswith("blas/libblas"):
        sys.exit("torch_ops.py: torch runs on the reference BLAS (" + library + "), which says nothing about torch; install libopenblas0-openmp")
    current, call = None, None
    for line in sys.stdin:
        name, _, calls = line.strip().partition(":")
        if name == "version":
            print(torch.__version__ + " on " + library, flush=True)
            continue
        if name != current:
            call = None
            call, current = OPERATORS[name](), name
            call()
        start = time.perf_counter()
        for _ in range(int(calls)):
            call()
        print((time.perf_counter() - start) / int(calls), flush=True)


if __name__ == "__main__":
    main()
