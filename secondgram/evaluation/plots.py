"""Plots of an imputation against the truth."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..files import replacing
from .metrics import Cells, per_feature

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8a8f98"
SHOWN_POINTS = 6000


def _new(title: str, x: str, y: str) -> tuple[plt.Figure, Axes]:
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: plt.Figure, path: Path) -> None:
    with replacing(path) as temporary:
        # No date or version inside: the same numbers give the same file.
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)


def plot_change(cells: Cells, path: Path) -> None:
    """True against predicted change, both in baseline SD, with the line of perfect calibration."""
    predicted, true = (cells.mean - cells.baseline).ravel(), (cells.truth - cells.baseline).ravel()
    seen = np.isfinite(true) & np.isfinite(predicted)
    predicted, true = predicted[seen], true[seen]
    figure, axes = _new("True against predicted change", "predicted change (baseline SD)", "true change (baseline SD)")
    shown = np.random.default_rng(0).permutation(len(true))[:SHOWN_POINTS]
    axes.scatter(predicted[shown], true[shown], s=4, alpha=0.25, color=BLUE, linewidths=0)
    ends = np.quantile(predicted, [0.002, 0.998])
    axes.plot(ends, ends, color=GREY, linestyle="--", label="perfect calibration")
    if predicted.std() > 0:
        slope, shift = np.polyfit(predicted, true, 1)
        r = np.corrcoef(predicted, true)[0, 1]
        axes.plot(ends, shift + slope * ends, color=ORANGE, label=f"regression: slope {slope:.2f}, r {r:.2f}")
    axes.set_xlim(*ends)
    axes.set_ylim(*np.quantile(true, [0.002, 0.998]))
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def plot_calibration(levels: np.ndarray, covered: dict[str, np.ndarray], path: Path) -> None:
    """Share of true values inside the central interval, against the interval's nominal level, per method."""
    figure, axes = _new("Calibration of the intervals", "nominal share of the interval", "share of true values inside")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect calibration")
    for (name, shares), color in zip(covered.items(), (BLUE, ORANGE), strict=False):
        axes.plot(levels, shares, marker="o", markersize=4, color=color, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def plot_wins(ours: Cells, carried: Cells, path: Path) -> None:
    """Per feature, the fall of the root mean squared error against carry-forward, features ordered by it."""
    weights = np.ones((1, len(ours.truth)))
    mine, theirs = (per_feature(cells, weights)["rmse"][0] for cells in (ours, carried))
    gain = np.sort(100.0 * (1.0 - mine / theirs))
    wins = int((gain > 0).sum())
    figure, axes = _new(
        f"Better than carry-forward on {wins} of {len(gain)} features",
        "features, ordered by gain",
        "fall of the error against carry-forward (%)",
    )
    axes.bar(np.arange(len(gain)), gain, width=1.0, color=np.where(gain > 0, BLUE, ORANGE))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks([])
    _save(figure, path)


def interval_coverage(draws: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nominal levels, and shares of truth inside, of central intervals between order statistics: draws (M, N, D)."""
    count = len(draws)
    ordered = np.sort(draws, axis=0)
    seen = np.isfinite(truth)
    ranks = np.unique(np.linspace(1, count // 2, min(12, count // 2)).round().astype(int))
    levels = (count + 1 - 2 * ranks) / (count + 1)
    shares = [((truth >= ordered[k - 1]) & (truth <= ordered[-k]))[seen].mean() for k in ranks]
    return levels, np.array(shares)
