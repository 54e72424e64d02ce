"""Tests of scripts/performance without measuring: pages and charts made of a few stored numbers, of some that are missing, and of no peers at all."""
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("performance", str(ROOT / "scripts/performance"))
performance = importlib.util.module_from_spec(importlib.util.spec_from_loader("performance", loader))
loader.exec_module(performance)

LIMITS = {"threads": 2, "madd": 230e9, "madd_one": 116e9, "dot": 460e9, "dot_one": 232e9, "read": 35e9, "copy": 30e9, "triad": 25e9, "read_one": 30e9,
          "copy_one": 27e9, "triad_one": 14e9}
SHAPE = {"tokens": 4096, "k": 2, "in": 512, "out": 512, "experts": 32, "rows": "balanced"}


def pairs(ours, other, count=5):
    return {"ours": ours, "other": other, "ratio": [other / ours, 0.9 * other / ours, 1.1 * other / ours], "probe": 230e9, "peak": 230e9, "pairs": count,
            "retaken": 0, "low": 5 - count}


def record(group, pass_, peers, **more):
    return {"group": group, "pass": pass_, "type": "fp32", "shape": {**SHAPE, **more}, "flops": 4.3e9, "bytes": 1e8, "error": 1e-7, "peers": peers}


def peer(name, seconds, count=5):
    return {"name": name, "error": 1e-7, **pairs(0.02, seconds, count)}


class Performance(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = pathlib.Path(self.folder.name)
        (self.out / "performance").mkdir()

    def store(self, part, **content):
        head = {"date": "2026-01-02", "commit": "abc", "processor": "2 x Some CPU", "system": "Linux", "compiler": "g++ 12", "instruction_set": "avx2"}
        (self.out / "performance" / f"{part}.json").write_text(json.dumps({**head, **content}))

    def page(self):
        performance.report(self.out)
        return (self.out / "performance.md").read_text()

    def test_a_record_is_a_row_with_the_best_peer(self):
        peers = [peer("OpenBLAS in", 0.03), peer("OpenBLAS out", 0.025), peer("oneDNN in", 0.024), peer("oneDNN out", 0.026)]
        self.store("forward", limits=LIMITS, peers={"OpenBLAS": "OpenBLAS 0", "oneDNN": "oneDNN 2"}, records=[record("forward", "forward", peers)])
        page = self.page()
        self.assertIn("| T=4096, ff=512, E=32, balanced | 215 | 93 %, goal 85 met | 179 oneDNN in | 1.20x (1.08-1.32) | 1.08 met | 1.25 | 1.20 |", page)
        self.assertIn("peers: OpenBLAS 0; oneDNN 2", page)
        for name in ("roofline.svg", "share_fp32.svg"):
            self.assertIn(f"(performance/{name})", page)
            xml.parse(self.out / "performance" / name)

    def test_a_missed_goal_is_said(self):
        self.store("forward", limits=LIMITS, records=[record("forward", "forward", [peer("BLIS in", 0.021)])])
        self.assertIn("| 1.08 **missed** |", self.page())

    def test_pairs_that_the_machine_spoilt_are_not_numbers(self):
        self.store("forward", limits=LIMITS, records=[record("forward", "forward", [peer("BLIS in", 0, 0)])])
        self.store("dense", limits=LIMITS, records=[record("dense", "forward", [peer("BLIS", 0.02, 2)], experts=1, k=1)])
        self.assertIn("no three pairs with the machine to itself", self.page())

    def test_no_peers(self):
        self.store("forward", limits={**LIMITS, "dot": 0, "dot_one": 0}, records=[record("forward", "forward", [])])
        self.assertNotIn("bf16 dot product", self.page())

    def test_skew_is_a_ratio_of_times_and_odd_one_of_rates(self):
        base = {"pass": "forward", "type": "fp32", "shape": SHAPE, "flops": 4e9, "bytes": 1e8, "other_shape": SHAPE, "other_flops": 5e9}
        records = [{"group": g, **base, **pairs(0.02, 0.016)} for g in ("skew", "odd", "scaling")]
        self.store("itself", limits=LIMITS, records=records)
        page = self.page()
        self.assertIn("| 1.25 (1.14-1.39) | 1.10 **missed** |", page)
        self.assertIn("| 0.64 (0.58-0.70) | 0.80 **missed** |", page)

    def test_pytorch(self):
        self.store("ops", torch="1", cases=[{"case": "adamw", "goal": 1.7, "pairs": 5, "ours": 0.03, "torch": 0.06, "ratio": [2, 1.9, 2.1]},
                                            {"case": "topk", "goal": 10, "pairs": 0}])
        self.store("step", steps=[{"preset": "twin", "moe": 3000.0, "torch": 1000.0, "rounds": 5, "ratio": 3.0, "goal": 2.4}])
        page = self.page()
        self.assertIn("| adamw | 30 | 60 | 2.00x (1.90-2.10) | 1.70 met |", page)
        self.assertIn("| twin | 3000 | 1000 | 3.00x | 2.40 met |", page)
        self.assertNotIn("topk", page)

    def test_labels_of_bars_keep_apart(self):
        groups = [(f"T={t} ff={f} E={e}", [0.9, 0.5, None, 0.02]) for t in (64, 512, 4096) for f in (256, 2048) for e in (8, 128)]
        text = performance.svg.bars("title", ["moe", "a", "b", "c"], groups)
        places = [(float(x), float(y), t) for x, y, t in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', text)]
        for i, (x1, y1, t1) in enumerate(places):
            for x2, y2, t2 in places[:i]:
                self.assertFalse(abs(y1 - y2) < 9 and abs(x1 - x2) < 6 * min(len(t1), len(t2)), f"{t1} and {t2}")

    def test_no_numbers(self):
        with self.assertRaises(SystemExit):
            performance.report(self.out)


if __name__ == "__main__":
    unittest.main()
