#!/usr/bin/env python3
"""Operators of moe (bench.ops) and of PyTorch (torch_ops.py), in turn, A B A B, between probes of the machine; JSON on stdout.

  torch_compare.py [--pairs n] [--threads n] [--quick] <path of bench.ops> [operator ...]

Both programs stay alive and are asked one after the other, so a pair takes a fraction of a second. A pair whose probe is low, because the threads have
not a core each just now, is taken again, a bounded number of times. Needs a python3 with torch (Debian: python3-torch libopenblas0-openmp).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

GOALS = {  # of the plan: times PyTorch
    "moe_ffn T=4096": 2, "moe_ffn T=512": 3, "moe_ffn forward and backward T=4096": None,
    "attention B=8 L=256 d_head=32": 3.5, "attention B=8 L=256 d_head=64": 3.5, "attention B=4 L=1024 d_head=64": 3.5,
    "attention forward and backward B=8 L=256 d_head=32": 3.5, "attention forward and backward B=4 L=1024 d_head=64": 3.5,
    "routing E=64 k=2": 10, "routing E=64 k=8": 15, "routing and sort E=64 k=2": 10, "routing and sort E=64 k=8": 15,
    "sigmoid and bias E=64 k=2": 10, "sigmoid and bias E=64 k=8": 15, "softmax and bias E=64 k=2": 10, "4 of 8 groups E=64 k=8": 15,
    "expert choice E=64 c=2": 10, "expert choice E=64 c=2 pools of 32": 10, "adamw": 1.7,
    **{f"{op} g={n} E={n}": goal for op in ("mix_tokens", "redistribute_tokens", "mix_tokens forward and backward")
       for n, goal in ((8, 3), (32, 2), (64, 1.5))},
    "causal_conv1d B=4 D=1024 L=2048": 6, "causal_conv1d forward and backward B=4 D=1024 L=2048": 6}
QUICK = ["moe_ffn T=512", "attention B=8 L=256 d_head=32", "routing E=64 k=2"]
FLOOR, RETAKES, SECONDS = 0.9, 6, 0.05


class Program:
    def __init__(self, command, threads):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": str(threads)})

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"torch_compare.py: {self.process.args[0]} ended")
        time.sleep(0.003)  # its threads stop waiting for more work, and leave the cores to the other program
        return answer.strip()

    def seconds(self, operator, calls):
        return float(self.ask(f"{operator}:{calls}"))


def python_with_torch():
    for python in (os.environ.get("PYTHON", "python3"), "/usr/bin/python3"):  # the second is where Debian's package is, behind another python3
        if subprocess.run([python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0:
            return python
    sys.exit("torch_compare.py: no python3 with torch (Debian: python3-torch libopenblas0-openmp): nothing to compare with")


def quartiles(values):
    if len(values) < 2:
        return [values[0]] * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


def compare(operator, moe, torch, pairs):
    calls = [max(1, round(SECONDS / program.seconds(operator, 1))) for program in (moe, torch)]
    ours, theirs, probes, retaken, in_a_row = [], [], [], 0, 0
    while len(ours) < pairs and retaken < pairs * RETAKES:
        before, wanted = map(float, moe.ask("probe").split())
        a, b = moe.seconds(operator, calls[0]), torch.seconds(operator, calls[1])
        after = float(moe.ask("probe").split()[0])
        if min(before, after) >= FLOOR * wanted:
            ours.append(a), theirs.append(b), probes.append((before + after) / 2)
            in_a_row = 0
        else:
            retaken, in_a_row = retaken + 1, in_a_row + 1
            time.sleep(0.02 * 2 ** min(in_a_row, 4))
    result = {"case": operator, "goal": GOALS[operator], "pairs": len(ours), "retaken": retaken, "low": pairs - len(ours)}
    if ours:
        result.update(ours=statistics.median(ours), torch=statistics.median(theirs), ratio=[float(f"{r:.4g}") for r in quartiles([b / a for a, b in zip(ours, theirs)])],
                      probe=statistics.median(probes))
    print(f"{operator}: moe {1e3 * result.get('ours', 0):.3f} ms, torch {1e3 * result.get('torch', 0):.3f} ms, {result.get('ratio')}, {retaken} retaken",
          file=sys.stderr, flush=True)
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("operators", nargs="*")
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    torch = Program([python_with_torch(), pathlib.Path(__file__).resolve().parent / "torch_ops.py", options.threads], options.threads)
    moe = Program([options.program], options.threads)
    version = torch.ask("version")
    cases = [compare(o, moe, torch, options.pairs) for o in options.operators or (QUICK if options.quick else GOALS)]
    print(json.dumps({"torch": version, "threads": options.threads, "cases": cases}))


if __name__ == "__main__":
    main()
