#!/usr/bin/env python3
"""PyTorch at the shapes of bench/cuda: reads the lines of `bench_cuda --list`, runs the operators it knows, prints the same lines with "peer".

  build/release/gpu/bench_cuda --list | bench/peers/torch_gpu.py

What each operator is in PyTorch: what its users write, a fused call where there is one. Rules as in bench/cuda: random operands, a flushed cache before
every repetition, CUDA events, the median of at least 30. --device cpu is for trying the program out: its times mean nothing.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

def first_that_runs(*candidates):
    """Of (callable, what it is): versions of torch differ in what they have and in the layouts it takes."""
    for run, what in candidates[:-1]:
        try:
            run()
            return run, what
        except (AttributeError, ImportError, TypeError, RuntimeError, NotImplementedError):
            pass
    return candidates[-1]


DTYPES = {"bf16": torch.bfloat16, "float": torch.float32}


class Cases:
    """One method per operator: (callable to time, what it is)."""

    def __init__(self, device, dtype, shape):
        self.device, self.dtype, self.n = device, dtype, shape

    def rand(self, *size, dtype=None, grad=False):
        x = torch.empty(*size, device=self.device, dtype=torch.float32).uniform_(-1, 1).to(dtype or self.dtype)
        return x.requires_grad_(grad)

    def ids(self, n, below):
        return torch.randint(below, (n,), device=self.device)

    def backward(self, y, inputs):
        """The backward alone of a graph that is kept."""
        g = torch.empty_like(y).uniform_(-1, 1)
        return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)

    def rows(self):
        return self.rand(self.n["rows"], self.n["columns"])

    def fill(self):
        x = self.rows()
        return lambda: x.fill_(0.5), "fill_"

    def copy(self):
        x, y = self.rows(), self.rows()
        return lambda: y.copy_(x), "copy_"

    def add(self):
        x, y = self.rows(), self.rows()
        return lambda: y.add_(x), "add_"

    def topk(self):
        x = self.rand(self.n["tokens"], self.n["experts"])

        def run():
            weight, expert = x.topk(self.n["k"], -1)
            return weight.softmax(-1), expert
        return run, "topk + softmax"

    def plan(self):
        """Choices sorted by expert: order of the slots, token of each row, offsets."""
        n = self.n
        expert = torch.rand(n["tokens"], n["experts"], device=self.device).topk(n["k"], -1)[1]

        def run():
            flat = expert.flatten()
            order = flat.argsort(stable=True)
            return order, order // n["k"], torch.bincount(flat, minlength=n["experts"]).cumsum(0)
        return run

    def make_dispatch(self):
        return self.plan(), "argsort + bincount + cumsum"

    def dispatch(self):
        x, (_, token, _) = self.rand(self.n["tokens"], self.n["d"]), self.plan()()
        return lambda: x.index_select(0, token), "index_select"

    def dispatch_backward(self):
        d_xs, (_, token, _) = self.rand(self.n["tokens"] * self.n["k"], self.n["d"]), self.plan()()
        d_x = torch.zeros(self.n["tokens"], self.n["d"], device=self.device, dtype=self.dtype)
        return lambda: d_x.zero_().index_add_(0, token, d_xs), "index_add_"

    def combined(self, grad):
        n = self.n
        ys, weight = self.rand(n["tokens"] * n["k"], n["d"], grad=grad), self.rand(n["tokens"], 1, n["k"], grad=grad)
        position = self.plan()()[0].argsort()
        return ys, weight, lambda: torch.bmm(weight, ys.index_select(0, position).view(n["tokens"], n["k"], n["d"]))

    def combine(self):
        return self.combined(False)[2], "index_select + bmm"

    def combine_backward(self):
        ys, weight, run = self.combined(True)
        return self.backward(run(), [ys, weight]), "autograd of index_select + bmm"

    def by_group(self):
        """Weights [groups, group, experts], tokens and mixed tokens, group by group already."""
        n = self.n
        groups = n["tokens"] // n["group"]
        sizes = ((n["group"], n["experts"]), (n["group"], n.get("d", 1)), (n["experts"], n.get("d", 1)))
        return [self.rand(groups, *size) for size in sizes]

    def group_softmax(self):
        weight, _, _ = self.by_group()
        return lambda: weight.softmax(1), "softmax over a group"

    def mix_tokens(self):
        weight, x, _ = self.by_group()
        return lambda: torch.bmm(weight.transpose(1, 2), x), "bmm"

    def redistribute_tokens(self):
        weight, _, mixed = self.by_group()
        return lambda: torch.bmm(weight, mixed), "bmm"

    def mixing_weight_gradient(self):
        _, x, mixed = self.by_group()
        return lambda: torch.bmm(x, mixed.transpose(1, 2)), "bmm"

    def gemm(self):
        a, b = self.rand(self.n["m"], self.n["k"]), self.rand(self.n["n"], self.n["k"])
        return lambda: F.linear(a, b), "linear"

    def grouped(self):
        n = self.n
        rows = n["tokens"] * n["k"]
        offsets = torch.bincount(self.ids(rows, n["experts"]), minlength=n["experts"]).cumsum(0).to(torch.int32)
        return self.rand(rows, n["in"]), self.rand(n["experts"], n["out"], n["in"]), offsets

    def grouped_gemm(self):
        x, w, offsets = self.grouped()
        parts = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
        return first_that_runs((lambda: torch._grouped_mm(x, w.transpose(-2, -1), offs=offsets), "_grouped_mm"),
                               (lambda: torch.cat([F.linear(part, w[e]) for e, part in enumerate(x.split(parts))]), "a loop of linear, cat"))

    def grouped_gemm_gather(self):
        x, w, offsets = self.grouped()
        rows = x.shape[0]
        x, token = x[: self.n["tokens"]].clone(), self.ids(rows, self.n["tokens"])
        parts = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
        return first_that_runs((lambda: torch._grouped_mm(x.index_select(0, token), w.transpose(-2, -1), offs=offsets), "index_select, _grouped_mm"),
                               (lambda: torch.cat([F.linear(part, w[e]) for e, part in enumerate(x.index_select(0, token).split(parts))]),
                                "index_select, a loop of linear, cat"))

    def grouped_gemm_weight_gradient(self):
        x, _, offsets = self.grouped()
        d_y = self.rand(x.shape[0], self.n["out"])
        parts = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
        return first_that_runs((lambda: torch._grouped_mm(d_y.t(), x, offs=offsets), "_grouped_mm, gradient in bf16"),
                               (lambda: [a.t() @ b for a, b in zip(d_y.split(parts), x.split(parts))], "a loop of matmul, gradient in bf16"))

    def gemm_weight_gradient(self):
        a, b = self.rand(self.n["k"], self.n["m"]), self.rand(self.n["k"], self.n["n"])
        return lambda: a.t() @ b, "matmul, gradient in bf16"

    def attend(self, grad):
        n = self.n
        batch = n["tokens"] // n["seq"]
        q = self.rand(batch, n["heads"], n["seq"], n["d_head"], grad=grad)
        k, v = (self.rand(batch, n["kv_heads"], n["seq"], n["d_head"], grad=grad) for _ in range(2))
        group = n["heads"] // n["kv_heads"]

        plain = lambda: F.scaled_dot_product_attention(q, *(x if group == 1 else x.repeat_interleave(group, 1) for x in (k, v)), is_causal=True)
        groups = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        name = "scaled_dot_product_attention"
        if group == 1:
            return [q, k, v], plain, name
        return ([q, k, v], *first_that_runs((groups, name + "(enable_gqa)"), (plain, "repeat_interleave, " + name)))

    def attention(self):
        return self.attend(False)[1:]

    def attention_backward(self):
        inputs, run, what = self.attend(True)
        return self.backward(run(), inputs), "autograd of " + what

    def norm(self, name, grad):
        n = self.n
        x, w = self.rand(n["tokens"], n["d"], grad=grad), self.rand(n["d"], grad=grad)
        if name == "layer_norm":
            b = self.rand(n["d"], grad=grad)
            return [x, w, b], lambda: F.layer_norm(x, (n["d"],), w, b, 1e-5), "layer_norm"
        if hasattr(F, "rms_norm"):
            return [x, w], lambda: F.rms_norm(x, (n["d"],), w, 1e-5), "rms_norm"

        def composite():
            f = x.float()
            return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * w
        return [x, w], composite, "pow, mean, rsqrt, mul"

    def rms_norm(self):
        return self.norm("rms_norm", False)[1:]

    def layer_norm(self):
        return self.norm("layer_norm", False)[1:]

    def rms_norm_backward(self):
        inputs, run, what = self.norm("rms_norm", True)
        return self.backward(run(), inputs), "autograd of " + what

    def layer_norm_backward(self):
        inputs, run, what = self.norm("layer_norm", True)
        return self.backward(run(), inputs), "autograd of " + what

    def swiglu(self):
        both = self.rand(self.n["rows"], 2 * self.n["columns"])

        def run():
            gate, up = both.chunk(2, -1)
            return F.silu(gate) * up
        return run, "silu * up"

    def swiglu_backward(self):
        both = self.rand(self.n["rows"], 2 * self.n["columns"], grad=True)
        gate, up = both.chunk(2, -1)
        return self.backward(F.silu(gate) * up, [both]), "autograd of silu * up"

    def gelu(self):
        x = self.rows()
        return lambda: F.gelu(x, approximate="tanh"), "gelu"

    def convolved(self, grad):
        """Channels before time, as torch wants it."""
        n = self.n
        x = self.rand(n["batch"], n["channels"], n["length"], grad=grad)
        w, b = self.rand(n["channels"], 1, 4, grad=grad), self.rand(n["channels"], grad=grad)
        plain = lambda: F.silu(F.conv1d(x, w, b, padding=3, groups=n["channels"])[..., :n["length"]])

        def extension():
            from causal_conv1d import causal_conv1d_fn
            return causal_conv1d_fn(x, w[:, 0], b, activation="silu")
        return ([x, w, b], *first_that_runs((extension, "causal_conv1d_fn"), (plain, "conv1d + silu")))

    def causal_conv1d(self):
        return self.convolved(False)[1:]

    def causal_conv1d_backward(self):
        inputs, run, what = self.convolved(True)
        return self.backward(run(), inputs), "autograd of " + what

    def scanned(self, grad):
        """Mamba's extension where it is installed, else the loop over time whose step is compiled."""
        n, states = self.n, 16
        u, delta, z = (self.rand(n["batch"], n["length"], n["channels"], grad=grad) for _ in range(3))
        b, c = (self.rand(n["batch"], n["length"], states, grad=grad) for _ in range(2))
        skip, bias = (self.rand(n["channels"], dtype=torch.float32, grad=grad) for _ in range(2))
        a = -torch.arange(1, states + 1, device=self.device, dtype=torch.float32).repeat(n["channels"], 1).requires_grad_(grad)

        def step(h, u, dt, b, c):
            h = torch.exp(dt[..., None] * a) * h + (dt * u)[..., None] * b[:, None, :]
            return h, (h * c[:, None, :]).sum(-1)

        def loop(step):
            dt, h, ys = F.softplus(delta.float() + bias), torch.zeros(n["batch"], n["channels"], states, device=self.device), []
            for rows in zip(*(x.float().unbind(1) for x in (u, dt, b, c))):
                h, y = step(h, *rows)
                ys.append(y)
            return ((torch.stack(ys, 1) + skip * u) * F.silu(z.float())).to(self.dtype)

        def extension():
            from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
            turned = [x.transpose(1, 2) for x in (u, delta, b, c, z)]
            return selective_scan_fn(*turned[:2], a, *turned[2:4], skip, turned[4], bias, delta_softplus=True)
        compiled = torch.compile(step) if hasattr(torch, "compile") and self.device == "cuda" else step
        return ([u, delta, a, b, c, skip, z, bias], *first_that_runs(
            (extension, "selective_scan_fn"), (lambda: loop(compiled), "a loop over time" + (", its step compiled" if compiled is not step else "")),
            (lambda: loop(step), "a loop over time")))

    def selective_scan(self):
        return self.scanned(False)[1:]

    def selective_scan_backward(self):
        inputs, run, what = self.scanned(True)
        return self.backward(run(), inputs), "autograd of " + what

    def embedding(self):
        token, table = self.ids(self.n["tokens"], self.n["vocab"]), self.rand(self.n["vocab"], self.n["d"])
        return lambda: F.embedding(token, table), "embedding"

    def embedding_backward(self):
        token, table = self.ids(self.n["tokens"], self.n["vocab"]), self.rand(self.n["vocab"], self.n["d"], grad=True)
        return self.backward(F.embedding(token, table), [table]), "autograd of embedding"

    def cross_entropy(self):
        n = self.n
        x, w, target = self.rand(n["tokens"], n["d"], grad=True), self.rand(n["vocab"], n["d"], grad=True), self.ids(n["tokens"], n["vocab"])

        def run():
            return torch.autograd.grad(F.cross_entropy(F.linear(x, w), target, reduction="sum"), [x, w])
        return run, "linear + cross_entropy, forward and backward"

    def rope(self):
        n, d_head = self.n, 128
        x = self.rand(n["tokens"] // n["seq"], n["seq"], n["heads"], d_head)
        angle = torch.outer(torch.arange(n["seq"], device=self.device), 10000.0 ** (-torch.arange(d_head // 2, device=self.device) / (d_head // 2)))
        cos, sin = (torch.cat([f(angle)] * 2, -1).to(self.dtype)[:, None, :] for f in (torch.cos, torch.sin))

        def run():
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin
        return run, "rotate_half"

    def adamw(self):
        w = torch.nn.Parameter(self.rand(self.n["n"]))
        w.grad = self.rand(self.n["n"])
        fused = {"fused": True} if self.device == "cuda" else {}
        return torch.optim.AdamW([w], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, **fused).step, "AdamW(fused)" if fused else "AdamW"

    def global_norm(self):
        g = self.rand(self.n["n"])
        return lambda: torch.linalg.vector_norm(g), "vector_norm"


def times(run, device, seconds, flush):
    """Microseconds of each repetition, ascending."""
    def once():
        flush.fill_(1)
        if device != "cuda":
            start = time.perf_counter()
            run()
            return 1e6 * (time.perf_counter() - start)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        return begin, end
    for _ in range(3):  # warm-up: clocks, and what libraries choose
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    one = max(time.perf_counter() - start, 1e-6)
    count = max(min(int(seconds / one), 100), (30 if one < 0.15 else 5) if seconds > 0 else 2)
    found = []
    while len(found) < count:
        group = [once() for _ in range(min(10, count - len(found)))]
        if device == "cuda":
            torch.cuda.synchronize()
            group = [1e3 * begin.elapsed_time(end) for begin, end in group]
        found += group
    return sorted(found)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--case-seconds", type=float, default=1)
    options = arguments.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch_gpu.py: this torch (" + torch.__version__ + ") has no CUDA device")
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False  # float is float here, as it is in ours
    peer = "torch " + torch.__version__
    flush = torch.empty(1 << (28 if options.device == "cuda" else 12), dtype=torch.uint8, device=options.device)
    stop = time.monotonic() + 60 * options.minutes
    for line in sys.stdin:
        case = json.loads(line)
        if "peer" in case or "operator" not in case:
            continue
        out = {key: case[key] for key in ("operator", "shape", "dtype")}
        out["peer"] = peer
        make = getattr(Cases, case["operator"], None)
        if make is None:
            continue
        if time.monotonic() > stop:
            print(json.dumps({**out, "skipped": "the time was up"}), flush=True)
            continue
        try:
            run, out["what"] = make(Cases(options.device, DTYPES.get(case["dtype"], torch.float32), case["shape"]))
            found = times(run, options.device, options.case_seconds, flush)
            out.update(median_us=round(statistics.median(found), 3), min_us=round(found[0], 3), max_us=round(found[-1], 3), repetitions=len(found))
        except Exception as error:  # a peer that lacks an operator, or memory, is a line of the report
            out["failed"] = (type(error).__name__ + ": " + str(error)).split("\n")[0]
        run = None
        if options.device == "cuda":
            torch.cuda.empty_cache()
        print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
