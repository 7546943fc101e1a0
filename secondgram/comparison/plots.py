"""Plots of an imputation against the truth: each draws on the axes it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..evaluation.metrics import Cells, per_feature
from ..files import writing
from .findings import coverage

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8a8f98"
SHOWN_POINTS = 6000
Draw = Callable[[Axes], None]


def save(path: Path, *panels: Draw) -> None:
    """Draw panels side by side into a PNG; the same numbers give the same file."""
    figure = Figure(figsize=(6.0 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), number + 1))
    with writing(path) as file:
        figure.savefig(file, dpi=130, format="png", metadata={"Software": None})


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def change(cells: Cells) -> Draw:
    """True against predicted change of every person and feature, with the line of perfect calibration."""
    predicted, true = (cells.mean - cells.baseline).ravel(), (cells.truth - cells.baseline).ravel()
    seen = np.isfinite(true) & np.isfinite(predicted)
    predicted, true = predicted[seen], true[seen]
    points = np.random.default_rng(0).permutation(len(true))[:SHOWN_POINTS]

    def draw(axes: Axes) -> None:
        _label(axes, "True against predicted change", "predicted (baseline SD)", "true (baseline SD)")
        axes.scatter(predicted[points], true[points], s=4, alpha=0.25, color=BLUE, linewidths=0)
        ends = np.quantile(predicted, [0.002, 0.998])
        axes.plot(ends, ends, color=GREY, linestyle="--", label="perfect calibration")
        if predicted.std() > 0:
            slope, shift = np.polyfit(predicted, true, 1)
            r = np.corrcoef(predicted, true)[0, 1]
            axes.plot(ends, shift + slope * ends, color=ORANGE, label=f"regression: slope {slope:.2f}, r {r:.2f}")
            axes.set_xlim(*ends)
        axes.set_ylim(*np.quantile(true, [0.002, 0.998]))
        axes.legend(frameon=False, loc="upper left")

    return draw


def calibration(methods: dict[str, Cells]) -> Draw:
    """Share of true values inside the central interval, against the interval's nominal level, per method."""

    def draw(axes: Axes) -> None:
        _label(axes, "Calibration of the intervals", "nominal share of the interval", "share of true values inside")
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect calibration")
        for (name, cells), color in zip(methods.items(), (BLUE, ORANGE), strict=False):
            levels, shares = coverage(cells, np.ones((1, len(cells.truth))))
            axes.plot(levels, shares[0], marker="o", markersize=4, color=color, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, loc="upper left")

    return draw


def wins(ours: Cells, carried: Cells) -> Draw:
    """Per feature, the fall of the root mean squared error against carry-forward, features ordered by it."""
    weights = np.ones((1, len(ours.truth)))
    mine, theirs = (per_feature(cells, weights)["rmse"][0] for cells in (ours, carried))
    gain = np.sort(100.0 * (1.0 - mine / theirs))

    def draw(axes: Axes) -> None:
        title = f"Better than carry-forward on {int((gain > 0).sum())} of {len(gain)} features"
        _label(axes, title, "features, ordered by gain", "fall of the error (%)")
        axes.bar(np.arange(len(gain)), gain, width=1.0, color=np.where(gain > 0, BLUE, ORANGE))
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks([])

    return draw
