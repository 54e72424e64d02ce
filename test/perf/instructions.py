#!/usr/bin/env python3
"""Counts the instructions of the workloads under callgrind, and compares them with the budgets: seconds on a shared machine say nothing about a change of
five per cent, instructions of one thread do, and repeat.

  instructions.py <path of perf_workloads> <compiler and its major version>            fails where a count is over its budget by more than 5 %
  instructions.py <path of perf_workloads> <compiler and its major version> --update   writes budgets.txt anew
"""
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BUDGETS = pathlib.Path(__file__).resolve().parent / "budgets.txt"
TOLERANCE = 0.05
SKIPPED = 77  # what ctest takes for a skipped test


def skip(why):
    print("instructions: skipped, " + why)
    sys.exit(SKIPPED)


def count(program):
    """{workload: (instructions of one call, units, unit)}"""
    lines = subprocess.run([program, "list"], capture_output=True, text=True, check=True).stdout.split("\n")
    units = {name: (int(n), unit) for name, n, unit in (line.split() for line in lines if line)}
    with tempfile.TemporaryDirectory() as folder:
        # Counting is switched on within measured_call, and written to a file of its own at the end of each: one per workload, in order.
        subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--toggle-collect=measured_call",
                        "--dump-after=measured_call", program], capture_output=True, check=True,
                       env={**os.environ, "OMP_NUM_THREADS": "1", "LD_BIND_NOW": "1"})
        texts = [pathlib.Path(file).read_text() for file in glob.glob(folder + "/out*")]
    totals = {int(re.search(r"^part: (\d+)", t, re.MULTILINE)[1]): int(re.search(r"^(?:totals|summary): (\d+)", t, re.MULTILINE)[1])
              for t in texts if "--dump-after=" in t}
    if len(totals) != len(units):
        sys.exit(f"instructions: callgrind reported {len(totals)} calls of {len(units)}")
    return {name: (totals[part], *units[name]) for name, part in zip(units, sorted(totals))}


def budgets():
    """(compiler, {workload: instructions per unit})"""
    lines = [line.split() for line in BUDGETS.read_text().split("\n") if line and not line.startswith("#")]
    return " ".join(lines[0][1:]), {name: float(n) for name, n, *_ in lines[1:]}


def update(compiler, counts):
    head = ("# Instructions per unit of each workload in test/perf/workloads.cpp: one thread, AVX2. A count may be 5 % above. After a change that is\n"
            "# meant: cmake --build <build folder> --target update_instruction_budgets\n")
    rows = [f"{name:<30} {n / units:>10.4f} per {unit}" for name, (n, units, unit) in counts.items()]
    BUDGETS.write_text(head + f"compiler {compiler}\n" + "\n".join(rows) + "\n")
    print(f"instructions: wrote {BUDGETS}")


def main():
    program, compiler = sys.argv[1], sys.argv[2]
    if not shutil.which("valgrind"):
        skip("valgrind was not found (Debian: valgrind)")
    if "--update" in sys.argv:
        return update(compiler, count(program))
    expected, budget = budgets()
    if expected != compiler:
        skip(f"the budgets are for {expected}, this is {compiler}")
    failures = 0
    for name, (n, units, unit) in count(program).items():
        ratio = n / units / budget[name] if name in budget else float("inf")
        verdict = "OVER its budget" if ratio > 1 + TOLERANCE else "below: lower the budget" if ratio < 1 - TOLERANCE else "ok"
        print(f"{name:<30} {n / units:>10.4f} per {unit:<8} {100 * ratio:6.1f} % of the budget, {verdict}")
        failures += ratio > 1 + TOLERANCE
    if failures:
        sys.exit(f"instructions: {failures} over the budget by more than {TOLERANCE:.0%}; if that is meant: cmake --build <build folder> --target "
                 "update_instruction_budgets")


if __name__ == "__main__":
    main()
