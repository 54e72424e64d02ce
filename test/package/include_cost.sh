#!/usr/bin/env bash
# include_cost.sh COMPILER INCLUDE: moe.hpp includes every public header (those in ptx/ are for kernels) and costs a translation unit at most two seconds of the compiler's time
# (processor time, the best of three, so that a busy machine does not fail the test).
set -euo pipefail
compiler=$1 include=$2 limit=2000

missing=$(cd "$include" && find moe -name '*.hpp' ! -path '*/detail/*' ! -path '*/ptx/*' ! -path moe/moe.hpp | LC_ALL=C sort | while read -r header; do
  grep -qxF "#include <$header>" moe/moe.hpp || echo "$header"
done)
if [[ -n $missing ]]; then
  echo "moe.hpp does not include:" $missing
  exit 1
fi

# moe.cuh includes every CUDA header but those that bring CUB, which a user opts in to.
headers=$(cd "$include" && find moe -name '*.cuh' ! -path '*/detail/*' ! -path '*/ptx/*' ! -path moe/moe.cuh | LC_ALL=C sort)
missing=$(cd "$include" && for header in $headers; do
  listed=$(grep -cxF "#include <$header>" moe/moe.cuh || true) brings_cub=$(grep -cxF '#include <moe/core/detail/cub.cuh>' "$header" || true)
  if ((listed == brings_cub)); then ((listed)) && echo "$header (brings CUB, must not stand there)" || echo "$header"; fi
done)
if [[ -n $missing ]]; then
  echo "moe.cuh does not list as it should:" $missing
  exit 1
fi
for header in $(cd "$include" && grep -rlE '^#include <moe/core/algorithms\.cuh>|^#include <(cub|thrust)/' moe); do
  [[ $header == moe/core/detail/cub.cuh ]] || { echo "$header makes others pay for CUB"; exit 1; }
done

compile=("$compiler" -std=c++20 -fopenmp -I"$include" -fsyntax-only -w -x c++ "$include/moe/moe.hpp")
"${compile[@]}"
TIMEFORMAT='%3U %3S' best=
for _ in 1 2 3; do
  read -r user system < <({ time "${compile[@]}"; } 2>&1)
  milliseconds=$((10#${user/./} + 10#${system/./}))
  [[ -n $best && $best -le $milliseconds ]] || best=$milliseconds
done
echo "moe.hpp costs $best ms"
((best <= limit)) || { echo "that is more than $limit ms"; exit 1; }
