#!/usr/bin/env python3
"""Training step of the same models in PyTorch on the CPU, for comparison with bench/train_step.

Prints one JSON line per preset: tokens/s of the best and the median step. Needs a python3 with torch (Debian: python3-torch libopenblas0-openmp).
Experts are a loop over index_select, three matrix products, and index_add, and Mamba's scan is a loop over time: what a PyTorch user writes without an
extension.
"""
import argparse
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

PRESETS = {  # vocab, d_model, layers, heads (0: Mamba), d_ff, experts, granularity, batch, length: as in bench/train_step.cpp
    "twin": (8192, 256, 6, 8, 512, 16, 2, 8, 256),
    "twin_dense": (8192, 256, 6, 8, 512, 0, 1, 8, 256),
    "moe_mamba": (8192, 256, 4, 0, 512, 16, 2, 8, 256),
}


class Attention(torch.nn.Module):
    def __init__(self, d, heads, length):
        super().__init__()
        self.heads, self.qkv, self.out = heads, torch.nn.Linear(d, 3 * d, bias=False), torch.nn.Linear(d, d, bias=False)
        half = d // heads // 2
        angle = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1))
        self.register_buffer("sin", torch.cat([angle.sin(), angle.sin()], -1))
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1))

    def rotate(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.heads, d // self.heads).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        q, k = self.rotate(q), self.rotate(k)
        p = torch.softmax(q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5 + self.mask, -1)
        return self.out((p @ v).transpose(1, 2).reshape(b, t, d))


class Mamba(torch.nn.Module):
    def __init__(self, d, state=16, taps=4):
        super().__init__()
        inner, self.rank, self.state, self.taps = 2 * d, -(-d // 16), state, taps
        self.into, self.out = torch.nn.Linear(d, 2 * inner, bias=False), torch.nn.Linear(inner, d, bias=False)
        self.conv = torch.nn.Conv1d(inner, inner, taps, groups=inner, padding=taps - 1)
        self.select, self.step = torch.nn.Linear(inner, self.rank + 2 * state, bias=False), torch.nn.Linear(self.rank, inner)
        self.log_a = torch.nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.skip = torch.nn.Parameter(torch.ones(inner))
        dt = torch.exp(torch.empty(inner).uniform_(-6.9, -2.3))
        with torch.no_grad():
            self.step.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def scan(self, u, dt, b, c):
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.log_a))  # [batch, length, channels, state]
        enters = (dt * u).unsqueeze(-1) * b.unsqueeze(2)
        h, y = torch.zeros_like(decay[:, 0]), []
        for decay_t, enters_t, c_t in zip(decay.unbind(1), enters.unbind(1), c.unbind(1)):
            h = decay_t * h + enters_t
            y.append((h @ c_t.unsqueeze(-1)).squeeze(-1))
        return torch.stack(y, 1)

    def forward(self, x):
        u, z = self.into(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :x.shape[1]].transpose(1, 2))
        r, b, c = self.select(u).split([self.rank, self.state, self.state], -1)
        y = self.scan(u, F.softplus(self.step(r)), b, c) + self.skip * u
        return self.out(y * F.silu(z))


class Dense(torch.nn.Module):
    def __init__(self, d, width):
        super().__init__()
        self.up, self.out = torch.nn.Linear(d, 2 * width, bias=False), torch.nn.Linear(width, d, bias=False)

    def forward(self, x):
        gate, up = self.up(x).chunk(2, -1)
        return self.out(F.silu(gate) * up)


class Sparse(torch.nn.Module):
    def __init__(self, d, width, experts, k):
        super().__init__()
        self.k, self.router = k, torch.nn.Linear(d, experts, bias=False)
        self.experts = torch.nn.ModuleList(Dense(d, width) for _ in range(experts))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        top, index = self.router(flat).topk(self.k, -1)
        weight = torch.softmax(top, -1)
        y = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, choice = (index == e).nonzero(as_tuple=True)
            y = y.index_add(0, token, expert(flat.index_select(0, token)) * weight[token, choice, None])
        return y.view_as(x)


class Norm(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Model(torch.nn.Module):
    def __init__(self, vocab, d, layers, heads, d_ff, experts, granularity, length):
        super().__init__()
        feed_forward = (lambda: Sparse(d, d_ff // granularity, experts * granularity, granularity)) if experts else (lambda: Dense(d, d_ff))
        self.embedding, self.head, self.norm = torch.nn.Embedding(vocab, d), torch.nn.Linear(d, vocab, bias=False), Norm(d)
        mixing = (lambda: Attention(d, heads, length)) if heads else (lambda: Mamba(d))
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleList([Norm(d), mixing(), Norm(d), feed_forward()]) for _ in range(layers))

    def forward(self, token):
        x = self.embedding(token)
        for norm_1, mixing, norm_2, feed_forward in self.blocks:
            x = x + mixing(norm_1(x))
            x = x + feed_forward(norm_2(x))
        return self.head(self.norm(x))


def blas():
    """The BLAS library this process has loaded. Debian's reference BLAS is thirty times slower than OpenBLAS: no peer."""
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    try:
        with open("/proc/self/maps") as maps:
            libraries = {os.path.realpath(line.split()[-1]) for line in maps if "blas" in line.split()[-1].lower()}
    except OSError:
        return "unknown"
    return ", ".join(sorted("/".join(path.split("/")[-2:]) for path in libraries)) or "built in"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("presets", nargs="*", default=list(PRESETS))
    arguments.add_argument("--steps", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    library = blas()
    if library.startswith("blas/libblas"):
        sys.exit("torch_step.py: torch runs on the reference BLAS (" + library + "), which says nothing about torch; install libopenblas0-openmp")
    for name in options.presets:
        *sizes, batch, length = PRESETS[name]
        model = Model(*sizes, length)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        token = torch.randint(sizes[0], (batch, length + 1))
        seconds = []
        for _ in range(options.steps + 2):
            start = time.perf_counter()
            loss = F.cross_entropy(model(token[:, :-1]).flatten(0, 1), token[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            seconds.append(time.perf_counter() - start)
        seconds = sorted(seconds[2:])
        print(json.dumps({"preset": name, "torch": torch.__version__, "blas": library, "threads": options.threads,
                          "parameters": sum(p.numel() for p in model.parameters()),
                          "tokens_per_second_median": round(batch * length / statistics.median(seconds), 1),
                          "tokens_per_second_best": round(batch * length / seconds[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
