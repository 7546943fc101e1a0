"""Rung 1, the mean of the follow-up: linear predictors of the change, blended by cross-validation.

Every candidate is a linear map from X = [baseline, covariates, gap] to the change, and so is their blend: what is kept,
feature by feature, is a single map. From simple to rich:

    carry_forward            no change
    mean_change              ridge on covariates and gap
    own                      mean_change, and each feature's regression on its own baseline
    self_conditioned         own, and each feature's regression on its surprise given everybody's baselines
    ridge                    own, and a ridge on all baseline features, covariates and gap for what it leaves
    self_conditioned_ridge   self_conditioned, and that ridge for what it leaves
    gap_ridge                the same, in which every coefficient may change with the gap
    blend                    least squares over all of these with weights of zero or more, the rest being carry_forward
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls

from .folds import gains, simplest, standard_errors, unit_averages, unit_sums
from .population import Population
from .regression import LinearMap, RidgePath, ridge_map, with_gap

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
# Those that a cohort may settle for; the others are parts of the blend.
CHOICES = ("carry_forward", "mean_change", "own", "blend")
# Penalties as multiples of the number of pairs, for columns of unit variance.
PENALTIES = np.logspace(-2.5, 2.5, 11)
CONTEXT_PENALTY = 1e-2
SHRINKAGES = (0.1, 0.3, 0.6)
# Pairs' worth of "no dependence" that keep a feature's own coefficients finite.
PRIOR_PAIRS = 5.0
# Against the overall winner, a feature goes its own way only for a gain this many standard errors above zero.
DEVIATION = 2.0
RICH = {"ridge": "own", "self_conditioned_ridge": "self_conditioned", "gap_ridge": "self_conditioned"}

Errors = dict[str, np.ndarray]


@dataclass(eq=False)
class MeanPredictor:
    """The predicted change in scaled units.

    map : from X = [baseline, covariates, gap] to the change.
    chosen : the candidate of each feature;  winner : the candidate of most.
    weights : share of each candidate in the blend;  shrinkage : of the population's covariance.
    gain : per candidate, how much its squared error is below carry-forward's, and the standard error, both over people.
    """

    map: LinearMap
    chosen: list[str]
    winner: str
    weights: dict[str, float]
    shrinkage: float
    gain: dict[str, list[float]] = field(default_factory=dict)

    def change(self, X: np.ndarray) -> np.ndarray:
        """X (N, D + C + 1) -> (N, D), each row independent of the others."""
        return self.map(X)

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__) | {"map": dict(self.map.__dict__)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MeanPredictor:
        return cls(**(state | {"map": LinearMap(**state["map"])}))


def fit_mean(
    X: np.ndarray,
    change: np.ndarray,
    weight: np.ndarray,
    unit: np.ndarray,
    fold: np.ndarray,
    everyone: np.ndarray | None,
) -> tuple[MeanPredictor, np.ndarray]:
    """Choose and fit the mean; also the out-of-fold residuals (P, D) of what was chosen, NaN where unknown.

    X : (P, D + C + 1) without NaN;  change : (P, D), NaN where the later visit was not measured.
    weight, unit, fold : (P,), the fold being that of `unit_folds`.
    everyone : (N, D + C + 1), baselines of all training people, of which self-conditioning learns; None does without.
    Unknown changes count as the feature's mean change when fitting, and not at all when scoring.
    """
    pairs = _Pairs(X, change, weight, fold)
    error: Errors = {"carry_forward": pairs.known}
    shrinkage, surprise = 0.0, None
    if everyone is not None:
        shrinkage, surprise, error["self_conditioned"] = _best_surprise(pairs, everyone)
    maps = {"carry_forward": LinearMap.zero(X.shape[1], change.shape[1])}
    for name in CANDIDATES[1:-1]:
        if (name == "gap_ridge" and np.ptp(X[:, -1]) < 1e-9) or (surprise is None and "self_conditioned" in name):
            continue
        penalty = None
        if name not in error:
            error[name], penalty = pairs.out_of_fold(name, surprise)
        maps[name] = pairs.all_rows().map(name, surprise, penalty)
    weights = _blend(error, pairs)
    error["blend"], maps["blend"] = _cross_blended(error, pairs), _weighted(maps, weights)

    winner, gain = _overall(error, pairs, unit)
    chosen = _per_feature(error, pairs, unit, winner)
    here = {name: np.array([name == other for other in chosen], dtype=float) for name in set(chosen)}
    total = _weighted(maps, here)
    residual = np.sum([error[name] * share for name, share in here.items()], axis=0)
    predictor = MeanPredictor(total, chosen, winner, weights, shrinkage, gain)
    return predictor, np.where(pairs.seen, residual, np.nan)


def _best_surprise(pairs: _Pairs, everyone: np.ndarray) -> tuple[float, LinearMap, np.ndarray]:
    """The shrinkage at which self-conditioning predicts best, the surprise it makes, and its out-of-fold errors."""
    population = Population.fit(everyone, pairs.width)
    surprises = {share: population.surprise(share) for share in SHRINKAGES}
    errors = {share: pairs.out_of_fold("self_conditioned", u)[0] for share, u in surprises.items()}
    best = min(errors, key=lambda share: pairs.loss(errors[share]))
    return best, surprises[best], errors[best]


class _Pairs:
    """Pairs to learn from, with the folds that judge."""

    def __init__(self, X: np.ndarray, change: np.ndarray, weight: np.ndarray, fold: np.ndarray) -> None:
        self.X, self.change, self.weight, self.fold = X, change, weight, fold
        self.width = change.shape[1]
        self.seen = np.isfinite(change)
        self.known = _filled(change, weight)

    def all_rows(self) -> _Rows:
        return _Rows(self.X, self.known, self.weight)

    def loss(self, error: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
        """Weighted sum over the known cells of some rows of their squared errors (rows, D)."""
        return float((self.weight[rows, None] * self.seen[rows] * error**2).sum())

    def out_of_fold(self, name: str, surprise: LinearMap | None) -> tuple[np.ndarray, float | None]:
        """Errors (P, D) of a candidate on people it was not fitted on, and the penalty that made them least."""
        error = np.empty_like(self.known)
        paths = []
        for k in range(self.fold.max() + 1):
            rows = self.fold != k
            # Filled again: the mean over everybody would tell a fold about the people it leaves out.
            fitted = _Rows(self.X[rows], _filled(self.change[rows], self.weight[rows]), self.weight[rows])
            simple = fitted.simple(RICH.get(name, name), surprise)
            error[~rows] = self.known[~rows] - simple(self.X[~rows])
            if name in RICH:
                paths.append((~rows, fitted.path(name, simple)))
        if name not in RICH:
            return error, None
        loss = np.zeros(len(PENALTIES))
        for held, path in paths:
            for place, predicted in enumerate(path.predictions(self._columns(name, held), PENALTIES)):
                loss[place] += self.loss(error[held] - predicted, held)
        best = int(loss.argmin())
        for held, path in paths:
            error[held] -= next(path.predictions(self._columns(name, held), PENALTIES[best:]))
        return error, float(PENALTIES[best])

    def _columns(self, name: str, rows: np.ndarray) -> np.ndarray:
        return with_gap(self.X[rows]) if name == "gap_ridge" else self.X[rows]


class _Rows:
    """Candidates fitted on some pairs."""

    def __init__(self, X: np.ndarray, change: np.ndarray, weight: np.ndarray) -> None:
        self.X, self.change, self.weight = X, change, weight

    def map(self, name: str, surprise: LinearMap | None, penalty: float | None) -> LinearMap:
        simple = self.simple(RICH.get(name, name), surprise)
        if penalty is None:
            return simple
        return simple + ridge_map(self.path(name, simple), penalty, self.X.shape[1])

    def path(self, name: str, simple: LinearMap) -> RidgePath:
        """The ridge over everything, on what the simple part of a candidate leaves."""
        return RidgePath(with_gap(self.X) if name == "gap_ridge" else self.X, self.change - simple(self.X), self.weight)

    def simple(self, name: str, surprise: LinearMap | None) -> LinearMap:
        """`mean_change`, or that and the regression of each feature on one or two columns of its own."""
        inputs, width = self.X.shape[1], self.change.shape[1]
        own = LinearMap(np.eye(inputs, width), np.zeros(width))
        columns = [] if name == "mean_change" else [own]
        if name == "self_conditioned" and surprise is not None:
            columns.append(surprise)
        values = [column(self.X) for column in columns]
        # Covariates and gap are few: a light penalty keeps them stable and leaves them free.
        path = RidgePath(self.X[:, width:], np.concatenate([self.change, *values], axis=1), self.weight)
        W, intercept = path.coefficients(CONTEXT_PENALTY)
        expected = [
            LinearMap(np.concatenate([np.zeros((width, width)), W[:, part]]), intercept[part])
            for part in (slice(width * k, width * (k + 1)) for k in range(len(columns) + 1))
        ]
        total = expected[0]
        if not columns:
            return total
        left = self.change - total(self.X)
        rest = np.stack([value - mean(self.X) for value, mean in zip(values, expected[1:], strict=True)])
        for coefficient, column, mean in zip(self._coefficients(rest, left), columns, expected[1:], strict=True):
            total = total + (column + mean.scaled(-1.0)).scaled(coefficient)
        return total

    def _coefficients(self, rest: np.ndarray, left: np.ndarray) -> np.ndarray:
        """(q, D): regression of left (P, D) on columns rest (q, P, D), feature by feature."""
        share = self.weight / self.weight.sum()
        effective = 1.0 / (share**2).sum()
        gram = np.einsum("p,apd,bpd->dab", share, rest, rest)
        moment = np.einsum("p,apd,pd->da", share, rest, left)
        usual = np.diagonal(gram, axis1=1, axis2=2).mean(axis=0)
        gram += np.diag(PRIOR_PAIRS / effective * usual + 1e-12)
        return np.linalg.solve(gram, moment[..., None])[..., 0].T


def _weighted(maps: dict[str, LinearMap], weights: dict[str, Any]) -> LinearMap:
    total = maps["carry_forward"]
    for name, weight in weights.items():
        total = total + maps[name].scaled(weight)
    return total


def _filled(change: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # Unknown changes (P, D) as the mean change of their feature.
    seen = np.isfinite(change)
    share = np.where(seen, weight[:, None], 0.0)
    average = (share * np.where(seen, change, 0.0)).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-12)
    return np.where(seen, change, average)


def _blend(error: Errors, pairs: _Pairs, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Weights of the candidates from their out-of-fold errors on some rows (stacking, Breiman 1996)."""
    names = [name for name in CANDIDATES[1:-1] if name in error]
    known = pairs.known[rows]
    share = pairs.weight[rows, None] * pairs.seen[rows]
    predicted = [known - error[name][rows] for name in names]
    gram = np.array([[(share * one * other).sum() for other in predicted] for one in predicted])
    moment = np.array([(share * one * known).sum() for one in predicted])
    # Two candidates may coincide; a little on the diagonal then shares between them.
    gram[np.diag_indices_from(gram)] *= 1.0 + 1e-6
    gram[np.diag_indices_from(gram)] += 1e-12 + 1e-12 * np.trace(gram)
    root = np.linalg.cholesky(gram)
    return dict(zip(names, map(float, nnls(root.T, np.linalg.solve(root, moment))[0]), strict=True))


def _cross_blended(error: Errors, pairs: _Pairs) -> np.ndarray:
    """Errors (P, D) of a blend whose weights come from the other folds."""
    blended = np.empty_like(pairs.known)
    for k in range(pairs.fold.max() + 1):
        held = pairs.fold == k
        weights = _blend(error, pairs, ~held)
        known = pairs.known[held]
        blended[held] = known - sum(weight * (known - error[name][held]) for name, weight in weights.items())
    return blended


def _overall(error: Errors, pairs: _Pairs, unit: np.ndarray) -> tuple[str, dict[str, list[float]]]:
    """The simplest choice that no richer one beats by more than one standard error, and every candidate's gain."""
    per_unit = {
        name: unit_averages((pairs.seen * values**2).mean(axis=1), pairs.weight, unit) for name, values in error.items()
    }
    return simplest({name: per_unit[name] for name in CHOICES}), gains(per_unit)


def _per_feature(error: Errors, pairs: _Pairs, unit: np.ndarray, winner: str) -> list[str]:
    """The overall winner, except for features where another candidate is clearly better."""
    seen = pairs.seen * pairs.weight[:, None]
    loss = {name: unit_sums(seen * values**2, unit) for name, values in error.items()}
    best = np.full(pairs.width, DEVIATION)
    chosen = np.full(pairs.width, winner, dtype=object)
    for name, values in loss.items():
        gain = loss[winner] - values
        deviation = standard_errors(gain)
        strength = np.divide(gain.mean(axis=0), deviation, out=np.zeros(len(best)), where=deviation > 0)
        chosen = np.where(strength > best, name, chosen)
        best = np.maximum(strength, best)
    return [str(name) for name in chosen]
