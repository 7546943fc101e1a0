"""Cumulative probit models: distributions of a feature whose values, or some of them, have a chance of their own.

    P(Y <= y | w) = Phi((H(y) - w . beta) / exp(w . delta))

H rises in steps at atoms and levels, and piecewise linearly between them: any support is kept, whatever the mean is
(McCullagh 1980; for continuous values Liu et al., Statistics in Medicine 36, 2017). A priori H is a straight line, so
that few people tell of a normal distribution, and many of any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri

# Bins of values at most, and the fewest values of a bin.
BINS, FEWEST = 24, 5
# Standard deviation, a priori, of the logarithm of the slope of H in a bin about the common one.
BEND_PRIOR = 0.5
# Standard deviations, a priori, of beta: of a predictor of unit variance, and of others; and of delta.
SLOPE_PRIOR, OTHER_PRIOR, SCALE_PRIOR = 5.0, 1.0, 0.3
LOG_ROOT = 0.5 * np.log(2.0 * np.pi)
# Farthest that a standardised predictor is trusted, in standard deviations beyond the training people's.
BEYOND = 1.0


@dataclass(eq=False)
class Cumulative:
    """Of one feature, whose values are scores here: a monotone function of its units.

    edges (K,) : scores at which a bin of values ends, K + 1 bins;  thresholds (K,) : H there;  slope : of H beyond.
    atoms : whether the first and the last bin are one value each.
    centre, size (q,) : of the predictors;  reach (2, q) : least and largest of them;  beta, delta (q,).
    doubt : by how much wider a prediction is, because few rows leave the model itself in doubt.
    """

    edges: np.ndarray
    thresholds: np.ndarray
    slope: float
    atoms: tuple[bool, bool]
    centre: np.ndarray
    size: np.ndarray
    reach: np.ndarray
    beta: np.ndarray
    delta: np.ndarray
    doubt: float

    def predicted(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Location and scale (N,) on the scale of H, of predictors w (N, q); NaN counts as usual."""
        scaled = (np.clip(np.where(np.isnan(w), self.centre, w), *self.reach) - self.centre) / self.size
        # Sums of a row by itself, in one order.
        location, log = np.zeros(len(w)), np.zeros(len(w))
        for column, slope, turn in zip(scaled.T, self.beta, self.delta, strict=True):
            location, log = location + column * slope, log + column * turn
        return location, np.exp(log) * self.doubt

    def scores(self, z: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Scores of normals z (..., N); -inf and inf stand for the values of the atoms."""
        u = location + scale * z
        x, y = self.thresholds, self.edges
        beyond = np.minimum(u - x[0], 0.0) + np.maximum(u - x[-1], 0.0)
        value = np.interp(u, x, y) + beyond / self.slope
        if self.atoms[0]:
            value = np.where(u < x[0], -np.inf, value)
        if self.atoms[1]:
            value = np.where(u >= x[-1], np.inf, value)
        return np.asarray(value)

    def normals(
        self, low: np.ndarray, high: np.ndarray, location: np.ndarray, scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chances (N,) of less than a value, and of that or less; low, high (N,) : scores where the value begins, ends.

        These are one score for a value of no chance of its own.
        """
        return tuple(  # type: ignore[return-value]
            ndtr((self._height(ends, upper) - location) / scale) for ends, upper in ((low, False), (high, True))
        )

    def _height(self, score: np.ndarray, upper: bool) -> np.ndarray:
        x, y = self.edges, self.thresholds
        beyond = np.minimum(score - x[0], 0.0) + np.maximum(score - x[-1], 0.0)
        value = np.interp(score, x, y) + beyond * self.slope
        if self.atoms[0]:
            value = np.where(score < x[0], y[0] if upper else -np.inf, value)
        if self.atoms[1]:
            value = np.where(score > x[-1], np.inf if upper else y[-1], value)
        return np.asarray(value)

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__) | {"atoms": list(self.atoms)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Cumulative:
        return cls(**state | {"atoms": tuple(state["atoms"])})


def bins_of(scores: np.ndarray, atoms: tuple[bool, bool], steps: bool) -> np.ndarray:
    """(K,) edges between bins of about as many scores (n,) each, those at an atom in a bin of their own.

    steps : scores are those of levels, and an edge is midway between two of them.
    """
    levels, counts = np.unique(scores, return_counts=True)
    first, last = int(atoms[0]), len(levels) - int(atoms[1])
    inner, count = levels[first:last], counts[first:last]
    most = BINS - first - int(atoms[1])
    each = max(FEWEST if not steps else 1, count.sum() / most) if len(inner) else 1.0
    edges = []
    if first:
        # Of continuous values above an atom, half of the least is as small as any that is expected.
        edges.append((levels[0] + levels[1]) / 2.0 if len(levels) > 1 else levels[0])
    filled, left = 0.0, float(count.sum())
    for place in range(len(inner) - 1):
        filled, left = filled + count[place], left - count[place]
        if filled >= each and left >= (1.0 if steps else FEWEST):
            edges.append((inner[place] + inner[place + 1]) / 2.0)
            filled = 0.0
    if atoms[1] and len(levels) > first + 1:
        edges.append((levels[-2] + levels[-1]) / 2.0)
    return np.unique(edges)


def fit_cumulative(
    scores: np.ndarray,
    w: np.ndarray,
    weight: np.ndarray,
    usual: np.ndarray,
    atoms: tuple[bool, bool],
    steps: bool,
) -> Cumulative:
    """Fit to scores (n,) with predictors w (n, q), NaN where unknown, the first of them the mean; weight (n,).

    usual (m,) : scores of everybody at any visit, which say what values there are.
    """
    edges = bins_of(usual, atoms, steps)
    if not len(edges):
        edges = np.array([float(np.median(usual))])
    centre = np.nanmean(w, axis=0)
    filled = np.where(np.isnan(w), centre, w)
    spread = filled.std(axis=0)
    size = np.ones(len(centre))
    size[0] = spread[0] if spread[0] > 1e-9 else 1.0
    W = np.where(spread > 1e-9, (filled - centre) / size, 0.0)
    reach = np.stack([filled.min(axis=0) - BEYOND * size, filled.max(axis=0) + BEYOND * size])
    # A score at an edge belongs to the bin above it, but for an atom's.
    place = np.searchsorted(edges, scores, side="right")
    rows = weight / (weight**2).sum() * weight.sum()
    thresholds, slope, beta, delta = _most_likely(place, W, rows, edges, float(np.std(usual)))
    count = rows.sum()
    doubt = 1.0 + (1.6449**2 + 1.0) / (4.0 * max(count, 5.0))
    return Cumulative(edges, thresholds, slope, atoms, centre, size, reach, beta, delta, float(doubt))


def _most_likely(
    place: np.ndarray, W: np.ndarray, rows: np.ndarray, edges: np.ndarray, size: float
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Thresholds, slope, beta and delta of the largest posterior.

    place (n,) : the bin of each row;  W (n, q), rows (n,) : predictors and weights;  size : SD of the scores.
    """
    count, columns = len(edges), W.shape[1]
    wide = np.diff(edges)
    tight = 1.0 / np.where(np.arange(columns) == 0, SLOPE_PRIOR, OTHER_PRIOR) ** 2
    share = np.bincount(place, rows, count + 1) + 0.5
    below = float(np.cumsum(share)[0] / share.sum())
    # First threshold, log slope, bends, beta, delta.
    bend, first_beta, first_delta = 2, 1 + count, 1 + count + columns

    def unpacked(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        step = wide * np.exp(p[1] + p[bend:first_beta])
        thresholds = p[0] + np.concatenate([[0.0], np.cumsum(step)])
        return thresholds, step, p[first_beta:first_delta], p[first_delta:]

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        thresholds, step, beta, delta = unpacked(p)
        ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
        mu, sigma = W @ beta, np.exp(np.clip(W @ delta, -3.0, 3.0))
        low, high = (ends[place] - mu) / sigma, (ends[place + 1] - mu) / sigma
        # By the tail in which the bin is, so that small chances keep their digits.
        flip = low > 0
        one, two = np.where(flip, -high, low), np.where(flip, -low, high)
        log = log_ndtr(two) + np.log(-np.expm1(np.minimum(log_ndtr(one) - log_ndtr(two), -1e-12)))

        def over(ends: np.ndarray) -> np.ndarray:
            # Density over the chance, zero at infinite ends.
            ratio = np.exp(np.minimum(-0.5 * ends**2 - LOG_ROOT - log, 50.0))
            return np.where(np.isfinite(ends), ratio, 0.0)

        at_low, at_high = over(low), over(high)
        finite = [np.where(np.isfinite(end), end, 0.0) for end in (low, high)]
        by_high, by_low = rows * at_high / sigma, rows * at_low / sigma
        threshold = np.bincount(place, by_high, count + 1)[:count] - np.bincount(place, by_low, count + 1)[1:]
        by_step = np.cumsum(threshold[::-1])[::-1][1:] * step
        turn = rows * (at_high * finite[1] - at_low * finite[0])
        bends = p[bend:first_beta]
        gradient = np.concatenate(
            [
                [threshold.sum(), by_step.sum()],
                by_step - bends / BEND_PRIOR**2,
                -W.T @ (by_high - by_low) - beta * tight,
                -W.T @ turn - delta / SCALE_PRIOR**2,
            ]
        )
        prior = beta**2 @ tight + (delta**2).sum() / SCALE_PRIOR**2 + (bends**2).sum() / BEND_PRIOR**2
        return float(prior / 2.0 - rows @ log), -gradient

    first = np.zeros(first_delta + columns)
    first[0], first[1] = ndtri(np.clip(below, 0.01, 0.99)), -np.log(max(size, 1e-12))
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 500, "maxcor": 20})
    thresholds, _, beta, delta = unpacked(found.x)
    return thresholds, float(np.exp(found.x[1])), beta, delta
