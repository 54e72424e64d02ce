"""The charts of docs as SVG text: a roofline, grouped bars, curves, points with ranges, a heat map. No library draws them, so nothing has to be installed."""
import math
from xml.sax.saxutils import escape

COLOURS = ["#0b63b0", "#e07b00", "#2c9a4b", "#9a3fb5", "#8a8a8a"]
FONT = 'font-family="sans-serif" font-size="{}" fill="#222"'


class Canvas:
    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
                      f"<title>{escape(title)}</title>", f'<rect width="{width}" height="{height}" fill="white"/>']

    def line(self, x1, y1, x2, y2, colour="#ccc", width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>')

    def text(self, x, y, text, size=12, anchor="start", turn=0.0, weight="normal"):
        rotate = f' transform="rotate({turn:.1f} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" {FONT.format(size)}{rotate}>{escape(text)}</text>')

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" fill="{colour}"/>')

    def dot(self, x, y, colour, filled=True, square=False):
        style = f'fill="{colour if filled else "white"}" stroke="{colour}" stroke-width="1.5"'
        if square:
            self.parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {style}/>')
        else:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {style}/>')

    def finish(self):
        return "\n".join(self.parts + ["</svg>", ""])


def decades(low, high, steps=(1, 2, 5)):
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            value = step * 10.0 ** exponent
            if low <= value <= high * 1.0001:
                yield value


def number(value):
    return f"{value:g}"


def roofline(title, bandwidth, roofs, series):
    """bandwidth: bytes/s. roofs: [(name, flops/s)]. series: [(name, colour index, filled, square, [(flops per byte, flops/s)])]."""
    points = [p for *_, list_ in series for p in list_]
    x_low, x_high = 0.6 * min(p[0] for p in points), 2.0 * max([p[0] for p in points] + [roofs[-1][1] / bandwidth])
    y_low, y_high = 0.7 * min([p[1] for p in points] + [bandwidth]), 1.6 * max(r[1] for r in roofs)
    canvas, left, top, width, height = Canvas(860, 520, title), 70, 44, 560, 410

    def x_of(value):
        return left + width * math.log(value / x_low) / math.log(x_high / x_low)

    def y_of(value):
        return top + height * (1 - math.log(value / y_low) / math.log(y_high / y_low))
    canvas.text(left, 26, title, 15, weight="bold")
    for value in decades(x_low, x_high):
        canvas.line(x_of(value), top, x_of(value), top + height)
        canvas.text(x_of(value), top + height + 18, number(value), 11, "middle")
    for value in decades(y_low / 1e9, y_high / 1e9):
        canvas.line(left, y_of(value * 1e9), left + width, y_of(value * 1e9))
        canvas.text(left - 8, y_of(value * 1e9) + 4, number(value), 11, "end")
    canvas.text(left + width / 2, top + height + 42, "arithmetic intensity, flop per byte of operands", 12, "middle")
    canvas.text(20, top + height / 2, "GFLOP/s", 12, "middle", -90)
    start = max(x_low, y_low / bandwidth)
    canvas.line(x_of(start), y_of(start * bandwidth), x_of(roofs[-1][1] / bandwidth), y_of(roofs[-1][1]), "#222", 2)
    canvas.text(x_of(2 * start) + 8, top + height - 8, f"\u2190 DRAM read {bandwidth / 1e9:.0f} GB/s", 12)  # at the foot of the line, where no point is
    for name, flops in roofs:
        canvas.line(x_of(flops / bandwidth), y_of(flops), left + width, y_of(flops), "#222", 2)
        canvas.text(left + width + 8, y_of(flops) + 4, f"{name} {flops / 1e9:.0f}", 12)
    for name, colour, filled, square, list_ in series:
        for x, y in list_:
            canvas.dot(x_of(x), y_of(y), COLOURS[colour], filled, square)
    for i, (name, colour, filled, square, _) in enumerate(series):
        y = top + 190 + 24 * i
        canvas.dot(left + width + 20, y, COLOURS[colour], filled, square)
        canvas.text(left + width + 34, y + 4, name)
    return canvas.finish()


def bars(title, names, groups):
    """Shares in 0..1, as horizontal bars. names: of the bars in each group. groups: [(label, [share or None])]."""
    thick, gap, left, top, width = 11, 12, 230, 66, 520
    step = thick * len(names) + gap
    canvas = Canvas(820, top + step * len(groups) + 44, title)
    canvas.text(20, 26, title, 15, weight="bold")
    for i, name in enumerate(names):
        canvas.bar(left + 110 * i, 40, 12, 12, COLOURS[i % len(COLOURS)])
        canvas.text(left + 110 * i + 18, 50, name)
    bottom = top + step * len(groups)
    for percent in range(0, 101, 20):
        x = left + width * percent / 100
        canvas.line(x, top - 4, x, bottom)
        canvas.text(x, bottom + 18, f"{percent} %", 11, "middle")
    for g, (label, shares) in enumerate(groups):
        y = top + g * step
        canvas.text(left - 10, y + (step - gap) / 2 + 4, label, 12, "end")
        for i, share in enumerate(shares):
            if share is not None:
                canvas.bar(left, y + i * thick, width * min(share, 1.05), thick - 1, COLOURS[i % len(COLOURS)])
                canvas.text(left + width * min(share, 1.05) + 4, y + i * thick + 9, f"{100 * share:.0f}", 10)
    return canvas.finish()


def round_ticks(low, high, count):
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(title, x_label, y_label, series, y_range=None):
    """series: [(name, [(x, mean, low, high)])]: a line through the means, and a band from low to high. y_range: what is outside is cut off."""
    points = [p for _, list_ in series for p in list_]
    x_high = max(p[0] for p in points)
    y_low, y_high = y_range or (min(p[2] for p in points), max(p[3] for p in points))
    canvas, left, top, width, height = Canvas(860, 480, title), 70, 44, 590, 370

    def x_of(value):
        return left + width * value / x_high

    def y_of(value):
        return top + height * (1 - (min(max(value, y_low), y_high) - y_low) / (y_high - y_low))
    canvas.text(left, 26, title, 15, weight="bold")
    for value in round_ticks(0, x_high, 8):
        canvas.line(x_of(value), top, x_of(value), top + height)
        canvas.text(x_of(value), top + height + 18, number(value), 11, "middle")
    for value in round_ticks(y_low, y_high, 8):
        canvas.line(left, y_of(value), left + width, y_of(value))
        canvas.text(left - 8, y_of(value) + 4, number(value), 11, "end")
    canvas.text(left + width / 2, top + height + 42, x_label, 12, "middle")
    canvas.text(20, top + height / 2, y_label, 12, "middle", -90)
    for i, (name, list_) in enumerate(series):
        shown = [p for k, p in enumerate(list_) if p[1] <= y_high or (k + 1 < len(list_) and list_[k + 1][1] <= y_high)]  # and one point above
        line = " ".join(f"{x_of(p[0]):.1f},{y_of(p[1]):.1f}" for p in shown)
        band = " ".join([f"{x_of(p[0]):.1f},{y_of(p[3]):.1f}" for p in shown] + [f"{x_of(p[0]):.1f},{y_of(p[2]):.1f}" for p in reversed(shown)])
        colour = COLOURS[i % len(COLOURS)]
        canvas.parts.append(f'<polygon points="{band}" fill="{colour}" fill-opacity="0.18" stroke="none"/>')
        canvas.parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        canvas.line(left + width + 16, top + 20 + 24 * i, left + width + 40, top + 20 + 24 * i, colour, 3)
        canvas.text(left + width + 46, top + 24 + 24 * i, name)
    return canvas.finish()


def points(title, x_label, y_label, series, x_ticks=None):
    """series: [(name, [(label, x, mean, low, high)])]: a dot at each mean with its range, joined in the order given. The axes begin near the points.
    x_ticks: [(x, text)], where the axis is not one of round numbers."""
    all_points = [p for _, list_ in series for p in list_]
    x_low, x_high = (f(p[1] for p in all_points) for f in (min, max))
    y_low, y_high = min(p[3] for p in all_points), max(p[4] for p in all_points)
    x_room, y_room = 0.06 * (x_high - x_low) or 0.1 * abs(x_high) or 1.0, 0.08 * (y_high - y_low) or 0.1 * abs(y_high) or 1.0
    x_low, x_high, y_low, y_high = x_low - x_room, x_high + x_room, y_low - y_room, y_high + y_room
    canvas, left, top, width, height = Canvas(860 if any(name for name, _ in series) else 710, 480, title), 70, 44, 590, 370

    def x_of(value):
        return left + width * (value - x_low) / (x_high - x_low)

    def y_of(value):
        return top + height * (1 - (value - y_low) / (y_high - y_low))
    canvas.text(left, 26, title, 15, weight="bold")
    for value, text in x_ticks or [(value, number(value)) for value in round_ticks(x_low, x_high, 8)]:
        canvas.line(x_of(value), top, x_of(value), top + height)
        canvas.text(x_of(value), top + height + 18, text, 11, "middle")
    for value in round_ticks(y_low, y_high, 8):
        canvas.line(left, y_of(value), left + width, y_of(value))
        canvas.text(left - 8, y_of(value) + 4, number(value), 11, "end")
    canvas.text(left + width / 2, top + height + 42, x_label, 12, "middle")
    canvas.text(20, top + height / 2, y_label, 12, "middle", -90)
    for i, (name, list_) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x_of(x):.1f},{y_of(mean):.1f}" for _, x, mean, *_ in list_)
        canvas.parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity="0.5" stroke-width="1.5"/>')
        for label, x, mean, low, high in list_:
            canvas.line(x_of(x), y_of(low), x_of(x), y_of(high), colour, 2)
            canvas.dot(x_of(x), y_of(mean), colour)
            canvas.text(x_of(x) + 8, y_of(mean) - 8, label)
        if name:
            canvas.line(left + width + 16, top + 20 + 24 * i, left + width + 40, top + 20 + 24 * i, colour, 3)
            canvas.text(left + width + 46, top + 24 + 24 * i, name)
    return canvas.finish()


def shade(position):
    """Blue, white, orange for -1, 0, 1."""
    end = (0x0b, 0x63, 0xb0) if position < 0 else (0xd9, 0x5f, 0x02)
    return "#" + "".join(f"{round(255 + (c - 255) * min(1.0, abs(position))):02x}" for c in end)


def heat_map(title, x_label, groups, limit, ticks):
    """groups: [(label, [(row label, [value])])], drawn one below the other. Values from -limit (blue) over 0 (white) to limit (orange), what is beyond as the limit.
    ticks: [(value, text)] of the scale at the right."""
    levels, columns = 16, max(len(values) for _, rows in groups for _, values in rows)
    left, top, cell_height, gap = 150, 52, 16, 14
    cell_width = min(32.0, 620 / columns)
    height = sum(cell_height * len(rows) + gap for _, rows in groups)
    canvas = Canvas(left + round(cell_width * columns) + 110, top + height + 40, title)
    canvas.text(20, 26, title, 15, weight="bold")
    paths, y = {}, top
    for label, rows in groups:
        canvas.text(20, y + cell_height * len(rows) / 2 + 4, label, weight="bold")
        for row, values in rows:
            canvas.text(left - 8, y + cell_height - 4, row, 11, "end")
            for i, value in enumerate(values):
                level = round(levels * max(-1.0, min(1.0, value / limit)))
                paths.setdefault(level, []).append(f"M{left + i * cell_width:.1f} {y}h{cell_width:.1f}v{cell_height}h-{cell_width:.1f}z")
            y += cell_height
        widest = max(len(values) for _, values in rows)
        canvas.parts.append(f'<rect x="{left}" y="{y - cell_height * len(rows)}" width="{cell_width * widest:.1f}" height="{cell_height * len(rows)}" '
                            'fill="none" stroke="#888" stroke-width="0.7"/>')
        y += gap
    for level, cells in sorted(paths.items()):
        canvas.parts.append(f'<path d="{"".join(cells)}" fill="{shade(level / levels)}" stroke="#ddd" stroke-width="0.3"/>')
    canvas.text(left + cell_width * columns / 2, top + height + 16, x_label, 12, "middle")
    x, bar = left + cell_width * columns + 24, min(160.0, height - gap)
    for level in range(-levels, levels + 1):
        canvas.bar(x, top + bar * (levels - level) / (2 * levels + 1), 16, bar / (2 * levels + 1) + 0.5, shade(level / levels))
    for value, text in ticks:
        canvas.text(x + 22, top + bar * (0.5 - 0.5 * value / limit) + 4, text, 11)
    return canvas.finish()
