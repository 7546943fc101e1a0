"""What imputed visits are worth to those who predict an outcome from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from ...errors import InputError
from .bootstrap import interval, resamples
from .resemblance import weighted_auc

LEAST_POSITIVES = 30
FOLDS = 5
COMPONENTS = 20
BOOTSTRAPS = 500
MEASURES = {
    "auc": "area under the ROC curve",
    "pr_auc": "area under the precision-recall curve, as average precision",
    "brier": "mean squared error of the predicted chance",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """A yes-or-no outcome: `known` (N,) bool and `positive` (N,) bool, and what counts as positive."""

    known: np.ndarray
    positive: np.ndarray
    meaning: str


def binary_outcome(column: pd.Series) -> Outcome:
    """An outcome column as yes or no: the larger of two numbers, the later of two categories.

    Raises `InputError` where it has not exactly two values, or fewer than 30 people with either of them.
    """
    known = column.notna().to_numpy()
    values = sorted(set(column[known]), key=lambda value: (isinstance(value, str), value))
    if len(values) != 2:
        raise InputError(f"has {len(values)} values", column=column.name, mend="Give an outcome of two values")
    positive = known & (column == values[1]).to_numpy(dtype=bool, na_value=False)
    fewest = int(min(positive.sum(), (known & ~positive).sum()))
    if fewest < LEAST_POSITIVES:
        raise InputError(
            f"only {fewest} people have the rarer outcome",
            column=column.name,
            mend=f"{LEAST_POSITIVES} or more are needed to say anything about prediction",
        )
    return Outcome(known, positive, str(values[1]))


def downstream(
    outcome: pd.Series,
    covariates: np.ndarray,
    baseline: np.ndarray,
    imputed: np.ndarray,
    unit: np.ndarray,
    *,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
) -> pd.DataFrame:
    """How well an outcome is predicted without and with the imputed follow-up.

    outcome : N values;  covariates (N, C), baseline (N, D), imputed (N, D), the follow-up's mean, scaled;  unit (N,).
    The predictor is a logistic regression on covariates and the leading components of the baseline, without or with
    those of the imputed change, cross-validated over units. An imputation is a function of baseline and covariates, so
    a gain says that it presents what they hold better, not that it holds more.

    Indexed by measure (`auc`, `pr_auc`, `brier`: Davis and Goadrich 2006, Brier 1950) with columns without, with,
    difference, low, high (95 % interval of the difference over people or groups), positives, people, meaning.
    Raises `InputError` as `binary_outcome`, and for fewer units than folds.
    """
    asked = binary_outcome(outcome)
    rows = np.flatnonzero(asked.known)
    y, unit = asked.positive[rows].astype(int), unit[rows].astype(str)
    if len(set(unit)) < FOLDS:
        raise InputError(f"{len(set(unit))} groups do not go into {FOLDS} folds", column=outcome.name)
    change = np.where(np.isfinite(imputed - baseline), imputed - baseline, 0.0)[rows]
    covariates, baseline = (np.where(np.isfinite(each), each, 0.0)[rows] for each in (covariates, baseline))
    chance = {
        "without": _predicted([baseline], covariates, y, unit, seed),
        "with": _predicted([baseline, change], covariates, y, unit, seed),
    }
    weights = resamples(unit, bootstraps, seed)
    found = {}
    for measure, meaning in MEASURES.items():
        values = {name: _measure(measure, each, y, weights) for name, each in chance.items()}
        difference = interval(values["with"] - values["without"])
        found[measure] = (*(values[name][0] for name in chance), *difference, int(y.sum()), len(y), meaning)
    columns = ["without", "with", "difference", "low", "high", "positives", "people", "meaning"]
    table = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    table.index.name = "measure"
    return table


def _measure(name: str, chance: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if name == "auc":
        return weighted_auc(chance, y, weights)
    if name == "pr_auc":
        return average_precision(chance, y, weights)
    return weights @ (chance - y) ** 2 / weights.sum(axis=1)


def average_precision(score: np.ndarray, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision for each row of weights, the step-wise area under the precision-recall curve: (B,).

    score, label (N,), weights (B, N); people of one score come in together. NaN without a positive.
    """
    values, member = np.unique(-score, return_inverse=True)
    hits, all_of_them = (np.zeros((len(weights), len(values))) for _ in range(2))
    np.add.at(hits.T, member, (weights * label).T)
    np.add.at(all_of_them.T, member, weights.T)
    found, asked = np.cumsum(hits, axis=1), np.cumsum(all_of_them, axis=1)
    precision = found / np.where(asked > 0, asked, 1.0)
    total = found[:, -1]
    return np.where(total > 0, (precision * hits).sum(axis=1) / np.where(total > 0, total, 1.0), np.nan)


def _predicted(
    visits: list[np.ndarray], covariates: np.ndarray, y: np.ndarray, unit: np.ndarray, seed: int
) -> np.ndarray:
    """(N,) chances from people of other units; components and scales are those of the people learned from."""
    chance = np.zeros(len(y))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learn, judge in folds.split(y, y, unit):
        columns = [covariates, *(_leading(visit, learn) for visit in visits)]
        X = np.concatenate(columns, axis=1)
        spread = X[learn].std(axis=0)
        X = (X - X[learn].mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
        if len(set(y[learn])) < 2:
            chance[judge] = y[learn].mean()
            continue
        chance[judge] = LogisticRegression(C=0.1, max_iter=1000).fit(X[learn], y[learn]).predict_proba(X[judge])[:, 1]
    return chance


def _leading(visit: np.ndarray, learn: np.ndarray) -> np.ndarray:
    turn = np.linalg.svd(visit[learn] - visit[learn].mean(axis=0), full_matrices=False)[2]
    return visit @ turn[:COMPONENTS].T
