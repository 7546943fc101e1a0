"""Simulated cohorts in hard forms, for benchmarks/cohorts.py: linear growth with one hard thing at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

import secondgram as sg

FACTORS, SHARED = 4, 0.5
# In SD of the true baseline: SD of the error, mean and SD of a year's change; and years between visits.
ERROR, DRIFT, SLOPE, SPACING, JITTER = 0.4, -0.08, 0.12, 2.0, 0.6
# Of a feature that hardly varies: its level and SD, and how many SD a spike rises, which a share of cells has.
LEVEL, FLAT_SD, SPIKE, SPIKED = 1000.0, 0.013, 40.0, 0.015


@dataclass(frozen=True)
class Hard:
    """Difficulties of a simulated cohort.

    errors : distribution of the error of measurement, `normal`, `t3` or `skewed`.
    contaminated : share of cells, of every visit, that are 30 SD off.  flat : share of features that hardly vary.
    lognormal : share of features that are the exponential of the rest's form.  clusters : share of people whose change
    is another one.  lacking : share of people without follow-up of the second half of the features.  holes : share of
    baseline cells that are missing.  covariate : SD of yearly change by which a covariate of SD 1 moves everything.
    visits : how many, the last being the target; those between are missed by a fifth.
    """

    errors: str = "normal"
    contaminated: float = 0.0
    flat: float = 0.0
    lognormal: float = 0.0
    clusters: float = 0.0
    lacking: float = 0.0
    holes: float = 0.0
    covariate: float = 0.0
    visits: int = 2


def simulated(people: int, features: int, hard: Hard, seed: int) -> sg.SimulatedCohort:
    """A cohort in which everybody came back and every hidden cell of the follow-up is known (`truth`)."""
    rng = np.random.default_rng(seed)

    def correlated(*shape: int) -> np.ndarray:
        """Standard normals (*shape, features) of which factors share a part."""
        loading = rng.normal(size=(FACTORS, features))
        loading *= np.sqrt(SHARED / (loading**2).sum(axis=0))
        own = np.sqrt(1 - SHARED) * rng.normal(size=(*shape, features))
        return rng.normal(size=(*shape, FACTORS)) @ loading + own

    years = SPACING * np.arange(hard.visits) + np.zeros((people, 1))
    years[:, 1:] += rng.uniform(-JITTER, JITTER, (people, hard.visits - 1))
    age, covariate = rng.normal(size=(2, people, 1))
    start = correlated(people) - 0.3 * age
    slope = DRIFT * rng.uniform(0.5, 1.5, features) + SLOPE * correlated(people)
    slope += hard.covariate * covariate * np.sign(rng.normal(size=features) + 1.0)
    slope += np.where(rng.random((people, 1)) < hard.clusters, 0.5 * rng.normal(size=features), 0.0)
    error = correlated(people, hard.visits)
    if hard.errors == "t3":
        error /= np.sqrt(rng.chisquare(3, error.shape))
    elif hard.errors == "skewed":
        error = rng.gamma(1.0, 1.0, error.shape) - 1.0
    values = start[:, None] + slope[:, None] * years[:, :, None] + ERROR * error
    curved = round(hard.lognormal * features)
    values[:, :, :curved] = np.exp(0.7 * values[:, :, :curved])
    values[rng.random(values.shape) < hard.contaminated] += 30.0
    values = rng.uniform(500, 5000, features) + rng.uniform(50, 500, features) * values
    flat = round(hard.flat * features)
    if flat:
        shape = (people, hard.visits, flat)
        spikes = np.where(rng.random(shape) < SPIKED, SPIKE * rng.exponential(size=shape), 0.0)
        values[:, :, -flat:] = LEVEL + FLAT_SD * (rng.normal(size=shape) + spikes)
    visits = values.copy()
    visits[:, 0][rng.random((people, features)) < hard.holes] = np.nan
    visits[:, 1:-1][rng.random((people, hard.visits - 2)) < 0.2] = np.nan
    lacking = rng.random(people) < hard.lacking
    visits[lacking, -1, features // 2 :] = np.nan
    return sg.SimulatedCohort(
        ids=np.array([f"p{number:05d}" for number in range(people)], dtype=object),
        visits=visits,
        features=tuple(f"f{number:03d}" for number in range(features)),
        visit_labels=tuple(str(number) for number in range(hard.visits)),
        times=years,
        covariate_table=pd.DataFrame({"age": age[:, 0], "x": covariate[:, 0]}),
        target=hard.visits - 1,
        truth=values[:, -1].copy(),
    )
