"""Those who leave are ill: what does that do to a mean change?

    python benchmarks/dropout.py [--seeds 20] [--jobs N] [--refit]

Simulated people of five visits leave for good with odds that rise as the health that was last seen falls (missing at
random). Estimated is the mean change of everybody from the first to the last visit, feature by feature, by

    secondgram       the last visit imputed 20 times from all others (`history="all"`, without the diffusion model), and
                     pooled by Rubin's rules
    refitted         the same, each draw by a model of its own, of people drawn anew (`--refit`: 20 times the fits)
    first visit      as the first, from the first visit alone (`history="first"`)
    complete cases   those who came to the last visit

Printed are the bias in SD of the first visits, and the share of pooled 95 % intervals that hold the mean change that
was hidden: averages over seeds and features, with 95 % intervals over seeds. The truth is the mean change of these
people, and for the intervals that of the population they were drawn from.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from ledger import commit, flags, processor

import secondgram as sg
from secondgram.cohort.simulate_trajectories import SPACING
from secondgram.cohort.simulated import people_of
from secondgram.ops import native

PEOPLE, FEATURES, PAIRED, DRAWS = 1500, 8, 0.9, 20
# Log odds of leaving per SD of health; SD of slopes, in SD a year.
DROPOUT, SLOPE = 3.0, 0.12
# People of whom the population's mean change is taken.
POPULATION = 200_000


def pooled(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean change (D,) and half of its 95 % interval (D,), of changes (M, N, D)."""
    found = sg.pool(changes.mean(axis=1), changes.var(axis=1, ddof=1) / changes.shape[1], changes.shape[1] - 1)
    low, high = found.interval()
    return found.estimate, (high - low) / 2


def one(dropout: float, refit: bool, threads: int, seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    """By way: bias (D,) against these people, and whether the interval holds the population's mean change (D,)."""
    with native.limited(threads):
        return _one(dropout, refit, seed)


def _one(dropout: float, refit: bool, seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    made = sg.simulate(PEOPLE, FEATURES, PAIRED, seed, "trajectories", dropout=dropout, slope=SLOPE).with_target(4)
    assert isinstance(made, sg.SimulatedTrajectories)
    unit = made.baseline.std(axis=0)
    true = (made.complete[:, 4] - made.complete[:, 0]).mean(axis=0)
    people = people_of(sg.simulate(POPULATION, 1, 0.0, seed, "gaussian").covariate_table)
    usual = np.tile([0.0, SPACING * 4], (POPULATION, 1))
    course = made.world.expected(people, usual, None)
    expected = (course[:, 1] - course[:, 0]).mean(axis=0)
    there = np.isfinite(made.visits[:, 4]).any(axis=1)
    found: dict[str, tuple[np.ndarray, ...]] = {}
    change = (made.visits[there, 4] - made.baseline[there])[None]
    half = 1.96 * change[0].std(axis=0, ddof=1) / np.sqrt(there.sum())
    found["complete cases"] = (change[0].mean(axis=0) - true) / unit, np.abs(change[0].mean(axis=0) - expected) < half
    place = {name: row for row, name in enumerate(made.ids)}
    for way, history in (("secondgram", "all"), ("refitted", "all"), ("first visit", "first")):
        if way == "refitted" and not refit:
            continue
        imputer = sg.SecondgramImputer(shape="off", history=history, seed=seed)
        options = {"draws": DRAWS, "show": False} | ({"visits": ["4"]} if history == "all" else {})
        if way == "refitted":
            results = sg.impute_refitted(imputer, made, **options)  # type: ignore[arg-type]
        else:
            results = [imputer.fit(made, show=False).impute(made, **options)]  # type: ignore[arg-type]
        last = np.repeat(made.visits[None, :, 4], DRAWS, axis=0)
        last[:, [place[name] for name in results[0].ids]] = np.concatenate([each.draws for each in results])
        mean, half = pooled(last - made.baseline)
        found[way] = (mean - true) / unit, np.abs(mean - expected) < half
    return found


def said(values: np.ndarray, digits: int) -> str:
    """Mean over seeds (S, D), and its 95 % interval."""
    each = values.mean(axis=1)
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    return f"{each.mean():+.{digits}f} ({each.mean() - half:+.{digits}f} to {each.mean() + half:+.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dropout", type=float, default=DROPOUT, help="log odds of leaving per SD of health")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--refit", action="store_true", help="one model a draw, too")
    given = parser.parse_args()
    threads, each = max((os.cpu_count() or 1) // given.jobs, 1), []
    with ProcessPoolExecutor(given.jobs) as pool:
        for found in pool.map(partial(one, given.dropout, given.refit, threads), range(given.seeds)):
            each.append(found)
            of_seed = {way: [round(float(np.mean(part)), 4) for part in of] for way, of in found.items()}
            print(f"seed {len(each) - 1}: bias, share of intervals that hold:", of_seed, flush=True)
    print(f"commit {commit()}, {processor()}, {' '.join(flags())}")
    for way in each[0]:
        bias, holds = (np.stack([found[way][place] for found in each]).astype(float) for place in (0, 1))
        print(f"{way:16} bias {said(bias, 4)} SD, 95 % intervals hold the mean {said(holds, 3)}", flush=True)


if __name__ == "__main__":
    main()
