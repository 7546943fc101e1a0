"""Draw timings into docs/: python benchmarks/plot.py [--results FOLDER] [--out FOLDER]

speed_<kind>*.png has bars of ours against peers, with whiskers from the 5 to the 95 % quantile; roofline_<kind>.png has
operations a second over operations a byte under measured ceilings. A processor, an interpreter and a CUDA device never
share a plot, and neither do two devices: of each kind the device with most entries is drawn, and its name is the title.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from secondgram.files import replacing

DOCS = ledger.ROOT / "docs"
OURS, PEER, INK, CEILING = "#2a6f97", "#b9bec6", "#22262b", "#e07a1f"
KINDS = {"processor": "On the processor", "cuda": "On a CUDA device"}
# Parameters that hold the name of a peer, where a timing stands for one contender.
PEERS = re.compile(r"eager|torch|autotune|reference|backward pass a task")
# Panels beyond this many go into a further picture.
PANELS = 6


@dataclass(frozen=True)
class Bar:
    """Seconds by quantile of one contender."""

    label: str
    seconds: dict[str, float]
    ours: bool


@dataclass(frozen=True)
class Panel:
    """Contenders of one task; ratios are to the bar called `base`, or to the fastest of ours."""

    title: str
    bars: list[Bar]
    base: str | None = None


@dataclass(frozen=True)
class Point:
    """Operations, bytes that have to move at least once, and the seconds they took."""

    label: str
    flop: float
    bytes: float
    seconds: float
    precision: str


@dataclass(frozen=True)
class Picture:
    """Panels and points of one device."""

    kind: str
    device: str
    about: str
    panels: list[Panel]
    points: list[Point]
    peaks: dict[str, float]
    bandwidth: float | None


# -- reading ---------------------------------------------------------------------------------------


def entries(folder: Path) -> list[dict[str, Any]]:
    """Every timing of the folder in the form of ledger.py; other files are passed over."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == ledger.FORMAT and "entries" in content:
            found += content["entries"]
    return found


def picture(kind: str, found: list[dict[str, Any]]) -> Picture | None:
    """The device of this kind with most entries; None without any."""
    own = [each for each in found if each["kind"] == kind]
    if not own:
        return None
    device = Counter(each["device"] for each in own).most_common(1)[0][0]
    own = [each for each in own if each["device"] == device]
    threads = sorted({each["threads"] for each in own if "threads" in each})
    commits = sorted({each["commit"] for each in own})
    about = (
        f"{device}" + (f", {'/'.join(map(str, threads))} threads" if threads else "") + f"; commit {', '.join(commits)}"
    )
    peaks: dict[str, float] = {}
    copies = []
    # A ceiling holds for as many threads as it was measured with.
    used = {each.get("threads") for each in own if "flop" in each and "bytes" in each and "small" not in each["name"]}
    for each in own:
        if each.get("ceiling") == "copy":
            copies.append((each["name"], each["bytes_per_second"]))
        elif "ceiling" in each:
            if not used or each.get("threads") in used:
                peaks[each["ceiling"]] = max(peaks.get(each["ceiling"], 0.0), each["flop_per_second"])
    # The largest copy is the one that no cache holds.
    large = [rate for name, rate in copies if "small" not in name] or [rate for _, rate in copies]
    return Picture(kind, device, about, _panels(own), _points(own), peaks, min(large) if large and peaks else None)


def _panels(own: list[dict[str, Any]]) -> list[Panel]:
    panels: dict[str, list[Bar]] = {}
    for each in own:
        # Of the test of memory, the time means nothing.
        if "ceiling" in each or each["group"] == "memory":
            continue
        bars = panels.setdefault(each["group"] or each["name"].split("::")[-1], [])
        if "peers" in each:
            label = f"secondgram {each['precision']}" if "precision" in each else "secondgram"
            bars.append(Bar(label, each["seconds"], True))
            bars += [Bar(name, peer["seconds"], False) for name, peer in each["peers"].items()]
        else:
            label = _label(each)
            bars.append(Bar(label, each["seconds"], not PEERS.search(label)))
    found = [Panel(title, bars) for title, bars in panels.items() if len(bars) > 1]
    # Small sizes prove that everything runs; where real ones were measured, those are shown.
    return [panel for panel in found if "small" not in panel.title] or found


def _label(each: dict[str, Any]) -> str:
    """The label of a timing, or the parameters that distinguish its test."""
    for name in ("contender", "way", "mode"):
        if name in each:
            return str(each[name])
    return each["name"].split("::")[-1].removeprefix("test_").replace("[", " ").rstrip("]").replace("_", " ")


def _points(own: list[dict[str, Any]]) -> list[Point]:
    only_small = all("small" in each["name"] for each in own if "flop" in each and "bytes" in each)
    return [
        Point(each["group"], each["flop"], each["bytes"], each["seconds"]["0.5"], each.get("precision", "fp32"))
        for each in own
        if "flop" in each and "bytes" in each and ("small" not in each["name"] or only_small)
    ]


def peers_of_the_sampler(folder: Path) -> Picture | None:
    """The timings of cpu_sampler.py, as bars."""
    path = folder / "cpu_peers.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    bars = [
        Bar(way["way"], way["quantiles"] | {"0.5": way["seconds"]}, way["way"].startswith("secondgram"))
        for way in record["ways"]
    ]
    title = (
        f"{record['people']} people x {record['draws']} draws, 769 features; "
        f"{record['steps']} steps where no other is named"
    )
    about = f"{record['processor']}, {record['threads']} threads; commit {record['commit']}"
    return Picture("processor", record["processor"], about, [Panel(title, bars, "secondgram fp16")], [], {}, None)


# -- drawing ---------------------------------------------------------------------------------------


def _unit(largest: float) -> tuple[float, str]:
    return (1.0, "seconds") if largest >= 2 else (1e3, "milliseconds") if largest >= 2e-3 else (1e6, "microseconds")


def draw_bars(axes: Axes, panel: Panel) -> None:
    """Shortest time on top; numbers are medians, and how many times the base they are."""
    bars = sorted(panel.bars, key=lambda bar: bar.seconds["0.5"])
    factor, unit = _unit(max(bar.seconds["0.95"] for bar in bars))
    named = [bar for bar in bars if bar.label == panel.base] or [bar for bar in bars if bar.ours] or bars
    base = named[0]
    right = max(bar.seconds["0.95"] for bar in bars) * factor
    for row, bar in enumerate(bars):
        low, middle, high = (bar.seconds[level] * factor for level in ("0.05", "0.5", "0.95"))
        axes.barh(row, middle, color=OURS if bar.ours else PEER, height=0.72, zorder=2)
        axes.plot([low, high], [row, row], color=INK, linewidth=1.1, zorder=3)
        for end in (low, high):
            axes.plot([end, end], [row - 0.14, row + 0.14], color=INK, linewidth=1.1, zorder=3)
        number = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        ratio = "" if bar is base else f"   {bar.seconds['0.5'] / base.seconds['0.5']:.2g} x"
        axes.text(high + 0.015 * right, row, number + ratio, va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=8.5)
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("bold" if bar.ours else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, right * 1.34)
    axes.set_xlabel(unit, fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8, zorder=0)


def bars_figure(title: str, about: str, panels: list[Panel]) -> Figure:
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    heights = [max(len(panel.bars) for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure = Figure(figsize=(11.0, sum(0.34 * height + 1.05 for height in heights) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns, height_ratios=[height + 2.0 for height in heights])
    for number, panel in enumerate(panels):
        draw_bars(figure.add_subplot(grid[number // columns, number % columns]), panel)
    figure.suptitle(f"{title}: time, shorter is better\n", x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(f"median, whiskers 5 to 95 %; {about}", x=0.01, ha="left", fontsize=8, color="#5b6169")
    return figure


def roofline_figure(picked: Picture) -> Figure:
    """Operations a second over operations a byte, under the ceilings that were measured beside them."""
    assert picked.bandwidth
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    intensities = [point.flop / point.bytes for point in picked.points]
    knee = max(picked.peaks.values()) / picked.bandwidth
    left, right = min(0.3, min(intensities, default=1.0) / 3), max(3 * knee, *(3 * each for each in intensities))
    x = np.geomspace(left, right, 200)
    for name, peak in sorted(picked.peaks.items(), key=lambda each: each[1]):
        axes.plot(x, np.minimum(x * picked.bandwidth, peak), color=CEILING, linewidth=1.4)
        text = f"peak {name}: {peak / 1e9:,.0f} GFLOP/s"
        axes.text(right * 1.08, peak, text, va="center", fontsize=8.5, color=CEILING)
    slope = f"copy: {picked.bandwidth / 1e9:,.1f} GB/s"
    axes.annotate(
        slope, (x[40], x[40] * picked.bandwidth), (8, -12), textcoords="offset points", fontsize=8.5, color=CEILING
    )
    order = sorted(
        zip(intensities, picked.points, strict=True), key=lambda each: (each[0], each[1].flop / each[1].seconds)
    )
    # Labels are kept apart, because points of one network lie above one another.
    lowest = 0.0
    last = None
    for intensity, point in order:
        rate = point.flop / point.seconds
        axes.plot(intensity, rate, "o", color=OURS, markersize=6, zorder=3)
        share = (
            f" ({100 * rate / picked.peaks[point.precision]:.0f} % of peak)" if point.precision in picked.peaks else ""
        )
        height = max(rate, lowest * 1.28) if last == intensity else rate
        lowest, last = height, intensity
        axes.annotate(
            f"{point.label}{share}",
            (intensity, rate),
            (intensity / 1.18, height),
            ha="right",
            va="center",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=4,
        )
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte that has to move once", fontsize=9)
    axes.set_ylabel("operations a second", fontsize=9)
    axes.set_title(f"{KINDS[picked.kind]}: roofline, ceilings measured", loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eef0f2", linewidth=0.8)
    figure.supxlabel(picked.about, x=0.01, ha="left", fontsize=8, color="#5b6169")
    return figure


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", metadata={"Software": None})
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ledger.RESULTS)
    parser.add_argument("--out", type=Path, default=DOCS)
    chosen = parser.parse_args()
    found = entries(chosen.results)
    sampler = peers_of_the_sampler(chosen.results)
    if sampler is not None:
        figure = bars_figure("The published network's sampler on the processor", sampler.about, sampler.panels)
        save(figure, chosen.out / "speed_sampler.png")
    for kind, title in KINDS.items():
        picked = picture(kind, found)
        if picked is None:
            print(f"{title.lower()}: nothing measured")
            continue
        for number, start in enumerate(range(0, len(picked.panels), PANELS), 1):
            figure = bars_figure(title, picked.about, picked.panels[start : start + PANELS])
            save(figure, chosen.out / f"speed_{kind}_{number}.png")
        if picked.points and picked.peaks and picked.bandwidth:
            save(roofline_figure(picked), chosen.out / f"roofline_{kind}.png")


if __name__ == "__main__":
    main()
