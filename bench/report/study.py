"""What the studies of scripts share: models trained on as many tokens of a text, each with every learning rate of a grid, then with more seeds at its best rate; runs that
are kept, that go on after an interruption, two at a time; speeds in rounds; curves with bands; ranges. A study says its arms, its text, and its page.

A run is a folder <arm>.lr_<rate>.seed_<seed>[.<kind>] of the trainer, and beside it a log, which has its name only when the run has ended.
"""
import argparse
import datetime
import json
import math
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import typing

import svg

ROOT = pathlib.Path(__file__).resolve().parents[2]
DONE = re.compile(r"^held-out bits per byte: ([0-9.]+)", re.MULTILINE)
SPEED_STEPS = (4, 16)  # from, to: the steps of a round that count


class Run(typing.NamedTuple):
    arm: str
    lr: float
    seed: int
    kind: str = ""  # "": of the grid or at the best rate; what else there is, its study says


def processor():
    try:
        names = re.findall(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else "unknown processor"


def rows_of(file):
    lines = file.read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, (float(cell) if cell else math.nan for cell in line.split(",")))) for line in lines[1:]]


def mean_and_range(values, digits):
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def range_text(values, digits):
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def below(one, other):
    """Whether each of `one` lies below each of `other`: ranges that do not touch."""
    return max(one) < min(other)


def steps_to(curve, level):
    """The first step behind which the curve stays at or below the level; None if it does not."""
    reached = None
    for step, value in reversed(curve):
        if not value <= level:  # also where one of them is not a number
            break
        reached = step
    return reached


def smoothed(points, length):
    """Exponential average of (step, value): the last `length` steps have 63 % of the weight."""
    decay, mean, weight, curve = math.exp(-1 / length), 0.0, 0.0, []
    for step, value in points:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + (1 - decay)
        curve.append((step, mean / weight))
    return curve


def band_of(curves, scale=1.0, most=200):
    """(x, mean, lowest, highest) of curves with the same steps, about `most` of these; the last is kept."""
    columns = list(zip(*curves))
    every = max(1, len(columns) // most)
    kept = [c for i, c in enumerate(columns) if (len(columns) - 1 - i) % every == 0]
    return [(c[0][0] * scale, statistics.mean(v for _, v in c), min(v for _, v in c), max(v for _, v in c)) for c in kept]


def counts_of(dry_run):
    """{name: number} of the rows "  name   1,234  note" whose number is a whole one without a unit."""
    rows = re.findall(r"^  (\S.*?) {2,}([0-9,]+)(?:  |$)", dry_run, re.MULTILINE)
    return {name: int(value.replace(",", "")) for name, value in rows}


def comparison(one, values, other, others, digits=4):
    """A few words: whether the ranges of two models, as they are printed, are apart."""
    values, others = ([round(v, digits) for v in list_] for list_ in (values, others))
    relation = "below" if below(values, others) else "above" if below(others, values) else "not apart from"
    return f"{one} ({range_text(values, digits)}) {relation} {other} ({range_text(others, digits)})"


def verdict(claim, one, values, other, others, digits=4):
    """A line of the page: shown if each value lies below each of the others."""
    text = comparison(one, values, other, others, digits)
    return f"- {claim}: {'**shown**' if ') below ' in text else '**not shown**'}: {text}\n"


class Study:
    name = ""  # of the script
    arms = {}  # target: name on the page. The slowest first, so that two runs at a time end together

    def __init__(self, options):
        self.options = options
        self.bin = pathlib.Path(options.build) / "bin"
        self.folder = pathlib.Path(options.runs or ROOT / "runs") / f"{self.name}_study_{options.steps}x{options.batch}x{options.length}"
        self.running = {}

    # What a study says

    def text(self):
        """The file to learn."""
        raise NotImplementedError

    def make_text(self):
        """Makes what text() names, if it is not there; sys.exit says how to get it."""
        raise NotImplementedError

    def more_runs(self):
        """Runs beside those of the grid and of the seeds that can begin now, or have ended."""
        return []

    def more_count(self):
        """How many of these there will be."""
        return 0

    def arguments(self, run):
        """Of a run that begins; `arguments_of` has those of most."""
        return self.arguments_of(run, self.options.steps)

    def needs_checkpoint(self, run):
        """Whether something still reads the weights of this run, which has ended."""
        return False

    def after_training(self):
        """What is computed from the runs' weights."""

    # What is there before anything is trained

    def prepare(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.make_text()
        if not (pathlib.Path(self.options.build) / "CMakeCache.txt").exists():
            subprocess.run(["cmake", "--preset", "release", "-B", self.options.build], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        if subprocess.run(["cmake", "--build", self.options.build, "-j", str(self.options.jobs), "--target", *self.arms], cwd=ROOT).returncode != 0:
            sys.exit(f"{self.name}: the build failed")
        for arm in self.arms:
            self.count(arm)

    def bytes_for(self, bytes_per_token):
        """Of a text of which no run sees a token twice; the trainer holds out the last tenth."""
        return int(self.options.steps * self.options.batch * self.options.length * bytes_per_token / 0.9)

    # Runs

    def place(self, run):
        return self.folder / (f"{run.arm}.lr_{run.lr:g}.seed_{run.seed}" + (f".{run.kind}" if run.kind else ""))

    def log(self, run):
        file = self.place(run).with_name(self.place(run).name + ".log")
        return file.read_text() if file.exists() else None

    def held_out(self, run):
        """Bits per byte at the end; infinite for a run that ended with a loss that was not finite; None where it has not ended."""
        log = self.log(run)
        return None if log is None else float(found[1]) if (found := DONE.search(log)) else math.inf

    def grid(self, arm):
        return [Run(arm, lr, 1) for lr in self.options.lr]

    def best(self, arm):
        """The learning rate of the lowest held-out loss; None while one is missing."""
        return self.lowest(self.grid(arm))

    def lowest(self, runs):
        losses = [self.held_out(run) for run in runs]
        return None if None in losses else runs[losses.index(min(losses))].lr

    def chosen(self, arm):
        best = self.best(arm)
        return [] if best is None else [Run(arm, best, seed) for seed in range(1, self.options.seeds + 1)]

    def wanted(self):
        return [run for arm in self.arms for run in self.grid(arm)] + [run for arm in self.arms for run in self.chosen(arm)[1:]] + self.more_runs()

    def arguments_of(self, run, steps):
        o = self.options
        return ["--steps", steps, "--batch", o.batch, "--length", o.length, "--lr", run.lr, "--seed", run.seed, "--checkpoint-every", max(1, steps // 4)]

    def start(self, run):
        place = self.place(run)
        how = ["--resume"] if list(place.glob("step_*.json")) else self.arguments(run)
        part = open(place.with_name(place.name + ".log.part"), "a")
        command = [self.bin / run.arm, "train", "--data", self.text(), "--out", place, "--threads", self.options.threads, "--no-xz", *how]
        part.write(f"\n$ {' '.join(map(str, command[1:]))}\n")
        part.flush()
        # a session of its own: Ctrl-C reaches it once, by stop(), for a second one would end it at once
        process = subprocess.Popen([str(c) for c in command], cwd=ROOT, stdout=part, stderr=subprocess.STDOUT, start_new_session=True)
        self.running[run] = (process, part, time.monotonic())

    def collect(self):
        for run, (process, part, start) in list(self.running.items()):
            if process.poll() is None:
                continue
            part.close()
            del self.running[run]
            name = pathlib.Path(part.name)
            if process.returncode not in (0, 3):  # 3: the loss was not finite, which is a result
                tail = "\n".join(name.read_text().splitlines()[-5:])
                self.stop()
                sys.exit(f"{self.name}: {self.place(run).name} ended with {process.returncode}\n{tail}")
            name.rename(name.with_suffix(""))
            self.tidy()
            done = sum(self.held_out(r) is not None for r in self.wanted())
            whole = len(self.arms) * (len(self.options.lr) + self.options.seeds - 1) + self.more_count()
            print(f"[{done}/{whole}] {self.arms[run.arm]}, lr {run.lr:g}, seed {run.seed}{run.kind and ', ' + run.kind}: held-out {self.held_out(run)} bits per byte, "
                  f"{time.monotonic() - start:.0f} s", flush=True)

    def tidy(self):
        """The page needs the logs alone."""
        for run in self.wanted():
            if not self.options.keep and self.held_out(run) is not None and not self.needs_checkpoint(run):
                for file in self.place(run).glob("step_*"):
                    file.unlink()

    def stop(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would leave runs that still save
        for process, *_ in self.running.values():
            process.send_signal(signal.SIGINT)
        for process, *_ in self.running.values():
            process.wait()

    def train(self):
        while True:
            for run in self.wanted():
                if len(self.running) < self.options.jobs and run not in self.running and self.held_out(run) is None:
                    self.start(run)
            if not self.running:
                return
            time.sleep(0.1)
            self.collect()

    # Speed, all models within one window, in turn

    def measure_speed(self):
        steps, place = {arm: [] for arm in self.arms}, self.folder / "speed"
        for _ in range(self.options.rounds):
            for arm in self.arms:
                shutil.rmtree(place, ignore_errors=True)
                command = [self.bin / arm, "train", "--data", self.small_text(), "--out", place, "--threads", 2, "--no-xz", "--steps", SPEED_STEPS[1],
                           "--batch", self.options.batch, "--length", self.options.length, "--lr", self.best(arm)]
                subprocess.run([str(c) for c in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                steps[arm] += [row["speed [tokens/s]"] for row in rows_of(place / "log.csv")[SPEED_STEPS[0]:]]
                shutil.rmtree(place)
        medians = {arm: statistics.median(list_) for arm, list_ in steps.items()}
        (self.folder / "speed.json").write_text(json.dumps({"tokens_per_second": medians, "date": datetime.date.today().isoformat(), "processor": processor(),
                                                            "rounds": self.options.rounds}, indent=1) + "\n")

    def count(self, arm):
        """Keeps what the trainer counts of a model, for pages; runs of a model that has changed since are not mixed with new ones."""
        file = self.folder / f"{arm}.dry_run.txt"
        command = [self.bin / arm, "train", "--dry-run", "--batch", self.options.batch, "--length", self.options.length]
        now = subprocess.run([str(c) for c in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        if file.exists() and counts_of(file.read_text()) != counts_of(now):
            sys.exit(f"{self.name}: {arm} is another model than that of the runs in {self.folder}; remove that folder")
        file.write_text(now)

    def dry_run(self, arm):
        """{"router": .., "active per token": .., "FLOPs per token": ..}: what count() has kept."""
        return counts_of(self.counted(arm))

    def counted(self, arm):
        return (self.folder / f"{arm}.dry_run.txt").read_text()

    def small_text(self):
        """The first 400 KB: a tokenizer and windows for a few steps."""
        small = self.folder / "small.txt"
        if not small.exists():
            with open(self.text(), "rb") as file:
                small.write_bytes(file.read(400_000))
        return small

    def speed(self):
        file = self.folder / "speed.json"
        if not file.exists():
            sys.exit(f"{self.name}: speeds are missing; without --report they are measured")
        return json.loads(file.read_text())

    # Curves

    def training_curve(self, run):
        """Bits per byte, averaged exponentially as in papers."""
        rows = [r for r in rows_of(self.place(run) / "log.csv") if r["step"] > 0]
        return smoothed([(int(r["step"]), r["train [bits/byte]"]) for r in rows], self.options.smooth * self.options.steps)

    def held_out_curve(self, run):
        rows = rows_of(self.place(run) / "log.csv")
        return [(int(r["step"]), r["held-out sample [bits/byte]"]) for r in rows if not math.isnan(r["held-out sample [bits/byte]"])]


class Page:
    """What pages have in common; a study's own page says the rest and puts the parts together in body()."""

    def __init__(self, study):
        self.study, self.options, self.out = study, study.options, pathlib.Path(study.options.out)
        self.name, self.arms = study.name, study.arms
        self.curves = {run: study.training_curve(run) for arm in self.arms for run in study.chosen(arm)}
        self.final = {run: curve[-1][1] for run, curve in self.curves.items()}

    def body(self):
        raise NotImplementedError

    def write(self):
        (self.out / self.name).mkdir(parents=True, exist_ok=True)
        (self.out / f"{self.name}.md").write_text(self.body().rstrip("\n") + "\n")
        print(f"{self.name}: wrote {self.out / self.name}.md")

    def draw(self, file, chart, title):
        """Writes a chart; the line of the page that shows it."""
        (self.out / self.name / file).write_text(chart)
        return f"![{title}]({self.name}/{file})\n\n"

    def runs(self, arm):
        return self.study.chosen(arm)

    def held_out(self, arm):
        return [self.study.held_out(run) for run in self.runs(arm)]

    def model(self, arm):
        """Parameters, and those that are active, as the trainer writes them."""
        log = self.study.log(self.study.grid(arm)[0])
        return re.search(r"^model: \S+, ([0-9,]+) parameters, ([0-9,]+) active", log, re.MULTILINE).groups()

    def router_rate(self, arm):
        """Of the rates of the grid, what a router has."""
        found = re.search(r"^  router .* learning rate (\S+) at the peak, where --lr is (\S+)$", self.study.counted(arm), re.MULTILINE)
        return float(found[1]) / float(found[2]) if found else 1.0

    def vocabulary(self):
        """Entries, and bytes per token."""
        return re.search(r"vocabulary ([0-9,]+), ([0-9.]+) bytes", self.study.log(self.study.grid(next(iter(self.arms)))[0])).groups()

    def models(self):
        text = "| model | parameters | active per token |\n|---|---|---|\n"
        for arm in reversed(self.arms):
            text += "| {} | {} | {} |\n".format(self.arms[arm], *self.model(arm))
        return text + "\n"

    def losses(self):
        text = f"## Losses at the end\n\nMean (range) over {self.options.seeds} seeds, bits per byte.\n\n| model | held-out | training, smoothed "
        text += "|\n|---|---|---|\n"
        for arm in reversed(self.arms):
            text += f"| {self.arms[arm]} | {mean_and_range(self.held_out(arm), 4)} | {mean_and_range([self.final[r] for r in self.runs(arm)], 4)} |\n"
        return text + "\n"

    def time_cost(self):
        """A column of steps_table."""
        return "less time, by the speeds below", {arm: 1 / speed for arm, speed in self.study.speed()["tokens_per_second"].items()}

    def steps_table(self, base, arms, costs, with_steps=False):
        """How much earlier an arm reaches the base's last smoothed training loss, seed by seed: in steps, and for each of costs ("less of it", {arm: of a step}).
        Returns the table, and of each arm the times fewer steps; None where a seed does not reach it."""
        total, reached = self.options.steps, {}
        heads = ["model", *(["step: mean (range)"] if with_steps else []), "times fewer steps: mean (range)", "each seed", *(f"times {what}" for what, _ in costs)]
        text = f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n"
        for arm in arms:
            found = [steps_to(self.curves[run], self.final[of_base]) for run, of_base in zip(self.runs(arm), self.runs(base))]
            each = ", ".join("-" if step is None else f"{total / step:.2f}" for step in found)
            reached[arm] = None if None in found else [total / step for step in found]
            if None in found:
                cells = [f"not reached by {found.count(None)} of {len(found)}", each, *("-" for _ in costs)]
            else:
                cells = [mean_and_range(reached[arm], 2), each, *(mean_and_range([r * cost[base] / cost[arm] for r in reached[arm]], 2) for _, cost in costs)]
            if with_steps:
                cells.insert(0, "-" if None in found else mean_and_range(found, 0))
            text += f"| {' | '.join([self.arms[arm], *cells])} |\n"
        return text + "\n", reached

    def band(self, arm, curve_of, scale):
        return band_of([curve_of(run) for run in self.runs(arm)], scale)

    def curve_chart(self, file, title, label, curve_of, scale):
        """scale: of the steps, by arm. What the loss falls from in the first eighth is cut off."""
        series = [(self.arms[arm], self.band(arm, curve_of, scale[arm])) for arm in reversed(self.arms)]
        last = [list_[-1][1] for _, list_ in series]
        start = max(value for arm in self.arms for step, value, *_ in self.band(arm, curve_of, 1.0) if step >= self.options.steps / 8)
        low = min(p[2] for _, list_ in series for p in list_)
        y_range = (low - 0.02 * (start - low), max(start, max(last) + 0.01))
        return self.draw(file, svg.curves(title, label, "bits per byte", series, y_range), title)

    def charts(self):
        speed, per_step = self.study.speed()["tokens_per_second"], self.options.batch * self.options.length
        text = "## Curves\n\nLines: the mean of the seeds. Bands: their range. Wall time: steps by the speeds below, which two threads reach.\n\n"
        for name, title, curve_of in (("training", "Training loss, smoothed", self.curves.get), ("held_out", "Held-out loss (sample)", self.study.held_out_curve)):
            for axis, label, scale in (("steps", "steps", dict.fromkeys(self.arms, 1.0)), ("time", "minutes", {a: per_step / speed[a] / 60 for a in self.arms})):
                text += self.curve_chart(f"{name}_{axis}.svg", f"{title} against {axis}", label, curve_of, scale)
        return text

    def speeds(self, base):
        measured = self.study.speed()
        numbers = {4: "four", 5: "five"}
        text = f"## Speed\n\nTokens per second of training with two threads: medians over {measured['rounds']} rounds in which the "
        text += f"{numbers.get(len(self.arms), len(self.arms))} models took turns ({SPEED_STEPS[1] - SPEED_STEPS[0]} steps each).\n\n"
        text += f"| model | tokens/s | of {self.arms[base]}'s |\n|---|---|---|\n"
        for arm in reversed(self.arms):
            value = measured["tokens_per_second"][arm]
            text += f"| {self.arms[arm]} | {value:,.0f} | {value / measured['tokens_per_second'][base]:.2f} |\n"
        return text + "\n"

    def rates(self):
        rates = self.options.lr
        text = "## Learning rates\n\nHeld-out bits per byte of seed 1.\n\n| model | " + " | ".join(f"{x:g}" for x in rates) + " |\n|---|" + "---|" * len(rates) + "\n"
        edges = []
        for arm in reversed(self.arms):
            best = self.study.best(arm)
            cells = [f"**{self.study.held_out(r):.4f}**" if r.lr == best else f"{self.study.held_out(r):.4f}" for r in self.study.grid(arm)]
            text += f"| {self.arms[arm]} | " + " | ".join(cells) + " |\n"
            edges += [self.arms[arm]] if best in (min(rates), max(rates)) else []
        if edges:
            text += f"\nThe best rate is at an edge of the grid for: {', '.join(edges)}. A wider grid might do better there.\n"
        return text + "\n"


def arguments_of(name, document, steps, batch, length, lr):
    arguments = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=steps)
    arguments.add_argument("--batch", type=int, default=batch, help="sequences of a step")
    arguments.add_argument("--length", type=int, default=length, help="tokens of a sequence")
    arguments.add_argument("--lr", type=float, nargs="+", default=lr, help="the grid, the same for each model")
    arguments.add_argument("--seeds", type=int, default=3, help="at the best rate")
    arguments.add_argument("--smooth", type=float, default=0.02, help="part of the steps that the training loss is averaged over")
    arguments.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments.add_argument("--threads", type=int, default=1, help="of each run; results do not depend on it")
    arguments.add_argument("--rounds", type=int, default=3, help="of the measurement of speed")
    arguments.add_argument("--build", default=ROOT / "build" / "release")
    arguments.add_argument("--runs", help="folder of the runs (default: runs)")
    arguments.add_argument("--out", default=ROOT / "docs" / "results", help=f"folder of {name}.md")
    arguments.add_argument("--keep", action="store_true", help="keep the last checkpoints of finished runs")
    arguments.add_argument("--report", action="store_true", help="no runs, only the page from those that are there")
    arguments.add_argument("--speed", action="store_true", help="measure the speeds again, on a machine that does nothing else, and write the page")
    return arguments


def run(study, page):
    """What a script does. study: made of its options; page: the class of its page."""
    try:
        if not study.options.report:
            study.prepare()
            study.train()
            study.after_training()
            study.tidy()
            if study.options.speed or not (study.folder / "speed.json").exists():
                study.measure_speed()
    except KeyboardInterrupt:
        study.stop()
        sys.exit(f"{study.name}: stopped; the same command goes on from the last checkpoints")
    if any(study.held_out(run) is None for run in study.wanted()):
        sys.exit(f"{study.name}: runs are missing; without --report they are made")
    page(study).write()
