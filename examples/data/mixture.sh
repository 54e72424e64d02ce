#!/usr/bin/env bash
# Text of four labelled domains, by package name: a dictionary, documents of the Linux kernel, documents of Perl, the King James Bible (Debian: dict-gcide,
# linux-doc-6.1, perl-doc, bible-kjv, bible-kjv-text). To see whether experts divide domains among them. Nothing is downloaded unless --install says so.
#
#   examples/data/mixture.sh [--install] [--seed N] [--bytes N | --bytes N,N,N,N] [--held-out N] [--out DIR]
#
#   --install     apt-get install what is not installed (as root, or with sudo)
#   --seed N      of the order of the pieces (default: 1)
#   --bytes N     training text of each domain, or of dictionary, kernel, perl and bible (default: 3500000, about what the Bible has)
#   --held-out N  bytes of each domain that are kept apart (default: 200000)
#   --out DIR     default: runs/data/mixture. train.txt: pieces of all domains in mixed order; <domain>.txt: what was kept apart; manifest.json: packages,
#                 versions, licences, and of each text its bytes and SHA-256
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=(dict-gcide linux-doc-6.1 perl-doc bible-kjv bible-kjv-text)
install=no arguments=() missing=()
for argument; do
  if [[ $argument == --install ]]; then install=yes; else arguments+=("$argument"); fi
done

for package in "${packages[@]}"; do
  if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then missing+=("$package"); fi
done
if ((${#missing[@]})); then
  if [[ $install == no ]]; then
    echo "mixture.sh: not installed: ${missing[*]}; examples/data/mixture.sh --install (it calls apt-get), or:" \
      "sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  sudo=()
  if [[ $(id -u) != 0 ]]; then sudo=(sudo); fi
  "${sudo[@]}" apt-get install -y --no-install-recommends "${missing[@]}"
fi
exec python3 "$here/mixture.py" "${arguments[@]}"
