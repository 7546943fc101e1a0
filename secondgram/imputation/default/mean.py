"""Rung 1, the mean of the follow-up: linear predictors of the change, blended by cross-validation.

Every candidate is a linear map from X = [baseline, covariates, gap] to the change, and so is their blend: what is kept
is a single map, whose average is not shrunk where many people tell it. From simple to rich:

    carry_forward            no change
    mean_change              each feature's regression on covariates and gap
    own                      the same, and on its own baseline
    self_conditioned         the same, and on its surprise given everybody's baselines
    ridge                    own, and a ridge on all baseline features, covariates and gap for what it leaves
    self_conditioned_ridge   self_conditioned, and that ridge for what it leaves
    gap_ridge                the same, in which every coefficient may change with the gap
    blend                    least squares over all of these with weights of zero or more, the rest being carry_forward

A candidate is judged on people of whom nothing that it rests on has seen a cell: not the scales, nor the population.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ...cohort.scaling import robust_spread
from ...ops.row_tiles import matmul
from ...ops.thread_pool import in_parallel
from ..folds import gains, unit_averages
from ..regression import LinearMap, RidgePaths, with_gap
from .borrowing import without_scarce
from .design import Design, Fold
from .hierarchy import DEVIATION, fit_hierarchy
from .population import Population, Surprise
from .unbiased import averages, shown_by_many

CANDIDATES = (
    "carry_forward",
    "mean_change",
    "own",
    "self_conditioned",
    "ridge",
    "self_conditioned_ridge",
    "gap_ridge",
    "blend",
)
# Penalties as multiples of the number of pairs, for columns of unit variance.
PENALTIES = np.logspace(-2.5, 2.5, 11)
SHRINKAGES = (0.1, 0.3, 0.6)
RICH = {"ridge": "own", "self_conditioned_ridge": "self_conditioned", "gap_ridge": "self_conditioned"}
# Of a column of X: cells further from the middle, in spreads, count as that far for other features.
FAR = 4.0
# How far the slope of what is beyond differs from that within, a priori.
BEYOND_DEVIATION = 0.3
# Robust standard deviations of the error beyond which one counts less.
FAR_ERROR = 3.0
# How far beyond what was seen of a feature a prediction may go, as a share of the range.
WIDENED = 0.25
# People's worth of `own` alone that the weights of the blend are drawn by.
PRIOR_PEOPLE = 3.0
START = "own"

Errors = dict[str, np.ndarray]
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(eq=False)
class MeanPredictor:
    """The predicted change in scaled units.

    map : from X = [baseline, covariates, gap], cut to `reach` (2, D + C + 1), to the change.
    beyond : (D,), how a feature's change follows what its own baseline has beyond its reach.
    bounds : (2, D), least and largest level that is predicted, unless the baseline itself is beyond.
    chosen : the candidate of each feature;  winner : the candidate of most.
    weights : share of each candidate in the blend;  shrinkage : of the population's covariance.
    gain : per candidate, how much its squared error is below carry-forward's, and the standard error, both over people.
    """

    map: LinearMap
    beyond: np.ndarray
    reach: np.ndarray
    bounds: np.ndarray
    chosen: list[str]
    winner: str
    weights: dict[str, float]
    shrinkage: float
    gain: dict[str, list[float]] = field(default_factory=dict)

    def change(self, X: np.ndarray) -> np.ndarray:
        """X (N, D + C + 1) -> (N, D), each row independent of the others."""
        width = len(self.beyond)
        baseline = X[:, :width]
        low, high = np.minimum(self.bounds[0], baseline), np.maximum(self.bounds[1], baseline)
        return np.clip(baseline + _through(self.map, self.beyond, self.reach, X), low, high) - baseline

    def limits(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) least and largest level that is drawn: as far beyond the bounds again as these are apart."""
        baseline, apart = X[:, : len(self.beyond)], self.bounds[1] - self.bounds[0]
        low, high = np.minimum(self.bounds[0], baseline), np.maximum(self.bounds[1], baseline)
        return low - apart, high + apart

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__) | {"map": dict(self.map.__dict__)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MeanPredictor:
        linear = LinearMap(**state["map"])
        if "reach" not in state:
            # Written before anything was cut.
            inputs, width = linear.W.shape
            state = state | {"beyond": np.zeros(width), "reach": _endless(inputs), "bounds": _endless(width)}
        return cls(**(state | {"map": linear}))


def _endless(width: int) -> np.ndarray:
    return np.stack([np.full(width, -np.inf), np.full(width, np.inf)])


def _through(
    linear: LinearMap, beyond: np.ndarray, reach: np.ndarray, X: np.ndarray, product: Product = matmul
) -> np.ndarray:
    inside = np.clip(X, *reach)
    width = len(beyond)
    return linear(inside, product) + beyond * (X[:, :width] - inside[:, :width])


def fit_means(
    whole: Design, folds: list[Fold], choices: Sequence[str], self_conditioning: bool
) -> dict[str, tuple[MeanPredictor, np.ndarray]]:
    """For each of some candidates its predictor, and its residuals (P, D) out of fold, NaN where unknown.

    folds : every pair of `whole` is judged in one of them.
    """
    names = [
        name
        for name in CANDIDATES[:-1]
        if (name != "gap_ridge" or np.ptp(whole.X[:, -1]) >= 1e-9)
        and (self_conditioning or "self_conditioned" not in RICH.get(name, name))
    ]
    judged = _Judged(whole, folds, names)
    error: Errors = {}
    penalties: dict[str, float | None] = {}
    for name in names:
        error[name], penalties[name] = judged.out_of_fold(name)
    yardstick = _Yardstick.of(whole, error)
    weights = _blend(error, yardstick)
    error["blend"] = _cross_blended(error, yardstick, folds)
    unit = whole.pairs.unit
    many = shown_by_many(whole.change, unit, whole.pairs.wanted)
    for name in set(choices) - {"carry_forward"}:
        error[name] = _unbiased_elsewhere(error[name], whole, folds, many)
    gain = gains({name: unit_averages(yardstick.loss(each), whole.weight, unit) for name, each in error.items()})
    fitted, bounds = judged.everybody, _bounds(whole)
    found = {}
    for choice in choices:
        total, beyond = LinearMap.zero(whole.X.shape[1], whole.width), np.zeros(whole.width)
        for name, weight in weights.items() if choice == "blend" else [(choice, 1.0)]:
            if weight > 0 and name != "carry_forward":
                part, own = fitted.map(name, penalties[name])
                total, beyond = total + part.scaled(weight), beyond + weight * own
        total = _without(total, whole.absent)
        chosen = [choice] * whole.width
        predictor = MeanPredictor(total, beyond, fitted.reach, bounds, chosen, choice, weights, judged.shrinkage, gain)
        if choice != "carry_forward":
            predictor = _unbiased(predictor, whole, many)
        found[choice] = predictor, error[choice]
    return found


def _unbiased(predictor: MeanPredictor, whole: Design, many: np.ndarray) -> MeanPredictor:
    """The same, without a bias of the average change of features (D,) that many people tell."""
    lacks = averages(whole.change - predictor.change(whole.X), whole.weight, whole.pairs.wanted, many)
    linear = predictor.map
    return replace(predictor, map=LinearMap(linear.W, linear.intercept + lacks, linear.by_gap))


def _unbiased_elsewhere(error: np.ndarray, whole: Design, folds: list[Fold], many: np.ndarray) -> np.ndarray:
    """Errors (P, D) out of fold of such a mean, the average of each fold being taken from the others."""
    found = error.copy()
    for fold in folds:
        others = np.ones(len(error), dtype=bool)
        others[fold.rows] = False
        found[fold.rows] -= averages(error[others], whole.weight[others], whole.pairs.wanted[others], many)
    return found


def _without(linear: LinearMap, absent: np.ndarray) -> LinearMap:
    """The map without baselines (D,) that are absent throughout: their fill is a constant, and carries no doubt."""
    if not absent.any():
        return linear
    W = linear.W.copy()
    rows = np.flatnonzero(absent)
    W[rows] = 0.0
    W[rows, rows] = -1.0
    by_gap = linear.by_gap
    if by_gap is not None:
        by_gap = by_gap.copy()
        by_gap[rows] = 0.0
    return LinearMap(W, linear.intercept, by_gap)


def by_feature(
    means: dict[str, tuple[MeanPredictor, np.ndarray]], winner: str, chosen: list[str]
) -> tuple[MeanPredictor, np.ndarray]:
    """The winner, and for some features another of the candidates, with its residuals."""
    predictor, left = means[winner]
    total, beyond, left = predictor.map, predictor.beyond.copy(), left.copy()
    for name in set(chosen) - {winner}:
        other, theirs = means[name]
        here = np.array([each == name for each in chosen])
        total = total.scaled(~here) + other.map.scaled(here)
        beyond[here], left[:, here] = other.beyond[here], theirs[:, here]
    return replace(predictor, map=total, beyond=beyond, chosen=chosen), left


def _bounds(design: Design) -> np.ndarray:
    """(2, D) of the level: what was seen of a feature, widened."""
    baseline = design.everyone[:, : design.width]
    later = design.X[:, : design.width] + design.change
    low = np.fmin(baseline.min(axis=0), np.nanmin(later, axis=0, initial=np.inf))
    high = np.fmax(baseline.max(axis=0), np.nanmax(later, axis=0, initial=-np.inf))
    wider = WIDENED * (high - low)
    return np.stack([low - wider, high + wider])


class _Judged:
    """Candidates out of fold, and of everybody."""

    def __init__(self, whole: Design, folds: list[Fold], names: Sequence[str] = CANDIDATES[:-1]) -> None:
        self.whole, self.folds = whole, folds
        self.shrinkage = 0.0
        self._left: dict[str, list[np.ndarray]] = {}
        each = in_parallel(_Fitted, [fold.design for fold in folds] + [whole])
        self.fitted, self.everybody = each[:-1], each[-1]
        if "self_conditioned" in names:
            self._condition()
        rich = [name for name in names if name in RICH]
        in_parallel(lambda fitted: [fitted.paths(name) for name in rich], [*self.fitted, self.everybody])

    def _condition(self) -> None:
        """Choose the shrinkage of the population's covariance, and condition candidates on the surprise by it."""
        *judged, last = in_parallel(
            lambda each: Population.fit(each.everyone(), each.design.width), [*self.fitted, self.everybody]
        )
        own = self.out_of_fold("own")[0]
        by_share = {}
        for share in SHRINKAGES:
            surprises = in_parallel(partial(Population.surprise, shrinkage=share), judged)
            by_share[share] = self._explained(own, surprises), surprises
        self.shrinkage = max(by_share, key=lambda share: by_share[share][0])
        surprises = by_share[self.shrinkage][1]
        self.fitted = [each.knowing(surprise) for each, surprise in zip(self.fitted, surprises, strict=True)]
        self.everybody = self.everybody.knowing(last.surprise(self.shrinkage))

    def _explained(self, own: np.ndarray, surprises: list[Surprise]) -> float:
        """How much of the squared errors of `own` (P, D) the surprise of a baseline accounts for, a share a feature."""
        u = np.zeros(own.shape)

        def judged(fold: Fold, fitted: _Fitted, surprise: Surprise) -> None:
            u[fold.rows] = surprise.map(np.clip(fold.X, *fitted.reach), np.matmul)

        in_parallel(judged, self.folds, self.fitted, surprises)
        weight = np.where(np.isfinite(own), self.whole.weight[:, None], 0.0)
        # Far ones decide nothing.
        size = np.sqrt((weight * np.nan_to_num(own) ** 2).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12))
        error = np.clip(np.nan_to_num(own), -FAR_ERROR * size, FAR_ERROR * size)
        together, alone = (weight * error * u).sum(axis=0), (weight * u**2).sum(axis=0)
        return float((together**2 / np.maximum(alone * (weight * error**2).sum(axis=0), 1e-12)).mean())

    def left(self, name: str) -> list[np.ndarray]:
        """What a simple candidate leaves of the change of each fold's pairs."""
        if name not in self._left:
            self._left[name] = in_parallel(
                lambda fold, fitted: fold.change - fitted.predicted(name, fold.X), self.folds, self.fitted
            )
        return self._left[name]

    def out_of_fold(self, name: str) -> tuple[np.ndarray, float | None]:
        """Errors (P, D) of a candidate, in units of the whole, NaN where unknown, and the penalty of the least."""
        error = np.full(self.whole.change.shape, np.nan)
        if name == "carry_forward":
            left = [fold.change for fold in self.folds]
        else:
            left = self.left(RICH.get(name, name))
        if name not in RICH:
            for fold, each in zip(self.folds, left, strict=True):
                error[fold.rows] = each * fold.unit
            return error, None

        def losses(fold: Fold, fitted: _Fitted, left: np.ndarray) -> list[float]:
            far = (FAR_ERROR * np.sqrt(fitted.errors(RICH[name]))).astype(np.float32)
            weight = (self.whole.weight[fold.rows, None] * far).astype(np.float32)
            left = left.astype(np.float32)
            predictions = fitted.paths(name).predictions(fitted.columns(name, fold.X), PENALTIES, np.float32)
            return [float(np.nansum(weight * _huber((left - each) / far))) for each in predictions]

        best = int(np.sum(in_parallel(losses, self.folds, self.fitted, left), axis=0).argmin())

        def judged(fold: Fold, fitted: _Fitted, left: np.ndarray) -> None:
            predicted = next(fitted.paths(name).predictions(fitted.columns(name, fold.X), PENALTIES[best:]))
            error[fold.rows] = (left - predicted) * fold.unit

        in_parallel(judged, self.folds, self.fitted, left)
        return error, float(PENALTIES[best])


def _huber(far: np.ndarray) -> np.ndarray:
    size = np.abs(far)
    return np.where(size <= 1.0, 0.5 * size**2, size - 0.5)


class _Fitted:
    """Candidates fitted to a design."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.surprise: Surprise | None = None
        width = design.width
        low = np.minimum(design.everyone.min(axis=0), design.X.min(axis=0))
        high = np.maximum(design.everyone.max(axis=0), design.X.max(axis=0))
        low[:width], high[:width] = np.maximum(low[:width], -FAR), np.minimum(high[:width], FAR)
        low[-1], high[-1] = -np.inf, np.inf
        self.reach = np.stack([low, high])
        self.X = np.clip(design.X, *self.reach)
        self._parts: dict[str, tuple[LinearMap, np.ndarray, np.ndarray]] = {}
        self._paths: dict[str, RidgePaths] = {}
        self._left: dict[str, np.ndarray] = {}

    def knowing(self, surprise: Surprise) -> _Fitted:
        """The same, with candidates that are conditioned on it too."""
        other = copy(self)
        other.surprise = surprise
        other._parts, other._paths, other._left = dict(self._parts), dict(self._paths), dict(self._left)
        return other

    def everyone(self) -> np.ndarray:
        return np.clip(self.design.everyone, *self.reach)

    def map(self, name: str, penalty: float | None) -> tuple[LinearMap, np.ndarray]:
        """The whole candidate, and what it adds beyond the reach of a feature's own baseline."""
        linear, beyond, _ = self._part(RICH.get(name, name))
        if penalty is not None:
            linear = linear + self.paths(name).map(penalty, self.X.shape[1])
        return linear, beyond

    def predicted(self, name: str, X: np.ndarray) -> np.ndarray:
        linear, beyond, _ = self._part(name)
        return _through(linear, beyond, self.reach, X, np.matmul)

    def errors(self, name: str) -> np.ndarray:
        """(D,) error variances in sample."""
        return self._part(name)[2]

    def columns(self, name: str, X: np.ndarray) -> np.ndarray:
        X = np.clip(X, *self.reach)
        return with_gap(X) if name == "gap_ridge" else X

    def paths(self, name: str) -> RidgePaths:
        """The ridge over everything, on what the simple part of a candidate leaves."""
        if name not in self._paths:
            X = with_gap(self.X) if name == "gap_ridge" else self.X
            left = without_scarce(self.left(RICH[name]), self.design.weight)
            self._paths[name] = RidgePaths(X, left, self.design.weight)
        return self._paths[name]

    def left(self, name: str) -> np.ndarray:
        """(P, D) that a simple candidate leaves of the changes it is fitted to, far ones cut."""
        if name not in self._left:
            far = FAR_ERROR * np.sqrt(self.errors(name))
            self._left[name] = np.clip(self.design.change - self._in_sample(name), -far, far)
        return self._left[name]

    def _in_sample(self, name: str) -> np.ndarray:
        linear, beyond, _ = self._part(name)
        value = _through(linear, beyond, self.reach, self.design.X, np.matmul)
        if name == "self_conditioned" and self.surprise is not None:
            value += (self._apart - self.surprise.map(self.X, np.matmul)) * self._coefficients
        return value

    @cached_property
    def _apart(self) -> np.ndarray:
        assert self.surprise is not None
        first = np.clip(self.design.everyone[self.design.first], *self.reach)
        first[self.design.first < 0] = np.nan
        return self.surprise.apart(self.X, first)

    def _part(self, name: str) -> tuple[LinearMap, np.ndarray, np.ndarray]:
        if name not in self._parts:
            self._parts[name] = self._fit(name)
        return self._parts[name]

    def _fit(self, name: str) -> tuple[LinearMap, np.ndarray, np.ndarray]:
        design, width, inputs = self.design, self.design.width, self.X.shape[1]
        share = design.weight / design.weight.sum()
        centre = share @ self.X
        shared = np.concatenate([np.ones((len(self.X), 1)), (self.X - centre)[:, width:]], axis=1)
        usual = np.full(1 + inputs - width, DEVIATION)
        own: list[np.ndarray] = []
        if name != "mean_change":
            baseline = design.X[:, :width]
            own = [baseline - centre[:width], baseline - self.X[:, :width]]
            usual = np.append(usual, [DEVIATION, BEYOND_DEVIATION])
        plain = LinearMap(np.eye(inputs, width), -centre[:width])
        maps = [plain, LinearMap.zero(inputs, width)]
        if name == "self_conditioned":
            assert self.surprise is not None
            apart = self._apart
            middle = share @ apart
            own.append(apart - middle)
            usual = np.append(usual, DEVIATION)
            surprise = self.surprise.map
            maps.append(LinearMap(surprise.W, surprise.intercept - middle))
        fitted = fit_hierarchy(shared, own, design.change, design.weight, usual)
        beta = fitted.coefficients
        W = np.zeros((inputs, width))
        W[width:] = beta[1 : 1 + inputs - width]
        total = LinearMap(W, beta[0] - centre[width:] @ W[width:])
        for column, coefficient in zip(maps, beta[1 + inputs - width :], strict=False):
            total = total + column.scaled(coefficient)
        # A column that is cut has two slopes, within its reach and beyond.
        beyond = beta[1 + inputs - width : 3 + inputs - width].sum(axis=0)
        if name == "self_conditioned":
            self._coefficients = beta[-1]
        return total, beyond, fitted.error


def _usual(error: np.ndarray) -> np.ndarray:
    """(D,) robust standard deviations about zero of errors (P, D), NaN where unknown."""
    scale = robust_spread(np.abs(error))
    return np.maximum(np.where(np.isfinite(scale) & (scale > 0), scale, 1.0), 1e-9)


@dataclass(frozen=True, eq=False)
class _Yardstick:
    """What errors are measured by: cells far off count less, and features as CRPS counts them.

    share : (P, D), zero where unknown;  carried : (P, D), errors of carry-forward.
    """

    share: np.ndarray
    carried: np.ndarray

    @classmethod
    def of(cls, whole: Design, error: Errors) -> _Yardstick:
        carried = error["carry_forward"]
        seen = np.isfinite(carried)
        size = np.abs(np.where(seen, error[START], 0.0))
        scale = _usual(error[START])
        far = np.where(seen, size / scale, 0.0) / FAR_ERROR
        # A large change has leverage, too.
        far = np.maximum(far, 1.0) * np.maximum(np.where(seen, np.abs(carried), 0.0) / _usual(carried) / FAR_ERROR, 1.0)
        return cls(np.where(seen, whole.weight[:, None] / far / scale, 0.0), carried)

    def loss(self, error: np.ndarray) -> np.ndarray:
        """(P,) average over features."""
        return (self.share * np.where(self.share > 0, error, 0.0) ** 2).mean(axis=1)


def _blend(error: Errors, yardstick: _Yardstick, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Weights of the candidates from their out-of-fold errors on some rows (stacking, Breiman 1996)."""
    names = [name for name in CANDIDATES[1:-1] if name in error]
    share = yardstick.share[rows]
    known = np.where(share > 0, yardstick.carried[rows], 0.0)
    predicted = [np.where(share > 0, known - error[name][rows], 0.0) for name in names]
    gram = np.array([[(share * one * other).sum() for other in predicted] for one in predicted])
    moment = np.array([(share * one * known).sum() for one in predicted])
    # Towards `own` alone, as if a few more people had said so.
    prior = PRIOR_PEOPLE / max(len(known), 1) * np.diag(gram)
    gram[np.diag_indices_from(gram)] += prior
    moment[names.index(START)] += prior[names.index(START)]
    # Two candidates may coincide; a little on the diagonal then shares between them.
    gram[np.diag_indices_from(gram)] *= 1.0 + 1e-6
    gram[np.diag_indices_from(gram)] += 1e-12 + 1e-12 * np.trace(gram)
    root = np.linalg.cholesky(gram)
    return dict(zip(names, map(float, nnls(root.T, np.linalg.solve(root, moment))[0]), strict=True))


def _cross_blended(error: Errors, yardstick: _Yardstick, folds: list[Fold]) -> np.ndarray:
    """Errors (P, D) of a blend whose weights come from the other folds."""
    blended = np.full_like(yardstick.carried, np.nan)
    for fold in folds:
        rows = np.ones(len(blended), dtype=bool)
        rows[fold.rows] = False
        weights = _blend(error, yardstick, rows)
        known = yardstick.carried[fold.rows]
        blended[fold.rows] = known - sum(weight * (known - error[name][fold.rows]) for name, weight in weights.items())
    return blended
