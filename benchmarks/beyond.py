"""Do intervals hold beyond the longest gap that was learned from? python benchmarks/beyond.py [--slopes .06 .12]

2,000 simulated people, 16 features, a quarter of them held out whole. Learned is from what was measured in the first
three years or so: by the model of two visits from a baseline and one other visit of each person, by that of
trajectories (history="all") from three visits. Imputed is from the first visit alone, up to six years after it. Printed
is the coverage of 90 % intervals, with 95 % intervals over people.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from trajectory_simulation import BOOTSTRAPS, DRAWS, SEED, inside, split

import secondgram as sg
from secondgram.evaluation.metrics.bootstrap import cell_mean, interval, resamples
from secondgram.imputation.history import History
from secondgram.imputation.model_data import People

FEATURES, SHORT = 16, 3


def two_visits(train: sg.SimulatedTrajectories, seed: int) -> sg.Cohort:
    """The first visit, and of each person who came back the second or the third."""
    rng, rows = np.random.default_rng(seed), np.arange(len(train))
    came = np.isfinite(train.visits).all(axis=2)
    later = np.where(came[:, 2] & ((rng.random(len(train)) < 0.5) | ~came[:, 1]), 2, 1)
    visits = np.stack([train.visits[:, 0], train.visits[rows, later]], axis=1)
    times = np.stack([train.times[:, 0], train.times[rows, later]], axis=1)
    return sg.Cohort(train.ids, visits, train.features, times=times, covariate_table=train.covariate_table)


def three_visits(train: sg.SimulatedTrajectories) -> sg.Cohort:
    return sg.Cohort(
        train.ids,
        train.visits[:, :SHORT].copy(),
        train.features,
        tuple(train.visit_labels[:SHORT]),
        train.times[:, :SHORT],
        train.covariate_table,
        target=SHORT - 1,
    )


def coverages(slope: float, seed: int) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """Model, longest gap, mean gap, and (N, D) whether intervals hold what was measured then."""
    train, test = split(FEATURES, slope, seed)
    for name, cohort, history in (
        ("two visits", two_visits(train, seed), "first"),
        ("trajectories", three_visits(train), "all"),
    ):
        model = sg.SecondgramImputer(shape="off", history=history, seed=seed).fit(cohort, show=False).model_
        measured = np.isfinite(cohort.visits).all(axis=2)
        longest = float(np.where(measured, cohort.times - cohort.times[:, :1], 0.0).max())
        first = People.of(
            sg.Cohort(
                test.ids,
                test.complete[:, :2],
                test.features,
                times=test.times[:, :2],
                covariate_table=test.covariate_table,
            ),
            keep_known=False,
        )
        for visit in range(1, test.times.shape[1]):
            at = test.times[:, visit]
            known = None if history == "first" else History(test.complete[:, :1], test.times[:, :1], at)
            drawn = model.draw(replace(first, gap=at, history=known), np.arange(DRAWS), SEED)
            yield name, longest, float(at.mean()), inside(drawn, test.complete[:, visit])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slopes", type=float, nargs="*", default=[0.06, 0.1, 0.12], help="SD of slopes, SD a year")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for slope in given.slopes:
        print(f"slopes of SD {slope:g} a year")
        runs = [list(coverages(slope, seed)) for seed in range(given.seeds)]
        for same in zip(*runs, strict=True):
            held = np.concatenate([run[3] for run in same])
            value, low, high = interval(
                cell_mean(held, resamples(np.arange(len(held)).astype(str), BOOTSTRAPS, 0)).mean(axis=1)
            )
            longest, gap = (float(np.mean([run[place] for run in same])) for place in (1, 2))
            print(
                f"  {same[0][0]:12} learned from up to {longest:.1f} years, imputed at {gap:.1f}: "
                f"inside 90 % {value:.3f} ({low:.3f} to {high:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
