#!/usr/bin/env bash
# Text to learn, by package name: the entries of the dictionary GCIDE (Debian: dict-gcide, GPL-2+) in an order that a seed fixes, so that the last tenth,
# which the trainer holds out, is not W to Z. Nothing is downloaded unless --install says so.
#
#   examples/data/prepare.sh [--install] [--seed N] [--bytes N] [--out FILE]
#
#   --install   apt-get install dict-gcide, if it is not installed (as root, or with sudo)
#   --seed N    of the order of the entries (default: 1)
#   --bytes N   as many whole entries as fit (default: all, 35 MB)
#   --out FILE  default: runs/data/gcide.txt; the manifest is beside it, with .json behind its name: package, version, SHA-256, bytes, licence
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
package=dict-gcide licence=GPL-2+ dictionary=/usr/share/dictd/gcide.dict.dz index=/usr/share/dictd/gcide.index
install=no seed=1 bytes=0 out=runs/data/gcide.txt
while (($#)); do
  case $1 in
    --install) install=yes ;;
    --seed) seed=${2:?--seed needs a number} && shift ;;
    --bytes) bytes=${2:?--bytes needs a number} && shift ;;
    --out) out=${2:?--out needs a file} && shift ;;
    *) echo "prepare.sh: unknown argument $1; see the head of the script" >&2 && exit 2 ;;
  esac
  shift
done

if [[ ! -r $dictionary || ! -r $index ]]; then
  if [[ $install == no ]]; then
    echo "prepare.sh: $package is not installed: examples/data/prepare.sh --install (it calls apt-get), or: sudo apt-get install --no-install-recommends $package" >&2
    exit 1
  fi
  sudo=()
  if [[ $(id -u) != 0 ]]; then sudo=(sudo); fi
  "${sudo[@]}" apt-get install -y --no-install-recommends "$package"
fi
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || echo unknown)
python3 "$here/gcide.py" --dictionary "$dictionary" --index "$index" --package "$package" --version "$version" --licence "$licence" \
  --seed "$seed" --bytes "$bytes" --out "$out"
