"""Scores of one imputation against what was really measured."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from ..cohort.formats import read_cohort
from ..cohort.scaling import SharedScaling
from ..cohort.simulated import SimulatedCohort
from ..cohort.table import Cohort
from ..errors import InputError, some
from ..imputation.draws_file import read_draws
from ..imputation.result import Imputation
from .metrics import (
    FURTHER,
    METRICS,
    TAILS,
    Cells,
    Yardstick,
    further_per_feature,
    further_scores,
    interval,
    nominal_coverage,
    per_feature,
    resamples,
    scores,
)

BOOTSTRAPS = 500


def evaluate(
    result: Imputation | str | os.PathLike[str],
    truth: Cohort | np.ndarray | str | os.PathLike[str],
    *,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
    by_feature: bool = False,
    further: bool = False,
) -> pd.DataFrame:
    """Score an imputation.

    Parameters
    ----------
    result : what `impute` returned, or the Parquet file it wrote.
    truth : a cohort (or its file) in which the imputed visit was measured, matched by subject id and visit label; a
        simulated cohort gives its hidden follow-ups; or an array (N, D) in the order of `result.ids`.
    by_feature : one row per feature instead of one per metric.
    further : the metrics of `secondgram.evaluation.metrics.FURTHER` too. Whole visits are measured along directions
        of the people scored; the annual bias needs what `impute` returned, because a file holds no gaps.

    Returns
    -------
    A table indexed by metric with columns value, low, high (95 % bootstrap interval over people or groups) and what it
    means; or, by feature, one column a metric. Units: baseline SD of the people scored, within site where declared.

    Raises `InputError` for a truth of other people or features, fewer than three people with a truth, or NaN draws.
    """
    cells, names = cells_of(result, truth, further)
    if by_feature:
        once = np.ones((1, len(cells.truth)))
        found = per_feature(cells, once) | (further_per_feature(cells, once) if further else {})
        return pd.DataFrame({k: v[0] for k, v in found.items()}, index=pd.Index(names, name="feature"))
    weights = resamples(cells.unit, bootstraps, seed)
    found = scores(cells, weights) | (further_scores(cells, weights) if further else {})
    rows = {name: (*interval(values), (METRICS | FURTHER)[name]) for name, values in found.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "meaning"])
    table.index.name = "metric"
    for level in TAILS:
        if cells.draws > 1 and f"coverage_{level}" in table.index:
            nominal = nominal_coverage(cells.draws, level)
            table.loc[f"coverage_{level}", "meaning"] += (
                f"; with {cells.draws} draws its nominal share is {nominal:.3f}"
            )
    table.attrs["people"] = len(cells.truth)
    return table


def cells_of(
    result: Imputation | str | os.PathLike[str],
    truth: Cohort | np.ndarray | str | os.PathLike[str],
    joint: bool = False,
) -> tuple[Cells, tuple[str, ...]]:
    """The scores cell by cell, and the features' names; joint: those of whole visits too."""
    source = os.fspath(truth) if isinstance(truth, (str, os.PathLike)) else None
    if isinstance(result, Imputation):
        ids, features, draws, mean, visit = result.ids, result.features, result.draws, result.mean, result.visit
    else:
        ids, features, draws, visit = read_draws(result)
        mean = draws.mean(axis=0)
    cohort = truth if source is None else read_cohort(source, features=list(features))
    if isinstance(cohort, Cohort):
        values, baseline, unit, site, rows = _matched(cohort, ids, features, visit)
    else:
        values, baseline, unit, site, rows = _aligned(np.asarray(cohort), result, ids, features)
    if len(rows) < 3:
        raise InputError(f"only {len(rows)} imputed people have a true follow-up", file=source, mend="Score 3 or more")
    scaling = SharedScaling.fit(baseline, site)
    drawn = np.stack([scaling.apply(draw[rows], site) for draw in draws])
    true, before = scaling.apply(values, site), scaling.apply(baseline, site)
    yardstick = Yardstick.fit(true, before) if joint else None
    gap = result.gap[rows] if isinstance(result, Imputation) else None
    cells = Cells.of(true, before, scaling.apply(mean[rows], site), drawn, unit, gap=gap, yardstick=yardstick)
    return cells, features


def true_followup(cohort: Cohort) -> np.ndarray:
    """(N, D) what the follow-up really was: measured, or in a simulation hidden.

    NaN where it was measured on another site than the baseline, by whose offset it differs from what is imputed.
    """
    hidden = cohort.truth if isinstance(cohort, SimulatedCohort) else None
    found = cohort.followup if hidden is None else hidden
    return found if cohort.same_site.all() else np.where(cohort.same_site[:, None], found, np.nan)


Truth = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]


def _matched(cohort: Cohort, ids: np.ndarray, features: tuple[str, ...], visit: str) -> Truth:
    """Truth, baseline, units and sites of the imputed people who have a truth, and their rows in the imputation."""
    absent = sorted(set(features) - set(cohort.features))
    if absent:
        raise InputError(f"the truth has no feature {some(absent)}", file=cohort.source, mend="Score the same features")
    column = {name: place for place, name in enumerate(cohort.features)}
    columns = [column[name] for name in features]
    place = {name: row for row, name in enumerate(cohort.ids)}
    followup = _visit(cohort, visit)
    known = np.isfinite(followup).any(axis=1) & cohort.scanned
    rows = [row for row, name in enumerate(ids) if name in place and known[place[name]]]
    if not rows:
        raise InputError(
            f"none of the {len(ids)} imputed people has a measured follow-up in the truth",
            file=cohort.source,
            mend="Give the table of the same people, with their follow-up visits",
        )
    there = np.array([place[ids[row]] for row in rows])
    site = None if cohort.site is None else cohort.site[there]
    values = followup[there][:, columns]
    return values, cohort.baseline[there][:, columns], cohort.units()[there], site, np.array(rows)


def _visit(cohort: Cohort, label: str) -> np.ndarray:
    """(N, D) the visit of this label; the hidden truth of a simulation comes first."""
    if isinstance(cohort, SimulatedCohort) or label not in cohort.visit_labels[1:]:
        return true_followup(cohort)
    return cohort.on_one_site().visits[:, cohort.visit_labels.index(label)]


def _aligned(values: np.ndarray, result: object, ids: np.ndarray, features: tuple[str, ...]) -> Truth:
    if values.shape != (len(ids), len(features)):
        raise InputError(
            f"the truth has shape {values.shape}, the imputation {(len(ids), len(features))}",
            mend="Give one row per person of result.ids, or a cohort, which is matched by id",
        )
    if not isinstance(result, Imputation):
        raise InputError("a file of draws needs a cohort as truth", mend="Give the cohort's file")
    rows = np.flatnonzero(np.isfinite(values).any(axis=1))
    site = None if result.people.site is None else result.people.site[rows]
    return values[rows], result.baseline[rows], ids[rows], site, rows
