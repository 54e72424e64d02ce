"""Tests of examples/data/mixture without its packages: what is cut, left out and kept apart, on a few made units; and what mixture.sh says where they are missing."""
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "examples" / "data"))
import mixture  # noqa: E402


def made(name, count):
    """A domain of `count` paragraphs of 200 bytes, each of its own, with a short heading before each."""
    units = [u for i in range(count) for u in (b"NOTES", b"%s %06d " % (name.encode(), i) * (200 // (len(name) + 8)))]
    return [name + "-doc"], "none", lambda: (b"\n\n".join(units), units), b"\n\n"


class Mixture(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = pathlib.Path(self.folder.name)

    def write(self, seed=1, learned=40_000, out="a", **domains):
        with contextlib.redirect_stderr(io.StringIO()):
            manifest = mixture.write_mixture(self.out / out, seed, 10_000, [learned] * 2, domains or {"one": made("one", 400), "two": made("two", 900)})
        return manifest, {f.name: f.read_bytes() for f in (self.out / out).iterdir()}

    def test_units_that_are_left_out(self):
        long, table = b"x" * 61, b"y" * (mixture.PIECE + 1)
        self.assertEqual(list(mixture.kept([b"a", b"", b"caf\xc3\xa9", long, b"a", table, long, b"y" * mixture.PIECE])), [b"a", long, b"a", b"y" * mixture.PIECE])

    def test_pieces_are_neighbours_and_no_longer_than_a_piece(self):
        units = [b"%04d" % i * 100 for i in range(100)]
        found = list(mixture.pieces(units, b"\n"))
        self.assertEqual(b"\n".join(found), b"\n".join(units))
        self.assertTrue(all(mixture.PIECE - 401 < len(piece) <= mixture.PIECE for piece in found[:-1]))
        self.assertEqual(list(mixture.pieces([b"z" * mixture.PIECE] * 2, b"\n")), [b"z" * mixture.PIECE] * 2)
        self.assertEqual(list(mixture.pieces([], b"\n")), [])

    def test_tags_labels_and_paragraphs(self):
        self.assertEqual(mixture.TAG.sub(b"", b"a word. [1913 Webster] [WordNet 1.5 +PJC] [Obs.]"), b"a word. [Obs.]")
        self.assertEqual(mixture.paragraphs(b"one \ntwo\n \n\n  three\n"), [b"one\ntwo", b"  three"])

    def test_nothing_is_both_kept_apart_and_learned(self):
        _, files = self.write()
        learned = set(files["train.txt"].split(b"\n\n"))
        for name in ("one.txt", "two.txt"):
            apart = {u for u in files[name].split(b"\n\n") if len(u) > mixture.SHORT}
            self.assertGreater(len(apart), 30)
            self.assertEqual(apart & learned, set())

    def test_domains_have_equal_bytes_everywhere_in_the_text(self):
        manifest, files = self.write()
        for domain in manifest["domains"].values():
            self.assertLessEqual(domain["learned"]["bytes"], 40_000)
            self.assertGreater(domain["learned"]["bytes"], 40_000 - mixture.PIECE - 2)
        half = files["train.txt"][:len(files["train.txt"]) // 2]
        share = half.count(b"one ") / (half.count(b"one ") + half.count(b"two "))
        self.assertTrue(0.2 < share < 0.8, share)

    def test_seed_decides_the_order_and_size_does_not_change_what_is_kept_apart(self):
        (_, a), (_, same), (_, more), (_, other) = self.write(), self.write(out="b"), self.write(out="c", learned=60_000), self.write(seed=2, out="d")
        self.assertEqual(a, same)
        self.assertEqual(a["one.txt"], more["one.txt"])
        self.assertNotEqual(a["train.txt"], more["train.txt"])
        self.assertNotEqual(a["one.txt"], other["one.txt"])

    def test_manifest_describes_the_files(self):
        manifest, files = self.write()
        self.assertEqual(json.loads(files["manifest.json"]), manifest)
        for entry in [manifest["train"], *(d["held_out"] for d in manifest["domains"].values())]:
            self.assertEqual({k: entry[k] for k in ("bytes", "sha256")}, mixture.described(files[entry["file"]]))

    def test_too_little_text_is_an_error_that_names_the_domain(self):
        with self.assertRaises(SystemExit) as error:
            self.write(one=made("one", 400), small=made("small", 60))
        self.assertRegex(str(error.exception), "small has [0-9,]+ bytes beyond the 10,000 that are kept apart, too few for --bytes 40000")

    def test_a_known_version_with_another_text_is_an_error(self):
        with self.assertRaises(SystemExit):
            mixture.check_source("bible-kjv", "4.38", "0" * 64)

    def test_script_names_what_is_not_installed_and_installs_nothing_unasked(self):
        for name, text in (("dpkg-query", 'case "$*" in *perl-doc*) exit 1 ;; *) printf installed ;; esac'), ("apt-get", "echo called >&2")):
            (self.out / name).write_text("#!/bin/sh\n" + text + "\n")
            (self.out / name).chmod(0o755)
        ended = subprocess.run([ROOT / "examples/data/mixture.sh", "--out", self.out / "x"], capture_output=True, text=True,
                               env={**os.environ, "PATH": f"{self.out}:{os.environ['PATH']}"})
        self.assertEqual(ended.returncode, 1)
        self.assertIn("not installed: perl-doc;", ended.stderr)
        self.assertNotIn("called", ended.stderr)


if __name__ == "__main__":
    unittest.main()
