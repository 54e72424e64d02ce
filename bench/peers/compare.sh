#!/usr/bin/env bash
# Training step of moe and of PyTorch, interleaved: the clock, the memory and the neighbours of a machine change within minutes, a ratio of
# neighbouring runs does not.
#   [PYTHON=python3] bench/peers/compare.sh [-n rounds] [-s steps] [-t threads] [-d fp32|bf16] <path of bench.train_step> [preset ...]
set -euo pipefail
rounds=5 steps=5 threads=$(nproc) dtype=fp32  # of moe; PyTorch always computes in fp32
while getopts n:s:t:d: flag; do
  case $flag in
    n) rounds=$OPTARG ;;
    s) steps=$OPTARG ;;
    t) threads=$OPTARG ;;
    d) dtype=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[[ $# -ge 1 && -x $1 ]] || { echo "compare.sh: give the path of bench.train_step (cmake --build build/release --target bench.train_step)" >&2; exit 2; }
train_step=$1
shift
torch_step=$(dirname "${BASH_SOURCE[0]}")/torch_step.py
python=${PYTHON:-python3}
"$python" -c 'import torch' 2>/dev/null || python=/usr/bin/python3  # where Debian's package is, behind another python3
"$python" -c 'import torch' 2>/dev/null || { echo "compare.sh: python3 with torch was not found (Debian: python3-torch libopenblas0-openmp): nothing to compare with" >&2; exit 1; }

lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
for ((round = 1; round <= rounds; ++round)); do
  "$train_step" --steps "$steps" --threads "$threads" --dtype "$dtype" "$@" | sed "s/^{/moe {/" | tee -a "$lines"
  "$python" "$torch_step" --steps "$steps" --threads "$threads" "$@" | sed "s/^{/torch {/" | tee -a "$lines"
done

# Of each preset: the median over the rounds of both, their ratio, and the ratio of the best steps.
sed -nE 's/^(moe|torch) .*"preset": "([^"]+)".*"tokens_per_second_median": ([0-9.]+), "tokens_per_second_best": ([0-9.]+).*/\2 \1 \3 \4/p' "$lines" |
  sort -k1,2 -k3,3n | awk '
    { key = $1 " " $2; if (!($1 in seen)) { seen[$1]; name[++names] = $1 } value[key, ++n[key]] = $3; if ($4 > best[key]) best[key] = $4 }
    function median(key) { return (value[key, int((n[key] + 1) / 2)] + value[key, int(n[key] / 2) + 1]) / 2 }
    END {
      for (i = 1; i <= names; ++i) {
        a = name[i] " moe"; b = name[i] " torch"
        printf "%s: moe %.0f, torch %.0f tokens/s (medians of %d rounds): %.2fx; best steps %.0f, %.0f: %.2fx\n", name[i], median(a), median(b), n[a], median(a) / median(b), best[a], best[b], best[a] / best[b]
      }
    }'
