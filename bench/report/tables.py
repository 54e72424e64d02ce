"""docs/performance.md, and the series of its charts, from the JSON of the programs."""
import statistics

import goals

PEERS = ["OpenBLAS", "BLIS", "oneDNN", "Eigen"]


def giga(value, digits=0):
    return f"{value / 1e9:.{digits}f}"


def shape_of(shape):
    if shape["experts"] == 1:
        return f"{shape['tokens'] * shape['k']} x {shape['out']} x {shape['in']}"
    return f"T={shape['tokens']}, ff={shape['out']}, E={shape['experts']}, {shape['rows']}"


LEAST_PAIRS = 3  # fewer, because others had the machine, are no number


def contenders(record):
    return [p for p in record["peers"] if p["pairs"] >= LEAST_PAIRS]


def ours_of(record):
    """(flops/s, share of the peak): medians over the comparisons of a record."""
    if "peers" not in record:
        return record["flops"] / record["ours"], record["flops"] / record["ours"] / record["peak"]
    list_ = contenders(record)
    return tuple(statistics.median(record["flops"] / p["ours"] / (p["peak"] if share else 1) for p in list_) for share in (False, True))


def best_of(record, name=""):
    """The fastest contender (of one library, in or out), or None."""
    return min((p for p in contenders(record) if p["name"].startswith(name)), key=lambda p: p["ratio"][0], default=None)


def mark(value, goal, digits=2, at_most=False):
    if goal is None:
        return ""
    met = value <= goal if at_most else value >= goal
    return f"{goal:.{digits}f} {'met' if met else '**missed**'}"


def percent(value, goal):
    if goal is None:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.0f} %, goal {100 * goal:.0f} {'met' if value >= goal else '**missed**'}"


def spread(ratio):
    return f"{ratio[0]:.2f}x ({ratio[1]:.2f}-{ratio[2]:.2f})"


def table(head, rows):
    if not rows:
        return ""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n\n"


def against_peers(records):
    """Rows of a record each: ours, its share, the best peer, the ratio and its goal, then the ratio to each library."""
    names = [n for n in PEERS if any(best_of(r, n) for r in records)]
    rows = []
    for record in records:
        if not contenders(record):
            rows.append([shape_of(record["shape"]), "no three pairs with the machine to itself"] + [""] * (4 + len(names)))
            continue
        rate, share = ours_of(record)
        best = best_of(record)
        goal = mark(best["ratio"][0], goals.ratio(record)) if len(contenders(record)) == len(record["peers"]) else "not all peers had three pairs"
        row = [shape_of(record["shape"]), giga(rate), percent(share, goals.share(record)), f"{giga(record['flops'] / best['other'])} {best['name']}",
               spread(best["ratio"]), goal]
        rows.append(row + [f"{p['ratio'][0]:.2f}" if (p := best_of(record, n)) else "" for n in names])
    return table(["shape", "moe GFLOP/s", "of the peak", "best peer", "moe is", "goal"] + [f"/ {n}" for n in names], rows)


def dense(records):
    rows = []
    for record in records:
        if not contenders(record):
            continue
        rate, share = ours_of(record)
        row = [shape_of(record["shape"]), giga(rate), percent(share, None)]
        for name in PEERS:
            peer = best_of(record, name)
            goal = mark(peer["ratio"][0], goals.DENSE.get(name)) if peer else ""
            row.append(f"{spread(peer['ratio'])}{', goal ' + goal if goal else ''}" if peer else "")
        rows.append(row)
    return table(["M x N x K", "moe GFLOP/s", "of the peak"] + [f"/ {n}" for n in PEERS], rows)


def itself(records):
    """Comparisons of this library with itself, by group."""
    text = ""
    for group, title, head in (("skew", "Rows by 1 / rank instead of equally", ["time of Zipf / balanced"]),
                               ("odd", "Odd sizes beside even ones (d_model 384, d_ff 344, E 7, k 3; even: 352, E 8)", ["rate of odd / even"]),
                               ("scaling", "All threads over one", ["one thread / all"])):
        rows = []
        for r in (r for r in records if r["group"] == group and r["pairs"] >= LEAST_PAIRS):
            rate, share = ours_of(r)
            ratio, low, high = r["ratio"]
            if group == "skew":
                value, low, high, goal = 1 / ratio, 1 / high, 1 / low, (goals.SKEW, True)
            elif group == "odd":
                factor = r["flops"] / r["other_flops"]
                value, low, high, goal = ratio * factor, low * factor, high * factor, (goals.ODD, False)
            else:
                value, goal = ratio, (goals.SCALING[r["flops"] / r["bytes"] > 14], False)
            rows.append([f"{r['type']} {shape_of(r['shape'])}", giga(rate), percent(share, None), f"{value:.2f} ({low:.2f}-{high:.2f})", mark(value, goal[0], 2, goal[1])])
        if rows:
            text += f"### {title}\n\n" + table(["shape", "moe GFLOP/s", "of the peak"] + head + ["goal"], rows)
    return text


def limits(l):
    rows = [["float madd", giga(l["madd_one"]), giga(l["madd"]), "GFLOP/s"]]
    if l["dot"]:
        rows.append(["bf16 dot product", giga(l["dot_one"]), giga(l["dot"]), "GFLOP/s"])
    rows += [[f"DRAM {what}", giga(l[what + "_one"], 1), giga(l[what], 1), "GB/s"] for what in ("read", "copy", "triad")]
    return table(["limit", "one thread", f"{l['threads']} threads", "unit"], rows)


def operators(cases):
    rows = [[c["case"], f"{1e3 * c['ours']:.3g}", f"{1e3 * c['torch']:.3g}", spread(c["ratio"]), mark(c["ratio"][0], c.get("goal"))] for c in cases if c["pairs"] >= LEAST_PAIRS]
    return table(["operator", "moe ms", "torch ms", "moe is", "goal"], rows)


def steps(list_):
    rows = [[s["preset"], f"{s['moe']:.0f}", f"{s['torch']:.0f}", f"{s['ratio']:.2f}x", mark(s["ratio"], s.get("goal"))] for s in list_]
    return table(["model", "moe tokens/s", "torch tokens/s", "moe is", "goal"], rows)


def roofline_series(records):
    """For svg.roofline: ours and the best peer, float and bf16."""
    series = []
    for type_, square in (("fp32", False), ("bf16", True)):
        chosen = [r for r in records if r["type"] == type_ and "peers" in r and contenders(r)]
        series.append((f"moe, {type_}", 0 if type_ == "fp32" else 2, True, square, [(r["flops"] / r["bytes"], ours_of(r)[0]) for r in chosen]))
        series.append((f"best peer, {type_}", 0 if type_ == "fp32" else 2, False, square, [(r["flops"] / r["bytes"], r["flops"] / best_of(r)["other"]) for r in chosen]))
    return [s for s in series if s[4]]


def bar_groups(records, type_):
    """For svg.bars: shares of the peak in the forward pass, rows balanced."""
    chosen = [r for r in records if r["group"] == "forward" and r["type"] == type_ and r["shape"]["rows"] == "balanced" and contenders(r)]
    names = ["moe"] + [n for n in PEERS if any(best_of(r, n) for r in chosen)]
    groups = []
    for r in chosen:
        peers = [best_of(r, n) for n in names[1:]]
        s = r["shape"]
        groups.append((f"T={s['tokens']} ff={s['out']} E={s['experts']}", [ours_of(r)[1]] + [r["flops"] / p["other"] / p["peak"] if p else None for p in peers]))
    return names, groups
