"""Noise ceilings: how good any imputation could be, given that a scan measures with error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...cohort.scaling import SharedScaling
from ...cohort.table import Cohort
from ...errors import InputError

# Visits at most this many years apart measure the same brain twice.
RETEST_YEARS = 0.25
LEAST_PAIRS = 20


@dataclass(frozen=True, eq=False)
class Reliability:
    """value (D,) share of the variance between people that is no error of measurement;  people : how many said so."""

    value: np.ndarray
    people: int


def retest_reliability(cohort: Cohort, longest: float = RETEST_YEARS) -> Reliability:
    """Reliability of every feature from visits of one person that are at most `longest` years apart.

    The intraclass correlation of single measurements, ICC(1, 1) of Shrout and Fleiss (1979), within site where sites
    are declared; each person counts with their closest two visits. Raises `InputError` where fewer than 20 people have
    such visits.
    """
    pairs = cohort.pairs(replicates=True)
    close = np.flatnonzero(pairs.gap <= longest)
    close = close[np.lexsort((pairs.gap[close], pairs.person[close]))]
    first = np.unique(pairs.person[close], return_index=True)[1]
    chosen = close[first]
    if len(chosen) < LEAST_PAIRS:
        raise InputError(
            f"only {len(chosen)} people were scanned twice within {longest:g} years",
            file=cohort.source,
            mend=f"A reliability needs {LEAST_PAIRS}; without one there is no noise ceiling",
        )
    person = pairs.person[chosen]
    site = None if cohort.site is None else cohort.site[person]
    one, other = cohort.visits[person, pairs.earlier[chosen]], cohort.visits[person, pairs.later[chosen]]
    scaling = SharedScaling.fit(one, site)
    return Reliability(intraclass_correlation(scaling.apply(one, site), scaling.apply(other, site)), len(chosen))


def intraclass_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """ICC(1, 1) per feature of two measurements (N, D) of the same people, by analysis of variance: (D,)."""
    seen = np.isfinite(one) & np.isfinite(other)
    count = seen.sum(axis=0)
    a, b = (np.where(seen, values, 0.0) for values in (one, other))
    middle = 0.5 * (a + b)
    with np.errstate(invalid="ignore", divide="ignore"):
        grand = middle.sum(axis=0) / count
        between = 2.0 * (np.where(seen, middle - grand, 0.0) ** 2).sum(axis=0) / (count - 1)
        within = 0.5 * ((a - b) ** 2).sum(axis=0) / count
        value = (between - within) / (between + within)
    return np.where(count > 2, value, np.nan)


def noise_ceilings(reliability: np.ndarray, change_variance: np.ndarray | None = None) -> pd.DataFrame:
    """The best values that a metric can have where a follow-up is measured with error: one row a feature.

    reliability r (D,): with a spread of one SD, the error of a measurement has the variance 1 - r. A method that knew
    every true value would reach, in Gaussian cohorts (attenuation: Spearman 1904):

    pearson_mean sqrt(r);  pearson_draw r, for a draw has an error of its own;  r2_mean r;  rmse sqrt(1 - r);
    mae_mean sqrt(2 (1 - r) / pi);  crps sqrt((1 - r) / pi);  and, where the variance of the measured change (D,) is
    given, delta_r sqrt(1 - (1 - r) / variance) for one that knows the measured baseline too.
    """
    r = np.clip(reliability, 0.0, 1.0)
    found = {
        "reliability": reliability,
        "pearson_mean": np.sqrt(r),
        "pearson_draw": r,
        "r2_mean": r,
        "rmse": np.sqrt(1.0 - r),
        "mae_mean": np.sqrt(2.0 * (1.0 - r) / np.pi),
        "crps": np.sqrt((1.0 - r) / np.pi),
    }
    if change_variance is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            found["delta_r"] = np.sqrt(np.clip(1.0 - (1.0 - r) / change_variance, 0.0, 1.0))
    return pd.DataFrame(found)
