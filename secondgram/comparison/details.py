"""What a comparison knows beyond its table: calibration, components, resemblance, outcomes and noise ceilings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ..cohort.scaling import CovariateEncoder, SharedScaling
from ..cohort.table import Cohort
from ..errors import InputError
from ..evaluation.evaluate import true_followup
from ..evaluation.metrics import (
    Cells,
    cell_mean,
    coverage_table,
    downstream,
    interval,
    noise_ceilings,
    pit_table,
    resamples,
    resemblance_table,
    retest_reliability,
)
from ..evaluation.metrics.bootstrap import over_features
from ..evaluation.metrics.calibration import thirds
from ..files import writing
from .columns import numbers_of
from .hidden_visits import HiddenVisits

BOOTSTRAPS = 200


def details(cells: dict[str, Cells], cohort: Cohort, seed: int) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Tables by name, and what could not be told and why, one sentence each.

    coverage : central intervals, over everyone and within thirds by gap and by age.
    pit : histograms of the probability integral transform.
    components : CRPS along each leading component of the residual.
    resemblance : correlation matrices, MMD and a classifier test, with the floor that real visits reach.
    outcomes : prediction of declared outcomes without and with the imputed visits.
    ceilings : the best values possible given the error of measurement, where people were scanned twice.
    hidden : of hidden visits, errors and coverage by how many visits are shown, and by the years to the nearest.
    """
    groups = _groups(next(iter(cells.values())), cohort)
    weights = resamples(next(iter(cells.values())).unit, BOOTSTRAPS, seed)
    made: dict[str, list[pd.DataFrame]] = {}
    notes: list[str] = []
    for method, part in cells.items():
        found = {
            "coverage": coverage_table(part, weights, groups),
            "pit": pit_table(part, weights),
            "components": _components(part, weights),
            "resemblance": resemblance_table(part, seed).reset_index(),
            "outcomes": _outcomes(part, cohort, seed, notes),
            "hidden": _hidden(part, cohort, weights) if isinstance(cohort, HiddenVisits) else pd.DataFrame(),
        }
        for name, table in found.items():
            if len(table):
                table.insert(0, "method", method)
                made.setdefault(name, []).append(table)
    tables = {name: pd.concat(list_of, ignore_index=True) for name, list_of in made.items()}
    try:
        tables["ceilings"] = _ceilings(cohort)
    except InputError as error:
        notes.append(f"noise ceilings: {error.problem}")
    return tables, list(dict.fromkeys(notes))


def write_details(folder: str | os.PathLike[str], tables: dict[str, pd.DataFrame]) -> None:
    """Write each table as NAME.csv, whole or not at all."""
    for name, table in tables.items():
        with writing(Path(folder) / f"{name}.csv") as file:
            table.to_csv(file, index=False)


def _groups(cells: Cells, cohort: Cohort) -> dict[str, np.ndarray]:
    """Gap and age of the people scored, where they are known."""
    groups = {}
    if cells.gap is not None:
        groups["gap"] = cells.gap
    age = numbers_of(cohort.covariate_table, "age")
    if age is not None:
        groups["age"] = age.to_numpy(dtype=float)[_rows(cells, cohort)]
    return groups


def _rows(cells: Cells, cohort: Cohort) -> np.ndarray:
    """Rows of the cohort of the people scored."""
    assert cells.ids is not None
    place = {name: row for row, name in enumerate(cohort.ids)}
    return np.array([place[name] for name in cells.ids])


def _components(cells: Cells, weights: np.ndarray) -> pd.DataFrame:
    values = cells.joint.get("components", np.zeros((len(cells.truth), 0)))
    found = cell_mean(values, weights)
    rows = [(number + 1, *interval(found[:, number])) for number in range(found.shape[1])]
    return pd.DataFrame(rows, columns=["component", "value", "low", "high"])


def _hidden(cells: Cells, cohort: HiddenVisits, weights: np.ndarray) -> pd.DataFrame:
    """CRPS, RMSE and coverage by the number of visits shown, and by thirds of the years to the nearest of them."""
    rows = _rows(cells, cohort)
    known, years = cohort.known[rows].sum(axis=1), cohort.gap[rows]
    third = thirds(years)
    parts = [("visits shown", str(count), known == count) for count in np.unique(known)]
    for number in np.unique(third[third >= 0]):
        mine = third == number
        parts.append(("years to the nearest", f"{years[mine].min():.3g} to {years[mine].max():.3g}", mine))
    found = []
    for by, part, mine in parts:
        values = {"crps": cells.crps, "rmse": (cells.mean - cells.truth) ** 2, "coverage_90": cells.covered}
        for metric, of_cells in values.items():
            average = over_features(cell_mean(of_cells[mine], weights[:, mine]))
            average = np.sqrt(average) if metric == "rmse" else average
            if np.isfinite(average[0]):
                people = len(np.unique(cohort.person[rows[mine]]))
                found.append((by, part, len(np.unique(rows[mine])), people, metric, *interval(average)))
    return pd.DataFrame(found, columns=["by", "part", "visits", "people", "metric", "value", "low", "high"])


def _outcomes(cells: Cells, cohort: Cohort, seed: int, notes: list[str]) -> pd.DataFrame:
    rows = _rows(cells, cohort)
    first = np.unique(rows, return_index=True)[1]
    table = cohort.covariate_table.iloc[rows[first]]
    covariates = CovariateEncoder.fit(table).transform(table)
    made = []
    for name in cohort.outcomes.columns:
        try:
            found = downstream(
                cohort.outcomes[name].iloc[rows[first]].reset_index(drop=True),
                covariates,
                cells.baseline[first],
                cells.mean[first],
                cells.unit[first],
                seed=seed,
            )
        except InputError as error:
            notes.append(f"outcome {name} not scored: {error.problem}")
            continue
        found.insert(0, "outcome", name)
        made.append(found.reset_index())
    return pd.concat(made) if made else pd.DataFrame()


def _ceilings(cohort: Cohort) -> pd.DataFrame:
    reliability = retest_reliability(cohort)
    scaling = SharedScaling.fit(cohort.baseline, cohort.site)
    change = scaling.apply(true_followup(cohort), cohort.site) - scaling.apply(cohort.baseline, cohort.site)
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(change).sum(axis=0) > 2
        variance = np.full(len(cohort.features), np.nan)
        variance[seen] = np.nanvar(change[:, seen], axis=0, ddof=1)
    table = noise_ceilings(reliability.value, variance)
    table.insert(0, "feature", list(cohort.features))
    table["people"] = reliability.people
    return table
