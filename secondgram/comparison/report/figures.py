"""The figures of the report, each an SVG with a text that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluation.metrics import Estimate, win_tie_loss
from . import image, labels
from .drawing import Frame, Scale, between, decimals, mark, picture, spanning, square
from .html import Html, join, tag

CATERPILLAR_HEIGHT = 300.0
STANDINGS = ("better", "tie", "worse")


def tally(counts: dict[str, int], label: str) -> Html:
    """How many features are better, tie and worse, as parts of one bar."""
    total, start, parts = max(sum(counts.values()), 1), 0.0, []
    for kind in STANDINGS:
        share = 100.0 * counts[kind] / total
        if share:
            parts.append(
                tag("rect", x=f"{start:.3f}%", y=0, width=f"{share:.3f}%", height="100%", class_=f"part {kind}")
            )
            # A seam between two parts, for eyes that see no difference of colour.
            parts.append(tag("line", x1=f"{start:.3f}%", x2=f"{start:.3f}%", y1=0, y2="100%", class_="seam"))
        start += share
    return tag("svg", *parts, role="img", aria_label=label, class_="tally", width="100%", height="18")


def caterpillar(estimates: Sequence[Estimate], label: str, y_label: str) -> Html:
    """Differences per feature in order, each with its interval; zero is a tie."""
    known = sorted((each for each in estimates if each.known), key=lambda each: each.value)
    values = [v for each in known for v in each if np.isfinite(v)]
    # A few very wide intervals would flatten all others.
    low, high = (float(v) for v in np.quantile(values, [0.01, 0.99])) if values else (-1.0, 1.0)
    y = Scale(*spanning([low, high], 0.12, zero=True), CATERPILLAR_HEIGHT - 14.0, 38.0)
    parts = [tag("text", y_label, x=0, y=12, class_="label")]
    for tick in y.ticks(5):
        kind = "reference" if tick == 0 else "grid"
        parts.append(tag("line", x1=0, x2="100%", y1=y(tick), y2=y(tick), class_=kind))
        number = labels.signed(tick, 0 if y.high - y.low > 5 else 1)
        parts.append(tag("text", number, x=0, y=y(tick) - 5, class_="tick"))
    size = min(4.5, max(1.2, 180.0 / max(len(known), 1)))
    thin = " faint" if len(known) > 150 else " thin" if len(known) > 80 else ""
    for place, each in enumerate(known):
        kind, x = win_tie_loss(each), between((place + 0.5) / len(known), 9.0, 100.0)
        value, *ends = (y(y.cut(v if np.isfinite(v) else each.value)) for v in each)
        parts.append(tag("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_=f"whisker {kind}{thin}"))
        dot = tag("circle", cx=x, cy=value, r=size, class_=f"mark {kind}")
        parts.append(square(x, f"{value:.2f}", max(size, 2.5)) if kind == "worse" else dot)
    return tag("svg", *parts, role="img", aria_label=label, class_="wide", width="100%", height=CATERPILLAR_HEIGHT)


def scatter(found: dict[str, Any], label: str) -> Html:
    """True against predicted change as a density, with tenths, their regression and the diagonal."""
    frame = Frame.of(tuple(found["x"]), tuple(found["y"]), height=360)  # type: ignore[arg-type]
    x, y = frame.x, frame.y
    cells = tag(
        "image", href=image.density(np.array(found["counts"])), x=x.start, y=y.end, width=x.end - x.start,
        height=y.start - y.end, preserveAspectRatio="none", class_="cells",
    )  # fmt: skip
    low, high = max(x.low, y.low), min(x.high, y.high)
    parts = [frame.segment((low, low), (high, high), "reference")] if low < high else []
    slope, start = found["slope"].value, found["start"]
    line = [(v, start + slope * v) for v in np.linspace(x.low, x.high, 60) if y.holds(start + slope * v)]
    parts.append(frame.path([line[0], line[-1]], "ours") if line else Html(""))
    for predicted, true, below, above in found["groups"]:
        if true is None or not (x.holds(predicted) and y.holds(true)):
            continue
        parts.append(frame.segment((predicted, y.cut(below)), (predicted, y.cut(above)), "whisker strong"))
        parts.append(mark(x(predicted), y(true), "strong", 3.5))
    axes = frame.axes("predicted change (baseline SD)", "true change (baseline SD)")
    return frame.svg(label, axes, cells, *parts)


def calibration(found: dict[str, dict[str, Any]], kinds: dict[str, str], label: str) -> Html:
    """Share of truth inside central intervals against their nominal share, one line a method."""
    frame = Frame.of((0.0, 1.0), (0.0, 1.0), height=430)
    parts = [frame.segment((0, 0), (1, 1), "reference")]
    for name, curve in found.items():
        points = list(zip(curve["nominal"], curve["share"], strict=True))
        parts.append(frame.path([(x, s.value) for x, s in points], kinds[name]))
        for x, (value, low, high) in points:
            parts.append(frame.segment((x, low), (x, high), f"whisker {kinds[name]}"))
            parts.append(mark(frame.x(x), frame.y(value), kinds[name], 3.5))
    whole = lambda value: labels.number(100 * value, 0)  # noqa: E731
    return frame.svg(label, frame.axes("share promised (%)", "true values inside (%)", whole, whole), *parts)


def pit(bars: Sequence[Estimate], label: str, kind: str) -> Html:
    """Histogram of where the truth falls among the draws."""
    top = max([1.5, *(bar.high for bar in bars if bar.bounded)])
    frame = Frame.of((0.0, 1.0), (0.0, top * 1.05), height=220)
    width = 1.0 / len(bars)
    parts = []
    for place, bar in enumerate(bars):
        value = bar.value if bar.known else 0.0
        left, right = frame.x(place * width) + 1, frame.x((place + 1) * width) - 1
        height = frame.y(0) - frame.y(value)
        parts.append(tag("rect", x=left, y=frame.y(value), width=right - left, height=height, class_=f"bar {kind}"))
        if bar.bounded:
            middle = (place + 0.5) * width
            parts.append(frame.segment((middle, bar.low), (middle, bar.high), "whisker strong thin"))
    parts.append(frame.segment((0, 1), (1, 1), "reference"))
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return frame.svg(label, frame.axes("place of the truth among the draws", "density", x_ticks=ticks), *parts)


def matrix(cells: np.ndarray, label: str) -> Html:
    """A matrix of per cent: blue above zero, orange below."""
    border = tag("rect", x=0.5, y=0.5, width=199, height=199, class_="border")
    picture_of = tag(
        "image", href=image.diverging(cells), x=0, y=0, width=200, height=200, preserveAspectRatio="none",
        class_="cells",
    )  # fmt: skip
    return picture(label, 200, 200, picture_of, border, kind="matrix")


def key() -> Html:
    """The colours of a matrix."""
    ramp = np.linspace(-100, 100, 201).round().astype(int)[None]
    cells = tag("image", href=image.diverging(ramp), x=0, y=0, width=200, height=10, preserveAspectRatio="none")
    names = [
        tag("text", text, x=x, y=26, class_=side)
        for text, x, side in (("−1", 0, ""), ("0", 100, "middle"), ("1", 200, "end"))
    ]
    label = "Colours: orange is a correlation of minus one, no colour is zero, blue is one"
    return picture(label, 200, 30, cells, *names, kind="key")


def trajectory(values: Sequence[float | None], gap: float | None, ends: tuple[float, float], label: str) -> Html:
    """One person and feature: what followed the baseline, and where the draws say it would be, as change.

    values : truth, mean, and the ends of the intervals (low, inner low, inner high, high).
    """
    width, height = 200.0, 150.0
    x, y = Scale(0.0, 1.0, 42.0, width - 42.0), Scale(*ends, height - 26.0, 10.0)
    truth, mean, low, inner_low, inner_high, high = (float(v) if v is not None else 0.0 for v in values)
    base = 0.0
    ticks = y.ticks(6)
    written = decimals(ticks)
    parts = [tag("line", x1=34, x2=width - 10, y1=y(t), y2=y(t), class_="grid") for t in ticks]
    parts += [tag("text", written(t), x=28, y=y(t) + 4, class_="tick end") for t in ticks]
    fan = f"{x(0):.1f},{y(base):.1f} {x(1):.1f},{y(low):.1f} {x(1):.1f},{y(high):.1f}"
    inner = f"{x(0):.1f},{y(base):.1f} {x(1):.1f},{y(inner_low):.1f} {x(1):.1f},{y(inner_high):.1f}"
    parts += [tag("polygon", points=fan, class_="fan"), tag("polygon", points=inner, class_="fan")]
    ends_at = x(1) + 12
    parts.append(tag("line", x1=ends_at, x2=ends_at, y1=y(low), y2=y(high), class_="whisker ours"))
    parts.append(tag("line", x1=ends_at, x2=ends_at, y1=y(inner_low), y2=y(inner_high), class_="whisker ours thick"))
    parts.append(tag("line", x1=x(0), y1=y(base), x2=x(1), y2=y(truth), class_="line strong"))
    parts += [
        mark(x(0), y(base), "strong", 3.5),
        mark(x(1), y(truth), "strong", 3.5),
        mark(ends_at, y(mean), "ours", 3.5),
    ]
    after = "follow-up" if gap is None else f"{labels.number(gap, 1)} y"
    parts.append(tag("text", "baseline", x=x(0) - 10, y=height - 6, class_="tick"))
    parts.append(tag("text", after, x=x(1) + 34, y=height - 6, class_="tick end"))
    return picture(label, width, height, *parts, kind="small")


def visits(
    known: Sequence[tuple[float, float]], values: Sequence[float | None], ends: tuple[float, float], label: str
) -> Html:
    """One person and feature: visits that are shown, the hidden one at year 0, and where the draws say it would be.

    known : years after the hidden visit, and value.  values : as of `trajectory`.
    """
    width, height = 200.0, 150.0
    years = [year for year, _ in known if math.isfinite(year)]
    x = Scale(*spanning([*years, 0.0], 0.1), 42.0, width - 14.0)
    y = Scale(*ends, height - 26.0, 10.0)
    truth, mean, low, inner_low, inner_high, high = (float(v) if v is not None else 0.0 for v in values)
    ticks, after = y.ticks(6), x.ticks(4)
    written, when = decimals(ticks), decimals(after)
    parts = [tag("line", x1=34, x2=width - 10, y1=y(t), y2=y(t), class_="grid") for t in ticks]
    parts += [tag("text", written(t), x=28, y=y(t) + 4, class_="tick end") for t in ticks]
    parts += [tag("text", when(t), x=x(t), y=height - 6, class_="tick middle") for t in after]
    parts.append(tag("line", x1=x(0), x2=x(0), y1=y(low), y2=y(high), class_="whisker ours"))
    parts.append(tag("line", x1=x(0), x2=x(0), y1=y(inner_low), y2=y(inner_high), class_="whisker ours thick"))
    points = sorted([*((year, value) for year, value in known if math.isfinite(year)), (0.0, truth)])
    steps = " ".join(f"{x(year):.1f},{y(y.cut(value)):.1f}" for year, value in points)
    parts.append(tag("polyline", points=steps, class_="line strong"))
    parts += [mark(x(year), y(y.cut(value)), "tie" if year == 0.0 else "strong", 3.5) for year, value in points]
    parts.append(mark(x(0), y(mean), "ours", 3.0))
    return picture(label, width, height, *parts, kind="small")


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    label: str,
    y_label: str,
    best: int | None = None,
    zero: bool = False,
    cut: float = 0.0,
) -> Html:
    """Lines over epochs; `best` marks the epoch that was kept, `cut` is the share of highest values left off."""
    found = [value for line in lines.values() for _, value in line]
    last = max((x for line in lines.values() for x, _ in line), default=1.0)
    low, high = (float(v) for v in np.quantile(found, [0.0, 1.0 - cut])) if found else (0.0, 1.0)
    frame = Frame.of((0.0, float(max(last, 1))), spanning([low, high], 0.08, zero), height=260)
    parts = []
    for place, line in enumerate(lines.values()):
        points = [(x, frame.y.cut(value)) for x, value in line]
        kind = f"curve-{place % 4}"
        parts.append(frame.path(points, kind) if len(points) > 1 else Html(""))
        if points:
            parts.append(mark(frame.x(points[-1][0]), frame.y(points[-1][1]), kind, 3.0))
    if best is not None and frame.x.holds(best):
        parts.append(
            tag("line", x1=frame.x(best), x2=frame.x(best), y1=frame.y.end, y2=frame.y.start, class_="reference")
        )
    if zero:
        parts.insert(0, frame.segment((0, 0), (frame.x.high, 0), "reference"))
    return frame.svg(label, frame.axes("epoch", y_label), *parts)


def stems(lines: Mapping[str, Sequence[tuple[float, float]]], label: str, y_label: str) -> Html:
    """Counts over epochs, one stroke each, those of several lines on top of each other."""
    last = max((x for line in lines.values() for x, _ in line), default=1.0)
    total: dict[float, float] = {}
    for line in lines.values():
        for x, value in line:
            total[x] = total.get(x, 0.0) + value
    frame = Frame.of((0.0, float(max(last, 1))), (0.0, 1.08 * max([1.0, *total.values()])), height=260)
    strokes = [frame.segment((x, 0), (x, value), "whisker peer") for x, value in total.items() if value]
    whole = lambda value: labels.number(value, 0)  # noqa: E731
    return frame.svg(label, frame.axes("epoch", y_label, y_format=whole), *strokes)


def legend(entries: dict[str, str], line: bool = False) -> Html:
    """Names beside the mark or line they are drawn with; entries : kind -> name."""

    def swatch(kind: str) -> Html:
        if line:
            parts = [tag("line", x1=1, x2=23, y1=7, y2=7, class_=f"line {kind}")]
        else:
            parts = [mark(12.0, 7.0, kind, 4.5)]
        return tag("svg", *parts, width=24, height=14, aria_hidden="true", class_="swatch")

    return tag("p", join(tag("span", swatch(kind), name) for kind, name in entries.items()), class_="legend")
