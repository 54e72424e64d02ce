"""Tests of scripts/gpu_report without a GPU: programs that fail, hang, lose the device or are missing end no other part, and the report says it."""
import importlib.machinery
import importlib.util
import json
import pathlib
import stat
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("gpu_report", str(ROOT / "scripts/gpu_report"))
gpu_report = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_report", loader))
loader.exec_module(gpu_report)

DEVICE = {"name": "Some GPU", "capability": "9.0", "driver": "1.2", "memory": "1 MiB", "max_sm_clock": "1 MHz", "max_memory_clock": "1 MHz"}
CASE = {"operator": "topk", "shape": {"tokens": 8, "k": 2}, "dtype": "float", "bytes": 1e3, "flops": 0, "limit_us": 1, "share": 0.5, "error": 1e-7, "graph": True,
        "min_us": 1, "max_us": 3, "repetitions": 30}


def script(folder, name, text):
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class GpuReport(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)

    def report(self, *arguments):
        report = gpu_report.Report(gpu_report.options_of(["--no-gpu", "--build", str(self.path), "--out", str(self.path / "out"), *arguments]))
        report.device = dict(DEVICE)
        return report

    def bench(self, text, *arguments):
        return self.report("--bench-program", str(script(self.path, "bench", text)), *arguments)

    def test_every_end_of_a_test_program_has_its_word(self):
        report = self.report()
        report.target_names = lambda: (set(), ["test.gpu." + n for n in ("bad", "good", "missing", "none", "slow")], [])
        script(self.path, "gpu/test.gpu.good", "echo '[doctest] test cases:  3 |  3 passed | 0 failed | 0 skipped'")
        script(self.path, "gpu/test.gpu.bad", "echo 'CHECK( a == b ) is NOT correct'; exit 1")
        script(self.path, "gpu/test.gpu.slow", "sleep 100")
        script(self.path, "gpu/test.gpu.none", "echo 'no CUDA device: none is visible'; exit 77")
        found = {p["name"]: p for p in report.part_tests(4)["programs"]}
        self.assertEqual({n: p["result"] for n, p in found.items()},
                         {"bad": "failed", "good": "passed", "missing": "not built", "none": "no device", "slow": "stopped"})
        self.assertEqual(found["good"]["cases"], 3)
        self.assertIn("NOT correct", found["bad"]["why"])

    def test_a_lost_device_costs_one_case(self):
        text = """if [ "$2" = 0 ]; then echo '{"case": 0, "operator": "a", "shape": {}, "dtype": "float", "failed": "lost"}'; exit 3; fi
echo "{\\"case\\": $2, \\"operator\\": \\"b\\", \\"shape\\": {}, \\"dtype\\": \\"float\\", \\"median_us\\": 1, \\"error\\": NaN}" """
        cases = self.bench(text).part_bench(20)["cases"]
        self.assertEqual([c["operator"] for c in cases], ["a", "b"])

    def test_a_hung_benchmark_keeps_what_it_printed(self):
        report = self.bench("""echo '{"case": 0, "operator": "a", "shape": {}, "dtype": "float", "median_us": 1}'; sleep 100""")
        result = report.part_bench(-13)
        self.assertEqual(len(result["cases"]), 1)
        self.assertIn("time was up", result["stopped"])

    def test_a_part_that_breaks_takes_no_other_along(self):
        report = self.bench("echo no device >&2; exit 1", "--parts", "bench,train,tests")
        report.target_names = lambda: 1 / 0
        self.assertEqual(report.run(), 1)
        self.assertIn("no device", report.results["bench"]["failed"])
        self.assertIn("ZeroDivisionError", report.results["tests"]["failed"])
        self.assertIn("ZeroDivisionError", (self.path / "out/some-gpu.md").read_text())

    def test_parts_of_earlier_runs_stay(self):
        report = self.bench("echo '" + json.dumps({"case": 0, **CASE, "median_us": 2}) + "'", "--parts", "bench")
        report.run()
        report = self.report("--parts", "train")
        report.target_names = lambda: (set(), [], [])
        report.run()
        data = json.loads((self.path / "out/some-gpu.json").read_text())
        self.assertEqual(sorted(data["parts"]), ["bench", "train"])
        self.assertIn("| topk | tokens 8 k 2 | float |", (self.path / "out/some-gpu.md").read_text())

    def test_wins_and_losses(self):
        peer = {key: CASE[key] for key in ("operator", "shape", "dtype")}
        data = {"parts": {"bench": {"cases": [{**CASE, "median_us": 2}, {**peer, "peer": "cuBLAS", "median_us": 1}, {**peer, "peer": "other", "failed": "no memory"}]},
                          "peers": {"cases": [{**peer, "peer": "torch", "what": "topk", "median_us": 6}, {**peer, "shape": {}, "peer": "torch", "median_us": 6}]}}}
        text = "\n".join(gpu_report.peer_section(data))
        self.assertIn("Faster in 1 of 2 comparisons, slower in 1.", text)
        self.assertIn("| 0.50 (slower) |", text)
        self.assertIn("| torch: topk | 2 | 6 | 3.00 |", text)
        self.assertIn("other, topk (tokens 8 k 2, float) failed: no memory", text)

    def test_only_a_passed_test_counts_as_run(self):
        data = {"parts": {"tests": {"programs": [{"name": "routing.topk", "result": "passed"}, {"name": "gemm.gemm", "result": "failed"}]}}}
        self.assertEqual(gpu_report.not_run(data, ["gemm/gemm", "optim/clip", "routing/topk"]), [("gemm/gemm", "failed"), ("optim/clip", "no test was run")])

    def test_wrong_results_are_a_failure(self):
        self.assertTrue(gpu_report.good({"cases": [CASE]}))
        self.assertFalse(gpu_report.good({"cases": [{**CASE, "wrong": True}]}))
        self.assertTrue(gpu_report.good({"cases": [{**CASE, "peer": "torch", "failed": "no memory"}]}))

    def test_time_is_shared_among_the_parts_that_are_left(self):
        report = self.report("--minutes", "9")
        shares = [report.seconds_for(p) for p in report.options.parts]
        self.assertAlmostEqual(shares[0], 530 * 60 / 132, delta=2)
        self.assertAlmostEqual(shares[-1], 530, delta=2)

    def test_frameworks_are_found_in_any_folder(self):
        (self.path / "some/where/doctest").mkdir(parents=True)
        (self.path / "some/where/doctest/doctest.h").write_text("")
        flags = self.report("--frameworks", str(self.path)).frameworks()
        self.assertIn(f"-DMOE_DOCTEST_INCLUDE={(self.path / 'some/where').resolve()}", flags)
        self.assertIn("doctest::doctest", (self.path / "frameworks/doctestConfig.cmake").read_text())

    def test_architectures(self):
        self.assertEqual([gpu_report.architecture_of(c) for c in ("9.0", "8.0", "12.0")], ["90a", "80", "120"])


if __name__ == "__main__":
    unittest.main()
