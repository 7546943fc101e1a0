"""What a report says about a comparison: verdicts, calibration, correlations and groups, from cells.

N people, D features, B bootstrap weights (1 + B, N) of which row 0 is the sample itself; values are in baseline SD. An
interval is of 95 %, over people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ..evaluation.metrics import (
    Cells,
    Estimate,
    cell_mean,
    correlation,
    correlation_distances,
    interval,
    pit_histogram,
    pooled_mean,
    win_tie_loss,
)

FEWEST_PEOPLE = 10
SCATTER_BINS = 56
SCATTER_GROUPS = 10
PIT_BINS = 20
MATRIX_CELLS = 96
SHOWN_PEOPLE = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN_FEATURES = 4
POOLED = "smaller groups together"


# -- the verdict ---------------------------------------------------------------------------


def feature_findings(focus: dict[str, Cells], names: list[str], weights: np.ndarray) -> dict[str, Any]:
    """Per feature: errors of each role's method, differences in per cent with intervals, and what to use.

    focus : cells by role, `ours` and as far as they took part `carry` and `ridge`. Against carry-forward and for ridge
    against it the root mean squared errors of the point predictions count, because carry-forward has no distribution;
    between ours and ridge the CRPS of the draws.
    """
    squares = {role: cell_mean((cells.mean - cells.truth) ** 2, weights) for role, cells in focus.items()}
    crps = {role: cell_mean(cells.crps, weights) for role, cells in focus.items()}
    found: dict[str, Any] = {
        "name": names,
        "rmse": {role: np.sqrt(values[0]) for role, values in squares.items()},
        "crps": {role: values[0] for role, values in crps.items()},
    }
    for role in ("ours", "ridge"):
        if role in focus and "carry" in focus:
            found[f"{role}_carry"] = _intervals(_percent(np.sqrt(squares[role]), np.sqrt(squares["carry"])))
    if "ridge" in focus:
        found["ours_ridge"] = _intervals(_percent(crps["ours"], crps["ridge"]))
    found["use"] = [_use(found, place) for place in range(len(names))]
    return found


def _use(found: dict[str, Any], place: int) -> str:
    """The simplest method that nothing beats clearly: carry-forward, then ridge, then ours."""
    if "ours_carry" not in found:
        return "ours" if "ours_ridge" not in found or win_tie_loss(found["ours_ridge"][place]) == "better" else "ridge"
    ours = win_tie_loss(found["ours_carry"][place]) == "better"
    ridge = "ridge_carry" in found and win_tie_loss(found["ridge_carry"][place]) == "better"
    if ours and ridge:
        return "ours" if win_tie_loss(found["ours_ridge"][place]) == "better" else "ridge"
    return "ours" if ours else "ridge" if ridge else "carry"


def _percent(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * (ours / theirs - 1.0)


def _intervals(values: np.ndarray) -> list[Estimate]:
    return [interval(column) for column in values.T]


# -- change --------------------------------------------------------------------------------


def change(cells: Cells, weights: np.ndarray) -> dict[str, Any] | None:
    """True against predicted change over all cells: counts on a grid, means of tenths, regression; None if no change.

    counts (y, x) : cells of the grid between `x` and `y`, which hold 99.6 % of the predicted and true changes.
    slope, r : of true on predicted change;  groups : tenths of the predicted change, (predicted, true, low, high).
    """
    x, y = cells.mean - cells.baseline, cells.truth - cells.baseline
    seen = np.isfinite(x) & np.isfinite(y)
    if not seen.any() or x[seen].std() < 1e-9:
        return None
    sums = [np.where(seen, part, 0.0).sum(axis=1) for part in (np.ones_like(x), x, y, x * x, x * y, y * y)]
    n, sx, sy, sxx, sxy, syy = (weights @ part for part in sums)
    covariance, vx, vy = sxy / n - sx * sy / n**2, sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
    slope, r = covariance / vx, covariance / np.sqrt(vx * vy)
    edge = np.quantile(x[seen], np.linspace(0, 1, SCATTER_GROUPS + 1)[1:-1])
    tenth = np.where(seen, np.searchsorted(edge, x), -1)
    groups = []
    for number in range(SCATTER_GROUPS):
        mine = tenth == number
        if mine.any():
            true = weights @ np.where(mine, y, 0.0).sum(axis=1) / np.maximum(weights @ mine.sum(axis=1), 1e-12)
            groups.append((float(x[mine].mean()), *interval(true)))
    ends = [tuple(np.quantile(values[seen], [0.002, 0.998])) for values in (x, y)]
    counts, _, _ = np.histogram2d(y[seen], x[seen], bins=SCATTER_BINS, range=[ends[1], ends[0]])
    at = float(sy[0] / n[0]), float(sx[0] / n[0])
    return {
        "counts": counts.astype(int),
        "x": ends[0],
        "y": ends[1],
        "cells": int(seen.sum()),
        "slope": interval(slope),
        "r": interval(r),
        "start": at[0] - float(slope[0]) * at[1],
        "groups": groups,
    }


# -- calibration ---------------------------------------------------------------------------


def coverage(cells: Cells, weights: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Nominal levels (K,) of central intervals, and the share of truth inside each (1 + B, K)."""
    draws = cells.draws
    ranks = np.unique(np.linspace(1, draws // 2, min(12, draws // 2)).round().astype(int))
    nominal = [(draws + 1 - 2 * k) / (draws + 1) for k in ranks]
    return nominal, np.stack([pooled_mean(cells.inside(int(k)), weights) for k in ranks], axis=1)


def calibration(cells: Cells, weights: np.ndarray) -> dict[str, Any]:
    """Share of truth inside central intervals of several nominal levels."""
    nominal, share = coverage(cells, weights)
    return {"draws": cells.draws, "nominal": nominal, "share": _intervals(share)}


def pit(cells: Cells, weights: np.ndarray) -> list[Estimate]:
    """Density of the probability integral transform in equal bins, 1 throughout where draws and truth are alike."""
    bins = min(PIT_BINS, cells.draws + 1)
    return _intervals(pit_histogram(cells, weights, bins) * bins)


# -- groups of people ----------------------------------------------------------------------


def quarters(values: np.ndarray) -> np.ndarray:
    """Labels (N,) of the quarters of the people by a number, "" where it is unknown; all "" where it never varies."""
    labels = np.full(len(values), "", dtype=object)
    seen = np.isfinite(values)
    if not seen.any():
        return labels
    edges = np.unique(np.quantile(values[seen], [0, 0.25, 0.5, 0.75, 1]).round(1))
    if len(edges) < 3:
        return labels
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for number in range(len(edges) - 1):
        labels[seen & (place == number)] = f"{edges[number]:.1f} to {edges[number + 1]:.1f}"
    return labels


def named(values: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Labels (N,) of groups by name, "" where it is unknown; small groups are pooled. person : (N,) who a row is."""
    labels = np.array(["" if value is None else str(value) for value in values], dtype=object)
    names = np.unique(labels[labels != ""].astype(str))
    small = [name for name in names if len(set(person[labels == name])) < FEWEST_PEOPLE]
    return np.where(np.isin(labels.astype(str), small), POOLED, labels) if len(small) else labels


def groups(
    focus: dict[str, Cells], labels: dict[str, np.ndarray], person: np.ndarray, weights: np.ndarray
) -> list[dict[str, Any]]:
    """Per group of people: how many, errors against carry-forward and ridge in per cent, and coverage of draws.

    labels : by kind, (N,) text each.  person : (N,), who a row is; repeats test a person several times.
    A pool of fewer than `FEWEST_PEOPLE` people is left out, its size not told.
    """
    found = []
    for kind, label in labels.items():
        for name in _ordered(label, kind):
            mine = label == name
            people_of = len(set(person[mine]))
            if people_of < FEWEST_PEOPLE or len(set(focus["ours"].unit[mine])) < 2:
                continue
            found.append({"kind": kind, "name": name, "people": people_of, **_group(focus, mine, weights[:, mine])})
    return [row for row in found if sum(other["kind"] == row["kind"] for other in found) > 1]


def _ordered(label: np.ndarray, kind: str) -> list[str]:
    names, count = np.unique(label[label != ""].astype(str), return_counts=True)
    if kind in ("gap", "age"):
        return sorted(names, key=lambda name: float(name.split()[0]))
    if kind == "shown":
        return sorted(names, key=lambda name: (name == POOLED, name.zfill(4)))
    return sorted(names, key=lambda name: (name == POOLED, -int(count[names == name][0]), name))


def _group(focus: dict[str, Cells], mine: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {}
    squares = {role: (cells.mean[mine] - cells.truth[mine]) ** 2 for role, cells in focus.items()}
    rmse = {role: np.sqrt(pooled_mean(square, weights)) for role, square in squares.items()}
    crps = {role: pooled_mean(cells.crps[mine], weights) for role, cells in focus.items()}
    if "carry" in focus:
        row["ours_carry"] = interval(_percent(rmse["ours"], rmse["carry"]))
    if "ridge" in focus:
        row["ours_ridge"] = interval(_percent(crps["ours"], crps["ridge"]))
    if focus["ours"].draws > 1:
        row["coverage"] = interval(pooled_mean(focus["ours"].covered[mine], weights))
    return row


# -- correlations --------------------------------------------------------------------------


def correlations(cells: Cells, seed: int) -> dict[str, Any]:
    """Correlation matrices of real and imputed follow-ups, and of their changes from baseline.

    A single draw a person is compared, because means vary too little. `distance` and `floor` are those of
    `correlation_distances`: of imputed visits, and of real ones, from the real visits of other people.
    Matrices hold per cent, features in the order of a clustering of the real ones; large ones are averaged over blocks.
    """
    seen, everyone = np.isfinite(cells.truth), np.ones(len(cells.truth))
    found: dict[str, Any] = {}
    apart = correlation_distances(cells, seed, scattered=False)
    order = None
    for what, base in (("levels", 0.0), ("changes", cells.baseline)):
        real = correlation(cells.truth - base, everyone)
        imputed = correlation(np.where(seen, cells.draw, np.nan) - base, everyone)
        order = _clustered(real) if order is None else order
        found[what] = {
            "real": _blocks(real[np.ix_(order, order)]),
            "imputed": _blocks(imputed[np.ix_(order, order)]),
            **dict(zip(("distance", "floor"), apart[what][0] if what in apart else (np.nan, np.nan), strict=True)),
        }
    return found | {"features": len(cells.truth.T)}


def _clustered(matrix: np.ndarray) -> np.ndarray:
    if len(matrix) < 3:
        return np.arange(len(matrix))
    apart = 1.0 - np.nan_to_num(matrix)
    np.fill_diagonal(apart, 0.0)
    return leaves_list(linkage(squareform((apart + apart.T) / 2, checks=False), "average"))


def _blocks(matrix: np.ndarray) -> np.ndarray:
    """Per cent, averaged to at most `MATRIX_CELLS` cells a side."""
    width = min(len(matrix), MATRIX_CELLS)
    part = np.arange(len(matrix)) * width // len(matrix)
    sums = np.eye(width)[part].T / np.bincount(part)[:, None]
    return (100 * sums @ np.nan_to_num(matrix) @ sums.T).round().astype(int)


# -- people --------------------------------------------------------------------------------


def people(
    ours: Cells, ends: np.ndarray, gap: np.ndarray, rows: Sequence[int], names: Sequence[str]
) -> dict[str, Any] | None:
    """A few people's changes with the ends of their intervals, chosen by rule; None where nobody is complete.

    The features are those that change most on average, the people those at fixed shares of the order of error, among
    people complete in these features. rows : place of each person in the cohort's table, from 0; of a person who was
    tested several times the first counts. `place` is that among those tested.
    """
    step = ours.truth - ours.baseline
    moved = np.abs(np.nansum(step, axis=0)) / np.maximum(np.isfinite(step).sum(axis=0), 1)
    columns = np.argsort(-moved, kind="stable")[:SHOWN_FEATURES]
    complete = np.isfinite(ours.truth[:, columns]).all(axis=1) & np.isfinite(ours.baseline[:, columns]).all(axis=1)
    first = np.zeros(len(complete), dtype=bool)
    first[np.unique(np.asarray(rows), return_index=True)[1]] = True
    able = np.flatnonzero(complete & first)
    if not len(able) or not ends.shape[1]:
        return None
    error = np.nanmean(ours.crps, axis=1)[able]
    order = able[np.argsort(error, kind="stable")]
    chosen = {round(share * (len(order) - 1)): share for share in SHOWN_PEOPLE}
    examples = []
    for place, share in chosen.items():
        person = order[place]
        series = np.stack([ours.truth[person], ours.mean[person], *ends[:, person]]) - ours.baseline[person]
        examples.append(
            {
                "row": int(rows[person]) + 1,
                "place": int(person),
                "share": share,
                "gap": float(gap[person].round(1)),
                "values": series[:, columns].T,
            }
        )
    return {"features": [names[column] for column in columns], "people": examples, "complete": len(able)}
