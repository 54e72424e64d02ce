#!/usr/bin/env python3
"""The entries of a dictd dictionary, shuffled, as one text file, with a manifest beside it. Called by prepare.sh, which says what for.

An entry's place is the SHA-256 of the seed and its text: the same order on any machine, and a cut after N bytes is the beginning of the whole. Lines that
only name an entry's source ("[1913 Webster]") and entries with bytes that are not ASCII (three) are left out.
"""
import argparse
import gzip
import hashlib
import json
import os
import pathlib
import re
import sys

SOURCE = re.compile(rb"^ *\[[^\[\]]*\b(?:Webster|WordNet|PJC|Century Dict|RDH)\b[^\[\]]*\]$")
DIGITS = {c: i for i, c in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
# Version of the package: bytes and SHA-256 of the unpacked dictionary.
KNOWN = {"0.48.5+nmu2": (39952321, "802beb667e1fb666203e750f1faea60d5c202ac5430c2083c4180494609f10a7")}


def number(digits):
    value = 0
    for digit in digits:
        value = 64 * value + DIGITS[digit]
    return value


def places(index):
    """(offset, length) of each entry; several headwords may share one."""
    fields = (line.split(b"\t") for line in index.splitlines())
    return sorted({(number(offset), number(length)) for headword, offset, length, *_ in fields if not headword.startswith(b"00-database")})


def cleaned(entry):
    lines = [line.rstrip() for line in entry.splitlines() if not SOURCE.match(line.rstrip())]
    return re.sub(rb"\n{3,}", b"\n\n", b"\n".join(lines)).strip(b"\n")


def shuffled(entries, seed):
    return sorted(entries, key=lambda e: hashlib.sha256(b"%d\n" % seed + e).digest())


def text_of(entries, limit):
    """Entries with an empty line between them, at most `limit` bytes (0: all)."""
    parts, size = [], 0
    for entry in entries:
        size += len(entry) + 2
        if limit and size > limit:
            break
        parts.append(entry + b"\n\n")
    return b"".join(parts), len(parts)


def write(path, data):
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dictionary", "index", "package", "version", "licence", "out"):
        arguments.add_argument("--" + name, required=True)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--bytes", type=int, default=0)
    options = arguments.parse_args()
    raw = gzip.decompress(pathlib.Path(options.dictionary).read_bytes())  # dictzip is gzip
    digest = hashlib.sha256(raw).hexdigest()
    if options.version in KNOWN and KNOWN[options.version] != (len(raw), digest):
        sys.exit(f"gcide.py: {options.dictionary}: {len(raw)} bytes, SHA-256 {digest}, where {options.package} {options.version} has {KNOWN[options.version]}")
    if options.version not in KNOWN:
        print(f"gcide.py: {options.package} {options.version} is not the version that docs/results used: the text, and so the numbers, will differ", file=sys.stderr)
    entries = [cleaned(raw[at:at + length]) for at, length in places(pathlib.Path(options.index).read_bytes())]
    entries = shuffled({e for e in entries if e.isascii() and e}, options.seed)
    text, count = text_of(entries, options.bytes)
    if len(text) < (options.bytes or 30_000_000) // 2:
        sys.exit(f"gcide.py: {len(text)} bytes of text, which is too few for {options.package}")
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"package": options.package, "version": options.version, "licence": options.licence, "dictionary_bytes": len(raw),
                "dictionary_sha256": digest, "seed": options.seed, "entries": count, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    write(out, text)
    write(out.with_name(out.name + ".json"), (json.dumps(manifest, indent=1) + "\n").encode())
    print(f"{out}: {len(text):,} bytes, {count:,} entries, SHA-256 {manifest['sha256']}")


if __name__ == "__main__":
    main()
