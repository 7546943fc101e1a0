"""Rung 2, the spread: how far the follow-up scatters about its mean, person by person and feature by feature.

    log s = a_j + slopes . [covariates, gap, own baseline, log size of the own baseline]

fitted to the size of out-of-fold residuals (a gamma regression with log link, which outliers move little). From simple
to rich: one spread a feature; that and a slope on the gap, common to all features; common slopes on everything; slopes
of each feature's own, drawn towards the common ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...cohort.scaling import quantiles
from ...ops.row_tiles import matmul
from ...ops.thread_pool import in_parallel
from ..folds import gains, simplest, unit_averages
from ..scores import normal_crps
from .borrowing import borrowed_level

CANDIDATES = ("constant", "gap", "common", "own")
# Pairs' worth of the common slopes that a feature's own are drawn by, and of "no slope" that the common ones are.
PRIOR_PAIRS = 150.0
COMMON_PRIOR = 2.0
ROUNDS, CLOSE = 40, 1e-5
# E|e| of a standard normal: a mean size is fitted, and a standard deviation is wanted.
MEAN_SIZE = np.sqrt(2.0 / np.pi)
OWN_COLUMNS = 2
# Half of an interval of 90 % of a standard normal; and the fewest pairs that a spread counts as being learned from.
Z_90, FEWEST = 1.6449, 5.0
# Robust standard deviations that an error counts as at most.
FARTHEST = 8.0
# People's worth of all pairs that the pairs like those to be imputed are drawn by.
PRIOR_WANTED = 20.0


@dataclass(eq=False)
class Spread:
    """Standard deviations for X = [baseline, covariates, gap], in scaled units.

    level : (D,) log of the spread at average columns;  slopes : (C + 1 + 2, D);  centre : (C + 1, ) and own_centre
    (2, D), subtracted from the columns;  reach : (2, D), the least and largest log spread of the training pairs, beyond
    which nothing is extrapolated.
    doubt : (D,), log of how much wider a prediction is than that, because few pairs leave the spread itself in doubt,
    and the pairs that are imputed may scatter by more or less than the others that teach.
    """

    level: np.ndarray
    slopes: np.ndarray
    centre: np.ndarray
    own_centre: np.ndarray
    reach: np.ndarray
    candidate: str
    gain: dict[str, list[float]] = field(default_factory=dict)
    doubt: np.ndarray | float = 0.0

    def scale(self, X: np.ndarray) -> np.ndarray:
        """X (N, D + C + 1) -> (N, D) of predictions, each row independent of the others."""
        return np.asarray(self.fitted(X) * np.exp(self.doubt))

    def fitted(self, X: np.ndarray) -> np.ndarray:
        """X (P, D + C + 1) -> (P, D) of the errors that it was learned from."""
        return np.exp(np.clip(self._log(X), *self.reach))

    def _log(self, X: np.ndarray) -> np.ndarray:
        width = len(self.level)
        shared = len(self.centre)
        value = self.level + matmul(X[:, width:] - self.centre, self.slopes[:shared])
        for column, centre, slope in zip(_own(X[:, :width]), self.own_centre, self.slopes[shared:], strict=True):
            value += (column - centre) * slope
        return value

    def for_wanted(self, standard: np.ndarray, weight: np.ndarray, unit: np.ndarray, wanted: np.ndarray) -> Spread:
        """The same for pairs of a kind: wanted (P,) bool, of the first visit with the target where these are imputed.

        standard (P, D) errors as shares of `fitted`, NaN where unknown;  weight, unit (P,). One factor for all
        features, drawn towards 1: later visits of people who stay teach the slopes well, and scatter less.
        """
        if wanted.all() or not wanted.any():
            return self

        def size(rows: np.ndarray) -> float:
            counted = weight[rows, None] * np.isfinite(standard[rows])
            total = float(counted.sum())
            return float((counted * np.abs(np.nan_to_num(standard[rows]))).sum()) / total if total > 0 else 0.0

        usual, here = size(np.ones_like(wanted)), size(wanted)
        if min(usual, here) <= 0:
            return self
        people = len(np.unique(unit[wanted]))
        return replace(self, doubt=self.doubt + people / (people + PRIOR_WANTED) * np.log(here / usual))

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Spread:
        return cls(**state)


def fit_spread(X: np.ndarray, residual: np.ndarray, weight: np.ndarray, unit: np.ndarray, fold: np.ndarray) -> Spread:
    """Choose and fit the spread.

    X (P, D + C + 1), residual (P, D) out of fold, NaN where unknown, weight (P,), unit (P,), fold (P,).
    """
    usable = [name for name in CANDIDATES if name != "gap" or np.ptp(X[:, -1]) > 1e-9]
    score = {name: np.full(residual.shape, np.nan) for name in usable}

    def judge(k: int) -> None:
        held = fold == k
        for name in usable:
            spread = _fit(name, X[~held], residual[~held], weight[~held])
            score[name][held] = normal_crps(residual[held], spread.scale(X[held]))

    in_parallel(judge, range(fold.max() + 1))
    known = np.isfinite(residual).any(axis=1)
    per_unit = {
        name: unit_averages(np.nanmean(values[known], axis=1), weight[known], unit[known])
        for name, values in score.items()
    }
    spread = _fit(simplest(per_unit), X, residual, weight)
    spread.gain = gains(per_unit)
    return spread


def spread_as(candidate: str, X: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> Spread:
    """The spread of this kind of errors (P, D), NaN where unknown."""
    return _fit(candidate, X, residual, weight)


def _own(baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A feature's own baseline (N, D), scaled, and the log of its size; far outliers count as far ones.
    return np.clip(baseline, -4.0, 4.0), np.log(np.abs(baseline) + 0.3)


def _fit(name: str, X: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> Spread:
    width = residual.shape[1]
    share = weight / weight.sum()
    # Weights that add up to the number of independent pairs, so that the priors count as pairs.
    seen = np.isfinite(residual) * (share / (share**2).sum())[:, None]
    size = np.abs(np.where(seen > 0, residual, 0.0))
    half, most = quantiles(np.where(seen > 0, np.abs(residual), np.nan), 0.5, 0.9)
    farthest = FARTHEST * np.fmax(1.4826 * half, most / 1.645)
    size = np.minimum(size, np.where(np.isfinite(farthest), farthest, np.inf))
    shared = X[:, width:]
    centre = share @ shared
    own = _own(X[:, :width])
    own_centre = np.stack([share @ column for column in own])
    columns = shared - centre
    if name in ("constant", "gap"):
        columns = columns * (np.arange(columns.shape[1]) == columns.shape[1] - 1) * (name == "gap")
    turned = [column - middle for column, middle in zip(own, own_centre, strict=True)]
    if name in ("constant", "gap"):
        turned = [np.zeros_like(column) for column in turned]
    fit = _Gamma(columns, turned, size, seen)
    if name != "constant":
        fit.common()
    if name == "own":
        fit.deviate()
    level = borrowed_level(fit.level, fit.total)
    spread = Spread(level - np.log(MEAN_SIZE), fit.slopes, centre, own_centre, np.zeros((2, width)), name)
    log = spread._log(X)
    spread.reach = np.stack([log.min(axis=0), log.max(axis=0)])
    spread.doubt = np.log(_wider(fit.total))
    return spread


def _wider(pairs: np.ndarray) -> np.ndarray:
    """How much wider than a normal's an interval of 90 % is with a spread learned from so many pairs.

    Student's t over the normal quantile to first order, 1 + (z^2 + 1) / (4 df) (Abramowitz and Stegun 26.7.5), where a
    mean size of n normal errors is as good as a standard deviation of df = n / (pi - 2) degrees of freedom.
    """
    df = np.maximum(pairs, FEWEST) / (np.pi - 2.0)
    return np.asarray(1.0 + (Z_90**2 + 1.0) / (4.0 * df))


class _Gamma:
    """log E|e| = level + columns . slopes, by Fisher scoring; the information does not depend on the slopes.

    columns (P, q) shared by all features, own: list of (P, D), size (P, D) = |e|, seen (P, D) weights, 0 where unknown.
    """

    def __init__(self, columns: np.ndarray, own: list[np.ndarray], size: np.ndarray, seen: np.ndarray) -> None:
        self.columns, self.own, self.seen = columns, own, seen
        total = np.maximum(seen.sum(axis=0), 1e-12)
        average = np.maximum((seen * size).sum(axis=0) / total, 1e-9)
        self.total, self.level = total, np.log(average)
        # A residual of nothing would pull without end.
        self.size = np.maximum(size, 1e-3 * average)
        self.slopes = np.zeros((columns.shape[1] + len(own), seen.shape[1]))
        self.gram = self._gram()

    def _gram(self) -> np.ndarray:
        """(D, Q, Q) information of the slopes of each feature."""
        shared = self.columns.shape[1]
        count = shared + len(self.own)
        gram = np.empty((self.seen.shape[1], count, count))
        products = (self.columns[:, :, None] * self.columns[:, None, :]).reshape(len(self.columns), shared**2)
        gram[:, :shared, :shared] = (self.seen.T @ products).reshape(-1, shared, shared)
        for place, column in enumerate(self.own, shared):
            cross = (self.seen * column).T @ self.columns
            gram[:, place, :shared] = gram[:, :shared, place] = cross
            for other, second in enumerate(self.own, shared):
                gram[:, place, other] = (self.seen * column * second).sum(axis=0)
        return gram

    def _score(self) -> np.ndarray:
        """(Q, D) gradient of the likelihood in the slopes, after moving the levels to their best."""
        log = self.columns @ self.slopes[: self.columns.shape[1]]
        for column, slope in zip(self.own, self.slopes[self.columns.shape[1] :], strict=True):
            log += column * slope
        ratio = self.size * np.exp(-np.clip(log, -20.0, 20.0))
        mean = np.maximum((self.seen * ratio).sum(axis=0) / self.total, 1e-12)
        self.level = np.log(mean)
        pull = self.seen * (ratio / mean - 1.0)
        return np.concatenate([self.columns.T @ pull, np.stack([(pull * column).sum(axis=0) for column in self.own])])

    def common(self) -> None:
        """Slopes that all features share."""
        prior = COMMON_PRIOR * self.seen.shape[1]
        gram = self.gram.sum(axis=0) + prior * np.eye(len(self.slopes))
        slope = np.zeros(len(self.slopes))
        for _ in range(ROUNDS):
            step = np.linalg.solve(gram, self._score().sum(axis=1) - prior * slope)
            slope = slope + np.clip(step, -0.5, 0.5)
            self.slopes = np.repeat(slope[:, None], self.seen.shape[1], axis=1)
            if np.abs(step).max() < CLOSE:
                break
        self._score()

    def deviate(self) -> None:
        """Slopes of each feature's own, drawn towards the common ones."""
        common = self.slopes
        gram = self.gram + PRIOR_PAIRS * np.eye(len(common))
        for _ in range(ROUNDS):
            pull = self._score() - PRIOR_PAIRS * (self.slopes - common)
            step = np.linalg.solve(gram, pull.T[..., None])[..., 0].T
            self.slopes = self.slopes + np.clip(step, -0.5, 0.5)
            if np.abs(step).max() < CLOSE:
                break
        self._score()
