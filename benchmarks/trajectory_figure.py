"""Draws docs/trajectory.png, visits of one simulated person: python benchmarks/trajectory_figure.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import secondgram as sg

PLOT = Path(__file__).resolve().parent.parent / "docs" / "trajectory.png"
PEOPLE, TIMES = 400, np.array([0.0, 1.5, 3.0, 4.5, 6.0])
PERSON, SHOWN = 11, (0, 2)
ASKED = (0.75, 2.25, 3.75, 5.25, 7.0)


def cohort() -> tuple[sg.Cohort, np.ndarray]:
    """People with a level and a slope, of whom many lack visits, and the whole truth (V,) of one of them."""
    rng = np.random.default_rng(2)
    level, slope = rng.normal(3500, 300, (PEOPLE, 1, 1)), rng.normal(-45, 30, (PEOPLE, 1, 1))
    volumes = level + slope * TIMES[:, None] + rng.normal(0, 60, (PEOPLE, len(TIMES), 1))
    truth = volumes[PERSON, :, 0].copy()
    volumes[::2, 4] = np.nan
    volumes[::5, 3] = np.nan
    volumes[1::7, 1] = np.nan
    volumes[PERSON, [slot for slot in range(len(TIMES)) if slot not in SHOWN]] = np.nan
    ids = np.array([f"S{number:03d}" for number in range(PEOPLE)], dtype=object)
    table = pd.DataFrame({"age": rng.normal(65, 7, PEOPLE)})
    labels = tuple(f"visit {number + 1}" for number in range(len(TIMES)))
    times = np.tile(TIMES, (PEOPLE, 1))
    return sg.Cohort(ids, volumes, ("hippocampus",), labels, times, table, target=4), truth


def main() -> None:
    people, truth = cohort()
    imputer = sg.SecondgramImputer(shape="off", history="all").fit(people, show=False)
    result = imputer.impute(people.take([PERSON]), draws=400, visits="missing", at=ASKED, show=False)
    assert isinstance(result, sg.TrajectoryImputation)
    one = result.trajectories(str(people.ids[PERSON]))
    asked = one["visit"].str.endswith("years")
    plt.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.fill_between(one["time_years"], one["low"], one["high"], color="#2a6f97", alpha=0.15, lw=0)
    order = np.argsort(result.gap)
    for draw in result.draws[:6, order, 0]:
        axes.plot(result.gap[order], draw, color="#2a6f97", alpha=0.35, lw=0.8)
    imputed = ~one["measured"] & ~asked
    known = one[one["measured"]]
    error = [one["value"][imputed] - one["low"][imputed], one["high"][imputed] - one["value"][imputed]]
    axes.errorbar(
        one["time_years"][imputed], one["value"][imputed], error, fmt="o", color="#2a6f97", capsize=3,
        label="imputed visit, 90 % interval",
    )  # fmt: skip
    axes.plot(known["time_years"], known["value"], "o", color="black", label="known visit")
    hidden = [slot for slot in range(len(TIMES)) if slot not in SHOWN]
    axes.plot(TIMES[hidden], truth[hidden], "x", color="#c1121f", label="what was hidden")
    axes.set_xlabel("years after the first visit")
    axes.set_ylabel("hippocampus, mm³")
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(PLOT, dpi=150)


if __name__ == "__main__":
    main()
