"""The mean of the follow-up: linear predictors of the change, chosen per feature by cross-validation.

Every candidate is a linear map from X = [baseline, covariates, gap] to the change, so that the one chosen, feature by
feature, is a single matrix. From simple to rich:

    carry_forward   no change
    mean_change     ridge on covariates and gap
    own             mean_change, and each feature's regression on its own baseline
    ridge           own, and a ridge on all baseline features, covariates and gap for what it leaves
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ops.tiles import matmul

CANDIDATES = ("carry_forward", "mean_change", "own", "ridge")
FOLDS = 5
# Penalties as multiples of the number of pairs, for columns of unit variance.
PENALTIES = np.logspace(-2.0, 2.5, 10)
# Against the overall winner, a feature goes its own way only for a gain this many standard errors above zero.
DEVIATION = 2.0


class RidgePath:
    """Ridge regressions of Y on X for any penalty from one eigendecomposition; rows carry weights.

    X (P, p), Y (P, D), weight (P,). Columns of X are centred and scaled to unit variance; the intercept is free.
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> None:
        share = weight / weight.sum()
        self.x_mean, self.y_mean = share @ X, share @ Y
        centred = X - self.x_mean
        spread = np.sqrt(share @ centred**2)
        # What is left of a constant column is rounding; a scale of infinity switches it off.
        self.spread = np.where(spread > 1e-9 * np.maximum(np.abs(self.x_mean), 1.0), spread, np.inf)
        root = np.sqrt(share)[:, None]
        left, right = root * centred / self.spread, root * (Y - self.y_mean)
        if left.shape[0] < left.shape[1]:
            values, vectors = np.linalg.eigh(left @ left.T)
            self.basis, self.target = left.T @ vectors, vectors.T @ right
        else:
            values, self.basis = np.linalg.eigh(left.T @ left)
            self.target = self.basis.T @ (left.T @ right)
        self.values = np.maximum(values, 0.0)

    def coefficients(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """(p, D) coefficients of the columns as given, and the (D,) intercept."""
        W = (self.basis @ (self.target / (self.values + penalty)[:, None])) / self.spread[:, None]
        return W, self.y_mean - self.x_mean @ W


Map = tuple[np.ndarray, np.ndarray]
Errors = dict[str, np.ndarray]


def _apply(X: np.ndarray, linear: Map) -> np.ndarray:
    return X @ linear[0] + linear[1]


@dataclass
class _Fit:
    """The candidates fitted on some pairs: maps by name, and the path of penalties of the richest."""

    simple: dict[str, Map]
    path: RidgePath

    @classmethod
    def on(cls, X: np.ndarray, change: np.ndarray, weight: np.ndarray, width: int) -> _Fit:
        features, inputs = width, X.shape[1]
        none: Map = (np.zeros((inputs, features)), np.zeros(features))
        # Covariates and gap are few: a light penalty keeps them stable and leaves them free.
        context = X[:, features:]
        both = RidgePath(context, np.concatenate([change, X[:, :features]], axis=1), weight)
        W, intercept = both.coefficients(PENALTIES[0])
        mean_change = _padded(W[:, :features], intercept[:features], inputs)
        own_part = _padded(W[:, features:], intercept[features:], inputs)
        rest = X[:, :features] - _apply(X, own_part)
        left = change - _apply(X, mean_change)
        share = weight / weight.sum()
        variance = share @ rest**2
        # A pseudo-pair's worth of "no regression to the mean" keeps the slope finite for a feature that hardly varies.
        slope = (share @ (rest * left)) / (variance + variance.mean() / len(X) + 1e-12)
        own = (mean_change[0] - own_part[0] * slope, mean_change[1] - own_part[1] * slope)
        own[0][np.arange(features), np.arange(features)] += slope
        path = RidgePath(X, change - _apply(X, own), weight)
        return cls({"carry_forward": none, "mean_change": mean_change, "own": own}, path)

    def ridge(self, penalty: float) -> Map:
        W, intercept = self.path.coefficients(penalty)
        return self.simple["own"][0] + W, self.simple["own"][1] + intercept

    def map(self, name: str, penalty: float) -> Map:
        return self.ridge(penalty) if name == "ridge" else self.simple[name]


def _padded(W: np.ndarray, intercept: np.ndarray, inputs: int) -> Map:
    # Coefficients of covariates and gap as coefficients of [baseline, covariates, gap].
    return np.concatenate([np.zeros((inputs - len(W), W.shape[1])), W]), intercept


@dataclass(eq=False)
class MeanPredictor:
    """The predicted change, X W + intercept, in scaled units.

    W : (D + C + 1, D);  intercept : (D,);  chosen : (D,) candidate names;  winner : the overall one.
    gain : per candidate, cross-validated reduction of the squared error against carry-forward, scaled units squared:
        mean over features and its standard error over people.
    """

    W: np.ndarray
    intercept: np.ndarray
    chosen: list[str]
    winner: str
    penalty: float
    gain: dict[str, list[float]] = field(default_factory=dict)

    def change(self, X: np.ndarray) -> np.ndarray:
        """X (N, D + C + 1) -> (N, D), each row independent of the others."""
        return matmul(X, self.W) + self.intercept

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MeanPredictor:
        return cls(**state)


def fit_mean(
    X: np.ndarray, change: np.ndarray, weight: np.ndarray, unit: np.ndarray, seed: int
) -> tuple[MeanPredictor, np.ndarray]:
    """Choose and fit the mean; also the out-of-fold residuals (P, D) of what was chosen, NaN where unknown.

    X : (P, D + C + 1) without NaN;  change : (P, D), NaN where the later visit was not measured.
    Unknown changes count as the feature's mean change when fitting, and not at all when scoring.
    """
    seen = np.isfinite(change)
    known, width = _filled(change, weight), change.shape[1]
    fold = _unit_folds(unit, seed)
    fits = []
    for k in range(fold.max() + 1):
        rows = fold != k
        # Filled again: the mean over everybody would tell a fold about the people it leaves out.
        fits.append(_Fit.on(X[rows], _filled(change[rows], weight[rows]), weight[rows], width))
    penalty = _best_penalty(X, known, seen, weight, fold, fits)
    error = {}
    for name in CANDIDATES:
        error[name] = np.empty_like(known)
        for k, fit in enumerate(fits):
            error[name][fold == k] = known[fold == k] - _apply(X[fold == k], fit.map(name, penalty))

    winner, gain = _overall(error, seen, weight, unit)
    chosen = _per_feature(error, seen, weight, unit, winner)
    full = _Fit.on(X, known, weight, width)
    maps = {name: full.map(name, penalty) for name in set(chosen)}
    W = np.stack([maps[name][0][:, j] for j, name in enumerate(chosen)], axis=1)
    intercept = np.array([maps[name][1][j] for j, name in enumerate(chosen)])
    residual = np.stack([error[name][:, j] for j, name in enumerate(chosen)], axis=1)
    return MeanPredictor(W, intercept, chosen, winner, float(penalty), gain), np.where(seen, residual, np.nan)


def _filled(change: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # Unknown changes (P, D) as the mean change of their feature.
    seen = np.isfinite(change)
    share = np.where(seen, weight[:, None], 0.0)
    average = (share * np.where(seen, change, 0.0)).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-12)
    return np.where(seen, change, average)


def _unit_folds(unit: np.ndarray, seed: int) -> np.ndarray:
    names, member = np.unique(unit, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % min(FOLDS, len(names)))[member]


def _best_penalty(
    X: np.ndarray, known: np.ndarray, seen: np.ndarray, weight: np.ndarray, fold: np.ndarray, fits: list[_Fit]
) -> float:
    loss = np.zeros(len(PENALTIES))
    for k, fit in enumerate(fits):
        rows = fold == k
        scale = weight[rows, None] * seen[rows]
        for place, penalty in enumerate(PENALTIES):
            loss[place] += (scale * (known[rows] - _apply(X[rows], fit.ridge(penalty))) ** 2).sum()
    return float(PENALTIES[int(loss.argmin())])


def _unit_sums(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    # (units, D): sums over the pairs of each unit, because pairs of one unit are not independent.
    member = np.unique(unit, return_inverse=True)[1]
    order = np.argsort(member, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(member[order], prepend=-1)))


def _overall(
    error: Errors, seen: np.ndarray, weight: np.ndarray, unit: np.ndarray
) -> tuple[str, dict[str, list[float]]]:
    """The simplest candidate that no richer one beats by more than one standard error, and every gain."""
    base = _unit_sums((weight[:, None] * seen * error["carry_forward"] ** 2).mean(axis=1), unit)
    per_unit = {n: _unit_sums((weight[:, None] * seen * error[n] ** 2).mean(axis=1), unit) for n in CANDIDATES}
    winner = CANDIDATES[0]
    for name in CANDIDATES[1:]:
        gain = per_unit[winner] - per_unit[name]
        if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
            winner = name
    gains = {
        n: [float((base - per_unit[n]).mean()), float((base - per_unit[n]).std(ddof=1) / np.sqrt(len(base)))]
        for n in CANDIDATES
    }
    return winner, gains


def _per_feature(error: Errors, seen: np.ndarray, weight: np.ndarray, unit: np.ndarray, winner: str) -> list[str]:
    """The overall winner, except for features where another candidate is clearly better."""
    loss = {name: _unit_sums(weight[:, None] * seen * error[name] ** 2, unit) for name in CANDIDATES}
    best = np.full(loss[winner].shape[1], DEVIATION)
    chosen = np.full(len(best), winner, dtype=object)
    for name in CANDIDATES:
        gain = loss[winner] - loss[name]
        deviation = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
        strength = np.divide(gain.mean(axis=0), deviation, out=np.zeros(len(best)), where=deviation > 0)
        chosen = np.where(strength > best, name, chosen)
        best = np.maximum(strength, best)
    return [str(name) for name in chosen]
