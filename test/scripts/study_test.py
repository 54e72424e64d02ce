"""Tests of bench/report/study.py and of the studies made with it: statistics by hand, and each study from end to end with programs that do not train."""
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import math
import pathlib
import random
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "bench" / "report"))
import study  # noqa: E402
import svg  # noqa: E402


def script(name):
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


granularity, mixture_of_tokens, moe_mamba = (script(name) for name in ("granularity", "mixture_of_tokens", "moe_mamba"))


class Statistics(unittest.TestCase):
    def test_mutual_information_by_hand(self):
        self.assertEqual(granularity.mutual_information({"a": [5, 0], "b": [0, 9]}), 1)
        self.assertEqual(granularity.mutual_information({"a": [5, 5], "b": [70, 70]}), 0)
        h = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
        self.assertAlmostEqual(granularity.mutual_information({"a": [3, 1], "b": [10, 30]}), 1 - h, places=14)
        four = {d: [int(e == i) for e in range(4)] for i, d in enumerate("abcd")}
        self.assertEqual(granularity.mutual_information(four), 2)
        self.assertAlmostEqual(granularity.mutual_information({"a": [1, 1, 0, 0], "b": [0, 0, 7, 7]}), 1)  # two experts each: what they tell is the same

    def test_under_chance_is_the_bias_of_independent_choices(self):
        """Of N choices among E experts under D labels: (E - 1) (D - 1) / (2 N ln 2) bits, to first order."""
        draw, experts, size = random.Random(3), 32, 2500
        parts = {}
        for d in "abcd":
            parts[d] = [[0] * experts for _ in range(4)]
            for part in parts[d]:
                for _ in range(size):
                    part[draw.randrange(experts)] += 1
        mean = sum(granularity.under_chance(parts, 100)) / 100
        self.assertAlmostEqual(mean, (experts - 1) * 3 / (2 * 16 * size * math.log(2)), delta=0.15 * mean)
        self.assertAlmostEqual(granularity.mutual_information({d: granularity.added(p) for d, p in parts.items()}), mean, delta=0.5 * mean)

    def test_under_chance_does_not_see_domains(self):
        parts = {d: [[90 if e == i else 1 for e in range(4)] for _ in range(4)] for i, d in enumerate("abcd")}
        self.assertLess(max(granularity.under_chance(parts, 20)), 1e-12)

    def test_lifts_and_order(self):
        lift = granularity.lifts({"a": [2, 0, 0, 6], "b": [2, 6, 0, 0]})
        self.assertEqual(lift, {"a": [0, -math.inf, 0, 1], "b": [0, 1, 0, -math.inf]})
        lift = granularity.lifts({"a": [0, 6, 1, 9], "b": [0, 2, 10, 4]})
        self.assertEqual(granularity.by_domain(lift), [1, 3, 2, 0])

    def test_parts_are_all_of_the_text(self):
        text = b"\n\n".join(b"%03d" % i * 20 for i in range(40))
        parts = granularity.parts_of(text, 4)
        self.assertEqual(b"\n\n".join(parts), text)
        self.assertLess(max(map(len, parts)) - min(map(len, parts)), 130)

    def test_loads_of(self):
        self.assertEqual(granularity.loads_of("layer,expert,tokens\n1,1,4\n1,0,3\n0,0,1\n0,1,2\n"), [[1, 2], [3, 4]])

    def test_steps_to(self):
        curve = [(1, 3.0), (2, 1.0), (3, 2.0), (4, 1.5), (5, 1.0)]
        self.assertEqual(study.steps_to(curve, 1.5), 4)  # step 2 was below it, but did not stay
        self.assertEqual(study.steps_to(curve, 3.0), 1)
        self.assertIsNone(study.steps_to(curve, 0.9))
        self.assertIsNone(study.steps_to(curve[:-1] + [(5, math.nan)], 9.0))

    def test_ranges(self):
        self.assertTrue(study.below([1.0, 1.2], [1.3, 1.4]))
        self.assertFalse(study.below([1.0, 1.3], [1.3, 1.4]))
        self.assertEqual(study.mean_and_range([1.0, 2.0, 4.5], 1), "2.5 (1.0 to 4.5)")
        self.assertEqual(study.comparison("A", [1, 2], "B", [3, 4], 0), "A (1 to 2) below B (3 to 4)")
        self.assertEqual(study.comparison("A", [3, 5], "B", [1, 2], 0), "A (3 to 5) above B (1 to 2)")
        self.assertEqual(study.comparison("A", [1, 3], "B", [2, 4], 0), "A (1 to 3) not apart from B (2 to 4)")

    def test_verdicts_say_what_is_printed(self):
        self.assertEqual(study.verdict("c", "A", [1.0, 1.1], "B", [1.2, 1.3], 1), "- c: **shown**: A (1.0 to 1.1) below B (1.2 to 1.3)\n")
        self.assertIn("**not shown**", study.verdict("c", "A", [1.2, 1.3], "B", [1.0, 1.1], 1))
        self.assertIn("**not shown**", study.verdict("c", "A", [0.99999], "B", [1.00001], 4))  # 1.0000 is not below 1.0000

    def test_smoothed(self):
        self.assertEqual(study.smoothed([(1, 2.0), (2, 2.0)], 5), [(1, 2.0), (2, 2.0)])
        decay = math.exp(-1 / 2)
        self.assertAlmostEqual(study.smoothed([(1, 1.0), (2, 3.0)], 2)[1][1], (decay * 1 + 3) / (decay + 1))

    def test_band_keeps_the_last_step(self):
        band = study.band_of([[(i, float(i)) for i in range(1001)], [(i, i + 2.0) for i in range(1001)]], 0.5, most=10)
        self.assertEqual(band[-1], (500, 1001, 1000, 1002))
        self.assertLess(len(band), 13)

    def test_counts_of_a_dry_run(self):
        text = "parameters\n  router            1,024  learning rate 0.1 at the peak\n  all        30\n  weights     15.0 MiB\n  all     9.0 MiB\n  FLOPs per token    8,309  forward\n"
        self.assertEqual(study.counts_of(text), {"router": 1024, "all": 30, "FLOPs per token": 8309})


class Charts(unittest.TestCase):
    def test_heat_map_draws_each_cell_in_its_shade(self):
        text = svg.heat_map("t & u", "experts", [("layer 0", [("a", [0, 1, -math.inf]), ("b", [2, 5, 0])]), ("layer 1", [("a", [0, 0])])], 2, [(0, "equal")])
        xml.fromstring(text)
        cells = {m[2]: m[1].count("M") for m in re.finditer(r'<path d="([^"]+)" fill="(#\w+)"', text)}
        self.assertEqual(cells, {"#ffffff": 4, svg.shade(0.5): 1, svg.shade(-1): 1, svg.shade(1): 2})

    def test_points_stay_on_the_chart(self):
        for series in ([("", [("G", 1.0, 2.0, 2.0, 2.0)])], [("a", [("", 1, 2, 1, 3), ("", 4, 1, 0, 2)]), ("b", [("", 2, 2, 2, 2)])]):
            text = svg.points("t", "x", "y", series)
            xml.fromstring(text)
            self.assertTrue(all(70 <= float(x) <= 660 and 44 <= float(y) <= 414 for x, y in re.findall(r'<circle cx="([0-9.]+)" cy="([0-9.]+)"', text)))


class EndToEnd(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        (self.path / "bin").mkdir()

    def made(self, module, *arguments):
        """A study whose programs are the fake ones and whose text is there; nothing is built."""
        options = module.options_of(["--steps", "40", "--lr", "4e-3", "8e-3", "1.6e-2", "--rounds", "1", "--build", str(self.path), "--runs", str(self.path / "runs"),
                                     "--out", str(self.path / "out"), *arguments])
        made = module.Study(options)
        for arm in made.arms:
            (self.path / "bin" / arm).write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {ROOT}/test/scripts/fake_trainer.py "$0" "$@"\n')
            (self.path / "bin" / arm).chmod(0o755)
        made.folder.mkdir(parents=True, exist_ok=True)
        made.prepare = lambda: [made.count(arm) for arm in made.arms]
        made.text().parent.mkdir(exist_ok=True)
        made.text().write_bytes(b"some text\n\n" * 100)
        return made

    def calls(self, *words):
        lines = (self.path / "bin/calls.txt").read_text().splitlines()
        return [line for line in lines if all(f" {w}" in line for w in words)]

    def finish(self, module, made):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            study.run(made, module.Page)
        page = self.path / "out" / f"{made.name}.md"
        self.assertNotRegex(page.read_text(), r"\bnan\b|\binf\b|None|\{")
        for chart in re.findall(r"\]\((\S+\.svg)\)", page.read_text()):
            text = (self.path / "out" / chart).read_text()
            xml.fromstring(text)
            self.assertNotRegex(text, r"[\" ,](nan|inf)\b", chart)
        return page.read_text(), printed.getvalue()

    def of_tokens(self, *arguments):
        made = self.made(mixture_of_tokens, *arguments)
        (made.folder / "gcide.txt.json").write_text(json.dumps({"bytes": 1, "package": "p", "version": "1", "seed": 1, "sha256": "s"}))
        return made

    def test_mixture_of_tokens(self):
        made = self.of_tokens()
        page, printed = self.finish(mixture_of_tokens, made)
        # 4 models: 3 rates, 2 more seeds; 3 rates of the transition, 2 more seeds; 3 from the start
        self.assertIn("[28/28]", printed)
        self.assertEqual(len(self.calls("--from")), 5)
        self.assertEqual({re.search(r"--from \S*/([^/ ]+) ", c)[1] for c in self.calls("--from")}, {f"mixture_of_tokens.lr_0.008.seed_{s}" for s in (1, 2, 3)})
        self.assertTrue(all("--steps 5 " in c and "--seed 100" in c for c in self.calls("--from")))
        self.assertEqual(len(self.calls("--steps 45")), 3)
        self.assertIn("**Shown at this scale**", page)
        self.assertIn("a router that chooses has 0.3,", page)
        self.assertIn("| its weights as token choice, before a step | 40 | 3.5000 (3.5000 to 3.5000) |", page)
        self.assertRegex(page, r"the loss rises at the transition, on average by 1\.7\d+: \*\*shown\*\*")
        self.assertIn("better than token choice: **shown**", page)
        self.assertIn("| token choice after the transition | 0.80 | 1.40 | 0.100 |", page)
        self.assertEqual(list(made.folder.glob("*/step_*")), [])  # nothing reads a checkpoint any more
        before = len(self.calls("train"))
        self.assertEqual(self.finish(mixture_of_tokens, made)[0], page)
        self.assertEqual(len(self.calls("train")), before + len(made.arms))  # what is there is kept; only counted again

    def test_a_run_that_was_cut_off_goes_on(self):
        made = self.of_tokens("--seeds", "2")
        cut = made.place(study.Run("mixture_of_tokens_dense", 4e-3, 1))
        cut.mkdir(parents=True)
        (cut / "step_10.json").write_text("40 0.004 1")
        self.finish(mixture_of_tokens, made)
        self.assertEqual(len(self.calls("--resume")), 1)
        self.assertIn(f"--out {cut} ", self.calls("--resume")[0])

    def test_curves_leave_out_what_was_not_measured(self):
        made = self.of_tokens()
        run = study.Run("mixture_of_tokens_moe", 4e-3, 1, "transition")
        made.place(run).mkdir()
        (made.place(run) / "log.csv").write_text("step,train [bits/byte],held-out sample [bits/byte]\n0,,3.5\n1,2.0,\n2,2.0,2.5\n")
        self.assertEqual(made.training_curve(run), [(1, 2.0), (2, 2.0)])
        self.assertEqual(made.held_out_curve(run), [(0, 3.5), (2, 2.5)])

    def test_changed_models_are_not_mixed(self):
        made = self.of_tokens()
        made.prepare()
        (made.folder / "mixture_of_tokens.dry_run.txt").write_text("  router   7\n")
        with self.assertRaises(SystemExit) as error:
            made.prepare()
        self.assertIn("another model", str(error.exception))

    def test_report_alone_needs_runs(self):
        made = self.of_tokens("--report")
        with self.assertRaises(SystemExit) as error:
            study.run(made, mixture_of_tokens.Page)
        self.assertIn("runs are missing", str(error.exception))

    def test_granularity(self):
        made, granularity.SHUFFLES = self.made(granularity, "--seeds", "2"), 10
        domains = {}
        for name in ("dictionary", "kernel", "perl", "bible"):
            (made.text().parent / f"{name}.txt").write_bytes(b"some text\n\n" * 40)
            domains[name] = {"packages": {name: "1"}, "licence": "free", "held_out": {"file": f"{name}.txt", "bytes": 440, "sha256": "s"}}
        (made.text().parent / "manifest.json").write_text(json.dumps({"seed": 1, "train": {"bytes": 1, "sha256": "s"}, "domains": domains}))
        page, printed = self.finish(granularity, made)
        self.assertIn("[20/20]", printed)
        self.assertEqual(len(self.calls("--load")), 5 * 2 * 4 * 4)
        self.assertEqual(len(re.findall(r"G = \d+ better than G = 1 at equal tokens: \*\*shown\*\*", page)), 4)
        counts = {d: [100, 100, 100, 100] for d in domains}
        for d in domains:
            counts[d][zlib.crc32(d.encode()) % 4] = 300
        expected = granularity.mutual_information(counts)
        self.assertIn(f"| G = 1 | 0.000 (0.000 to 0.000) | {expected:.3f} ({expected:.3f} to {expected:.3f}) | 0.0000, 0.0000 |", page)
        self.assertIn("for every G and seed more than by chance: **not shown**", page)  # layer 0 knows nothing
        self.assertEqual(list(made.folder.glob("*/step_*")), [])


if __name__ == "__main__":
    unittest.main()
