#!/usr/bin/env python3
"""Text of four labelled domains for one model to learn, and text of each that is kept apart. Called by mixture.sh, which says what for.

A domain is cut into units (entries, paragraphs, verses). Left out: units with bytes that are not ASCII, units longer than a piece, and those of more than
60 bytes that occurred before, so that no such unit is on both sides. Neighbouring units make pieces of about 4 KB. A piece's place is the SHA-256 of the
seed and its text: the same on any machine. The first pieces of a domain are kept apart, the next are learned: --bytes does not change what is kept apart.
"""
import argparse
import gzip
import hashlib
import json
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
import gcide  # noqa: E402

PIECE, SHORT = 4096, 60
TAG = re.compile(rb" *\[[^\[\]\n]*\b(?:Webster|WordNet|PJC|Century Dict|RDH)\b[^\[\]\n]*\]")
POD_TO_TEXT = "for (@ARGV) { my $p = Pod::Text->new(utf8 => 1); $p->output_fh(*STDOUT); $p->parse_file($_); print qq(\\n) }"

# Package, its version: SHA-256 of the source that docs/results used.
KNOWN = {("dict-gcide", "0.48.5+nmu2"): "802beb667e1fb666203e750f1faea60d5c202ac5430c2083c4180494609f10a7",
         ("linux-doc-6.1", "6.1.192-2"): "f8745134d94a757f3c494660c5f5e77ce063a50952221abfa5c74ee7f6a35b53",
         ("perl-doc", "5.36.0-7+deb12u4"): "26c11becef393f3be3b091766e3627048864be3d04b53677567d9e1ef23ed86a",
         ("bible-kjv", "4.38"): "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"}


def files_of(package, pattern):
    """What the package has installed, whatever else is on the machine."""
    names = subprocess.run(["dpkg", "-L", package], check=True, capture_output=True, text=True).stdout.splitlines()
    files = sorted(name for name in names if re.search(pattern, name) and pathlib.Path(name).is_file())
    if not files:
        sys.exit(f"mixture.py: {package} is installed without its texts; does /etc/dpkg/dpkg.cfg.d exclude /usr/share/doc?")
    return files


def paragraphs(text):
    lines = b"\n".join(line.rstrip() for line in text.splitlines())
    return [p.strip(b"\n") for p in re.split(rb"\n{2,}", lines)]


def dictionary():
    raw, index = (pathlib.Path(name).read_bytes() for name in ("/usr/share/dictd/gcide.dict.dz", "/usr/share/dictd/gcide.index"))
    raw = gzip.decompress(raw)  # dictzip is gzip
    return raw, [TAG.sub(b"", gcide.cleaned(raw[at:at + length])) for at, length in gcide.places(index)]


def kernel():
    files = [f for f in files_of("linux-doc-6.1", r"\.rst\.gz$") if "/translations/" not in f]
    raw = b"\n".join(gzip.decompress(pathlib.Path(f).read_bytes()) for f in files)
    return raw, paragraphs(re.sub(rb"(?m)^.*SPDX-License-Identifier.*$", b"", raw))


def perl():
    raw = subprocess.run(["perl", "-MPod::Text", "-e", POD_TO_TEXT, *files_of("perl-doc", r"\.pod$")], check=True, capture_output=True).stdout
    return raw, paragraphs(raw)


def bible():
    raw = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True, capture_output=True).stdout
    return raw, [verse.partition(b" ")[2] for verse in raw.splitlines()]  # "Ge1:1 In the beginning"


# name: packages, licence, the text as it comes and its units, what is between units
DOMAINS = {"dictionary": (["dict-gcide"], "GPL-2+", dictionary, b"\n\n"),
           "kernel": (["linux-doc-6.1"], "GPL-2 and others, by file", kernel, b"\n\n"),
           "perl": (["perl-doc"], "GPL-1+ or Artistic", perl, b"\n\n"),
           "bible": (["bible-kjv", "bible-kjv-text"], "text: public domain; program: GPL-2+", bible, b"\n")}


def kept(units):
    """Those of use, each long one once."""
    seen = set()
    for unit in units:
        if not unit or not unit.isascii() or len(unit) > PIECE or unit in seen:
            continue
        if len(unit) > SHORT:
            seen.add(unit)
        yield unit


def pieces(units, between):
    """Neighbours together, until one more would make more than PIECE bytes."""
    piece = b""
    for unit in units:
        if piece and len(piece) + len(between) + len(unit) > PIECE:
            yield piece
            piece = b""
        piece = piece + between + unit if piece else unit
    if piece:
        yield piece


def shuffled(parts, seed, purpose):
    return sorted(parts, key=lambda p: hashlib.sha256(b"%d %s\n" % (seed, purpose) + p).digest())


def first_of(parts, limit):
    """As many whole pieces from the start as have at most `limit` bytes, each with the empty line behind it."""
    size, taken = 0, []
    for part in parts:
        size += len(part) + 2
        if size > limit:
            break
        taken.append(part)
    return taken


def text_of(parts):
    return b"".join(part + b"\n\n" for part in parts)


def divided(name, units, between, seed, held_out, learned):
    """(pieces kept apart, pieces to learn) of a domain."""
    order = shuffled(pieces(kept(units), between), seed, name.encode())
    apart = first_of(order, held_out)
    rest = order[len(apart):]
    there = len(text_of(rest))
    if there < learned:
        sys.exit(f"mixture.py: {name} has {there:,} bytes beyond the {held_out:,} that are kept apart, too few for --bytes {learned}")
    return apart, first_of(rest, learned)


def described(text):
    return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def version_of(package):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return found.stdout or "unknown"


def check_source(package, version, digest):
    known = KNOWN.get((package, version))
    if known is None:
        print(f"mixture.py: {package} {version} is not the version that docs/results used: the text, and so the numbers, will differ", file=sys.stderr)
    elif known != digest:
        sys.exit(f"mixture.py: the text of {package} {version} has SHA-256 {digest}, where {known} is known")


def write_mixture(out, seed, held_out, learned, domains=None):
    """The files and the manifest, which is written last. domains: as DOMAINS, for tests."""
    out.mkdir(parents=True, exist_ok=True)
    manifest, all_learned = {"seed": seed, "piece": PIECE, "domains": {}}, []
    for (name, (packages, licence, read, between)), size in zip((domains or DOMAINS).items(), learned):
        raw, units = read()
        versions = {package: version_of(package) for package in packages}
        check_source(packages[0], versions[packages[0]], described(raw)["sha256"])
        apart, learn = divided(name, units, between, seed, held_out, size)
        gcide.write(out / f"{name}.txt", text_of(apart))
        manifest["domains"][name] = {"packages": versions, "licence": licence, "source": described(raw),
                                     "learned": described(text_of(learn)), "held_out": {"file": f"{name}.txt", **described(text_of(apart))}}
        all_learned += learn
    text = text_of(shuffled(all_learned, seed, b"all"))
    manifest["train"] = {"file": "train.txt", **described(text)}
    gcide.write(out / "train.txt", text)
    gcide.write(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--bytes", default="3500000")
    arguments.add_argument("--held-out", type=int, default=200_000)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/data/mixture"))
    options = arguments.parse_args()
    learned = options.bytes.split(",")
    if len(learned) not in (1, len(DOMAINS)) or not all(n.isdigit() for n in learned):
        arguments.error(f"--bytes is {options.bytes}, needs one number, or {len(DOMAINS)} with commas between them")
    learned = [int(n) for n in learned] * (len(DOMAINS) // len(learned))
    manifest = write_mixture(options.out, options.seed, options.held_out, learned)
    for name, domain in manifest["domains"].items():
        print(f"{name}: {domain['learned']['bytes']:,} bytes to learn, {domain['held_out']['bytes']:,} kept apart ({', '.join(domain['packages'])})")
    print(f"{options.out}: {manifest['train']['bytes']:,} bytes to learn, SHA-256 {manifest['train']['sha256']}")


if __name__ == "__main__":
    main()
