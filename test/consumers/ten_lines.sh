#!/usr/bin/env bash
# ten_lines.sh PROGRAM OUTPUT COMPILER ARGUMENTS...: compiles, runs, and compares what the program prints with the file OUTPUT.
set -euo pipefail
program=$1 output=$2
shift 2
"$@" -o "$program"
"$program" | diff "$output" -
